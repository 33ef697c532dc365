"""One row: a fresh environment is made, npas is installed in it, tried, and thrown away."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.installs.rows import ROOT, Row

CHECK = Path(__file__).with_name("check.py")
#: Longest time of a step, in seconds; a CUDA build of PyTorch is several GB.
LONGEST = 1500
#: Packages whose versions are kept in a row: what npas requires, and what its extras name.
PACKAGES = (
    *("torch", "triton", "numpy", "networkx", "rich", "safetensors", "scikit-learn"),
    *("matplotlib", "pillow", "shtab", "transformers", "timm", "torchvision"),
    *("accelerate", "lightning", "onnx", "onnxruntime", "onnxscript", "peft", "torchao"),
)


class StepError(Exception):
    """A step of a row that failed."""


@dataclass(frozen=True, slots=True)
class Built:
    """What is installed: the wheel, and the source distribution, as a file and unpacked."""

    wheel: Path
    sdist: Path
    folder: Path

    def requirement(self, row: Row) -> list[str]:
        """Return what pip is told to install for a row."""
        path = {"wheel": self.wheel, "sdist": self.sdist, "folder": self.folder}[row.source]
        extras = f"[{','.join(row.extras)}]" if row.extras else ""
        if row.source == "folder":
            return ["-c", str(self.folder / "constraints.txt"), f"{path}{extras}"]
        return [f"{path}{extras}"]


def build(scratch: Path) -> Built:
    """Build the wheel and the source distribution of this checkout.

    Raises:
        StepError: if hatchling cannot.
    """
    code = (
        "import sys; from hatchling import build; "
        "build.build_wheel(sys.argv[1]); build.build_sdist(sys.argv[1])"
    )
    _run([sys.executable, "-c", code, str(scratch)], ROOT)
    (wheel,), (sdist,) = scratch.glob("*.whl"), scratch.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (folder,) = (scratch / "sdist").iterdir()
    return Built(wheel, sdist, folder)


def measure(row: Row, built: Built, interpreter: str) -> dict[str, Any]:
    """Make a row's environment, and return what came of it.

    Args:
        row: which environment.
        built: what is installed.
        interpreter: path of a Python of the row's version.
    """
    found: dict[str, Any] = {
        "name": row.name,
        "note": row.note,
        "asked": [f"npas[{','.join(row.extras)}]" if row.extras else "npas", *row.pins],
        "source": row.source,
        "removed": list(row.removed),
    }
    with tempfile.TemporaryDirectory(prefix="npas-install-") as scratch:
        place = Path(scratch, "environment")
        try:
            _run([interpreter, "-m", "venv", str(place)], Path(scratch))
            python = str(place / "bin" / "python")
            start = time.perf_counter()
            pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-cache-dir"]
            _run([*pip, "install", *built.requirement(row), *row.pins], Path(scratch))
            found["install_s"] = round(time.perf_counter() - start, 1)
            if row.removed:
                _run([*pip, "uninstall", "-y", *row.removed], Path(scratch))
            found |= _describe(python)
            found["size_mb"] = round(_size(place) / 1e6)
            found["checks"] = _check(python, Path(scratch))
            for command in row.commands:
                line = command.format(bin=place / "bin").split()
                shown = command.replace("{bin}/", "")
                found["checks"][shown] = _outcome(line, built.folder)
        except StepError as error:
            found["error"] = str(error)
    checks = found.get("checks", {})
    failed = [name for name, text in checks.items() if text.startswith("failed")]
    found["works"] = bool(checks) and not failed and "error" not in found
    return found


def _describe(python: str) -> dict[str, Any]:
    code = (
        "import json, platform, importlib.metadata as m; "
        "print(json.dumps([platform.python_version(), "
        "{d.metadata['Name'].lower(): d.version for d in m.distributions()}]))"
    )
    version, packages = json.loads(_run([python, "-c", code], Path("/")))
    return {
        "python": version,
        "versions": {name: packages[name] for name in PACKAGES if name in packages},
        "packages": len(packages),
    }


def _check(python: str, scratch: Path) -> dict[str, str]:
    """Run the checks in an empty folder that the checkout cannot be seen from."""
    empty = scratch / "empty"
    empty.mkdir()
    shutil.copy(CHECK, scratch / "check.py")
    start = time.perf_counter()
    found = json.loads(_run([python, str(scratch / "check.py")], empty).splitlines()[-1])
    print(f"  checks took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return found


def _outcome(command: Sequence[str], folder: Path) -> str:
    try:
        _run(command, folder)
    except StepError as error:
        return f"failed: {error}"
    return "ok"


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a step, and return its standard output.

    Raises:
        StepError: with the end of what it said, if it fails.
    """
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: text for name, text in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"{type(error).__name__}: {error}"[:600]) from error
    if done.returncode:
        said = " ".join(f"{done.stdout}\n{done.stderr}".split())
        raise StepError(f"{Path(command[0]).name}: exit code {done.returncode}: {said[-600:]}")
    return done.stdout


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder; a link counts as nothing."""
    files = (path for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(path.stat().st_size for path in files)
