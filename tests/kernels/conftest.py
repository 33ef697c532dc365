"""Parametrise the tests that take a ``sample`` with the samples of their class's op."""

import pytest

from npas.kernels.samples import SAMPLES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sample" in metafunc.fixturenames and metafunc.cls is not None:
        samples = SAMPLES[metafunc.cls.name].samples
        metafunc.parametrize("sample", samples, ids=[sample.label for sample in samples])
