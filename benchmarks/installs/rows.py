"""The environments that are made: one row each."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The oldest PyTorch that npas takes.
TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Row:
    """An environment.

    Attributes:
        name: of the row.
        extras: of npas, as ``npas[...]`` names them.
        pins: requirements beside npas, for one resolution with it.
        python: version of the interpreter.
        source: ``"wheel"``, ``"sdist"``, or ``"folder"``: what is in the source distribution,
            installed as ``pip install .[...]`` does, with its constraints.
        removed: packages that are uninstalled afterwards.
        commands: run in the unpacked source distribution after the checks; ``{bin}`` is the
            environment's folder of programs.
        note: what the row is for.
    """

    name: str
    note: str
    extras: tuple[str, ...] = ()
    pins: tuple[str, ...] = (TORCH,)
    python: str = "3.11"
    source: str = "wheel"
    removed: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def lower_bounds(extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return every lower bound of pyproject.toml as a pin: ``numpy>=1.26`` is ``numpy==1.26``.

    Args:
        extras: whose requirements are added to npas's own.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    found = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,.*)?", line) for line in wanted)
    return tuple(f"{match[1]}=={match[2]}" for match in found if match is not None)


# Each extra once; what needs torchvision is apart, since that fits one build of PyTorch.
_MODELS = ("hf", "timm", "torchvision")
_SMALL = ("bench", "completion", "plot")

ROWS = (
    Row("minimal", "npas alone"),
    Row("no-triton", "Triton uninstalled", removed=("triton",)),
    Row("sdist", "built from the source distribution by pip", source="sdist"),
    Row("small extras", "three extras of one package each", _SMALL),
    Row("models", "libraries of models, and the PyTorch that pip chooses", _MODELS, ()),
    Row("interop", "libraries that the tests run npas with", ("interop",)),
    Row(
        "development",
        "what `make lint` and `make test` install; ruff and two files of tests",
        ("dev", "test"),
        source="folder",
        commands=(
            "{bin}/ruff check",
            "{bin}/ruff format --check",
            "{bin}/python -m pytest -q tests/test_plan.py tests/test_packaging.py",
        ),
    ),
    Row(
        "site",
        "what `make docs` installs, and the site",
        ("docs",),
        source="folder",
        commands=("{bin}/mkdocs build --quiet --strict",),
    ),
    Row(
        "oldest",
        "every lower bound as a pin; the Triton that PyTorch 2.13 was built with",
        ("interop", *_SMALL),
        (*lower_bounds(("hf", "interop", *_SMALL)), "triton==3.7.1"),
    ),
    Row("newest", "the newest PyTorch", pins=("torch>=2.14",)),
    Row("Python 3.12", "the oldest PyTorch, CUDA build", python="3.12"),
    Row("Python 3.13", "the newest PyTorch", pins=("torch>=2.14",), python="3.13"),
)
