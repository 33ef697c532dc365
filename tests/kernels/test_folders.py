"""Every op has all its pieces."""

from pathlib import Path

import pytest

import npas.kernels
from npas.kernels.samples import SAMPLES

pytestmark = pytest.mark.pure
KERNELS = Path(npas.kernels.__file__).parent
TESTS = Path(__file__).parent
FILES = ("__init__.py", "reference.py", "op.py")
# What a sample must cover in each op: a bank of one element, and ragged or large ones.
BANK_SIZES = (1, 15, 63, 1000, 4097)


def missing(kernels: Path, tests: Path, sampled: set[str]) -> list[str]:
    """Name what an op's folder lacks, for each folder, and samples without a folder."""
    ops = {path.name for path in kernels.iterdir() if path.is_dir() and path.name[0] != "_"}
    lacks = [f"{op}/{file}" for op in ops for file in FILES if not (kernels / op / file).exists()]
    lacks += [f"test_{op}.py" for op in ops if not (tests / f"test_{op}.py").exists()]
    lacks += [f"samples of {op}" for op in ops ^ sampled]
    return sorted(lacks)


def test_nothing_is_missing() -> None:
    assert missing(KERNELS, TESTS, set(SAMPLES)) == []
    assert set(npas.kernels.__all__) == set(SAMPLES)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "scatter").mkdir()
    (tmp_path / "scatter" / "op.py").touch()
    assert missing(tmp_path, TESTS, {"combine"}) == [
        "samples of combine",
        "samples of scatter",
        "scatter/__init__.py",
        "scatter/reference.py",
        "test_scatter.py",
    ]


@pytest.mark.parametrize("op", SAMPLES)
def test_samples_are_ragged(op: str) -> None:
    sizes = {size for s in SAMPLES[op].samples for size in (s.sizes[0], *_integers(s.constants))}
    assert sizes.issuperset(BANK_SIZES), f"{op}: no sample with {set(BANK_SIZES) - sizes}"
    labels = [sample.label for sample in SAMPLES[op].samples]
    assert len(labels) == len(set(labels))


def _integers(constants: tuple[object, ...]) -> list[int]:
    flat = [v for c in constants for v in (c if isinstance(c, list) else [c])]
    return [value for value in flat if isinstance(value, int)]
