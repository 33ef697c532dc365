"""What is installed: the package, all of it and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import npas
from npas.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the source distribution, made as pip makes them."""
    folder = tmp_path_factory.mktemp("built")
    code = (
        "import sys; from hatchling import build; "
        "print(build.build_wheel(sys.argv[1])); print(build.build_sdist(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, timeout=120)
    return folder


def test_a_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"npas-{npas.__version__}.dist-info"
    own = {name for name in names if not name.startswith(f"{info}/")}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "npas").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert own == expected
    assert {"npas/py.typed", "npas/html/assets/page.css"} < own
    assert {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"} < names


def test_a_source_distribution_builds_what_it_is_made_of(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "npas/__init__.py"} < names
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {".venv", "build", "demo", ".git", ".ci", "dist"}
    assert not [name for name in names if name.endswith((".whl", ".gz", ".so", ".zip"))]
    assert archive.stat().st_size < 4 * 2**20


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(f"npas {npas.__version__}, python 3.")
