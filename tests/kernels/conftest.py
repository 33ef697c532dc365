"""Parametrise the tests that take a ``sample`` with the samples of their class's op."""

import math
from collections.abc import Iterator

import pytest
import torch

from npas.kernels.launch import Launch
from npas.kernels.samples import SAMPLES
from tests.kernels.kernel_tests import Launches


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sample" in metafunc.fixturenames and metafunc.cls is not None:
        limit = getattr(metafunc.function, "at_most", math.inf)
        samples = [s for s in SAMPLES[metafunc.cls.name].samples if sum(s.sizes) <= limit]
        metafunc.parametrize("sample", samples, ids=[sample.label for sample in samples])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Run small tensors on one thread: on two busy cores two take 60 s for these tests, not 26."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Record the kernels that run, and break one on request."""
    found = Launches()
    monkeypatch.setattr(Launch, "run", lambda launch: found.run(launch))
    return found
