import copy
from typing import Any

import pytest
import torch
from torch import nn

import npas
from tests.interop.nets import WAYS, convert, library

quantization: Any = library("torchao.quantization")

pytestmark = pytest.mark.pure

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("way", WAYS)
def test_a_materialised_model_is_quantised_to_int8(way: str) -> None:
    torch.manual_seed(0)
    module = convert(Mlp(), way, (X,), budget=0.5).eval()
    dense: Any = npas.materialize(module)
    expected = dense(X)
    quantised = copy.deepcopy(dense)
    quantization.quantize_(quantised, quantization.Int8WeightOnlyConfig(version=2))
    assert type(quantised.up.weight) is not nn.Parameter
    found = quantised(X)
    assert not torch.equal(found, expected)
    error = (found - expected).detach().norm() / expected.detach().norm()
    assert float(error) < 0.02
    # The compiled model shares nothing with what was quantised.
    torch.testing.assert_close(module(X), expected)
