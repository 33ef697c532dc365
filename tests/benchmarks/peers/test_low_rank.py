"""Two thin products are the layer with their product as weight."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError
from benchmarks.peers.base import n_params
from benchmarks.peers.low_rank import LowRank, build, low_rank
from tests.benchmarks.peers.networks import Spec, doubles, wide

pytestmark = pytest.mark.pure


def product(layer: LowRank) -> torch.Tensor:
    """U V, an element at a time."""
    u, v = layer.u.tolist(), layer.v.flatten(1).tolist()
    weight = [
        [sum(u[o][r] * v[r][i] for r in range(len(v))) for i in range(len(v[0]))]
        for o in range(len(u))
    ]
    return torch.tensor(weight, dtype=torch.float64).view(len(u), *layer.v.shape[1:])


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1, "dilation": 2}])
def test_a_convolution(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    with doubles():
        conv = nn.Conv2d(3, 6, (3, 2), **options)
    layer, x = LowRank(conv, 2), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, product(layer), conv.bias, **options)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_linear_layer() -> None:
    torch.manual_seed(0)
    with doubles():
        linear = nn.Linear(5, 4)
    layer, x = LowRank(linear, 3), torch.randn(2, 7, 5, dtype=torch.float64)
    expected = x @ product(layer).t() + linear.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_layer_keeps_its_weight_where_a_product_is_no_smaller() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    built = low_rank(module, 0.5)
    # 4 x (8 + 8) = 64 is not below 64; 1 x (8 + 2) is below 16.
    assert [type(m) for m in module] == [nn.Linear, LowRank]
    assert built.n_params == 64 + 8 + 10 + 2


def test_one_share_of_the_rank_for_all() -> None:
    with torch.device("meta"):
        module = low_rank(wrn(16, 2), 0.25).module
    for layer in module.modules():
        if isinstance(layer, LowRank):
            out, *rest = layer.u.shape[0], *layer.v.shape[1:]
            full = min(out, torch.Size(rest).numel())
            assert layer.v.shape[0] == layer.u.shape[1] == max(1, full // 4)


@pytest.mark.parametrize("budget", [20_000, 123_456, 400_000, 600_000])
def test_the_largest_share_that_fits(budget: int) -> None:
    """Counted again from shapes, with exact fractions."""
    with torch.device("meta"):
        module = wrn(16, 2)
        built = build(wide(16, 2), budget)
    kept = sum(p.numel() for p in module.parameters() if p.dim() == 1)
    shapes = [(p.shape[0], p[0].numel()) for p in module.parameters() if p.dim() > 1]

    def count(share: Fraction) -> int:
        ranks = [max(1, math.floor(share * min(shape))) for shape in shapes]
        thin = (r * (a + b) for r, (a, b) in zip(ranks, shapes, strict=True))
        return kept + sum(min(n, a * b) for n, (a, b) in zip(thin, shapes, strict=True))

    shares = {Fraction(r, min(s)) for s in shapes for r in range(1, min(s) + 1)}
    assert built.n_params == max(n for n in map(count, shares) if n <= budget)


def test_at_full_rank_nothing_changes() -> None:
    with torch.device("meta"):
        dense = n_params(wrn(16, 2))
        assert build(wide(16, 2), 10**9).n_params == dense


def test_a_transformer() -> None:
    spec = Spec("decoder", lambda: transformer(vocab=50, dim=16, depth=2, heads=2, max_len=8))
    with torch.device("meta"):
        dense = n_params(spec.make())
        built = build(spec, dense // 2)
        assert built.module(torch.zeros(2, 8, dtype=torch.long)).shape == (2, 8, 50)
    assert 0.9 * dense // 2 < built.n_params <= dense // 2


def test_a_tied_layer_keeps_its_weight() -> None:
    def make() -> nn.Module:
        module = nn.Sequential(nn.Embedding(30, 12), nn.Linear(12, 12), nn.Linear(12, 30))
        module.get_submodule("2").register_parameter("weight", module.get_parameter("0.weight"))
        return module

    spec = Spec("tied", make)
    dense = n_params(make())
    built = build(spec, dense - 10)
    assert dense - 24 <= built.n_params <= dense - 10  # a rank of the one layer is 24
    assert built.module.get_parameter("2.weight") is built.module.get_parameter("0.weight")


def test_layers_start_as_wide_as_they_were() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 96, 3)
    layer = LowRank(conv, 24)
    made = (layer.u @ layer.v.flatten(1)).std().item()
    assert made == pytest.approx(conv.weight.std().item(), rel=0.1)


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="table has no Conv2d or Linear"):
        build(Spec("table", lambda: nn.Sequential(nn.Embedding(3, 3))), 100)
