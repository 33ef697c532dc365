"""What all tests share: the option that rewrites golden files."""

import os

# The kernels of the `interpret` tier run in Triton's interpreter, which is chosen when Triton is
# imported. What needs its compiler runs in a process of its own.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch

# The tests' tensors are tiny: threads that wait for each other cost ten times what they compute.
torch.set_num_threads(1)

_OPTION = "--regenerate-goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        _OPTION,
        action="store_true",
        help="write tests/golden/*.txt anew instead of comparing; refused where CI is set",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(_OPTION) and os.environ.get("CI"):
        raise pytest.UsageError(f"{_OPTION} would make every golden test pass; CI must not use it")


@pytest.fixture(scope="session")
def regenerate_goldens(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared with."""
    return bool(request.config.getoption(_OPTION))
