"""LCNN against its equations: the sparse tensor and the lookups are one weight, one output."""

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError
from benchmarks.peers.lcnn import (
    Extracted,
    Lookup,
    build,
    inference_macs,
    lcnn,
    lookup,
    penalty,
    training_macs,
)
from tests.benchmarks.peers.networks import doubles, macs, mlp, wide

pytestmark = pytest.mark.pure


def conv(**options: Any) -> tuple[nn.Conv2d, Lookup]:
    torch.manual_seed(0)
    with doubles():
        layer = nn.Conv2d(3, 5, (3, 2), **options)
        return layer, Lookup(layer, 4, threshold=0.3)


def filters(found: Extracted) -> list[list[list[list[float]]]]:
    """W of the paper's equation, an element at a time: [n][m][r][c]."""
    d, i, c = found.dictionary.tolist(), found.index.tolist(), found.coefficient.tolist()
    n, s, height, width = found.index.shape
    weight = torch.zeros(n, len(d[0]), height, width).tolist()
    places = itertools.product(range(n), range(s), range(height), range(width))
    for f, t, y, x in places:
        for channel, value in enumerate(d[i[f][t][y][x]]):
            weight[f][channel][y][x] += c[f][t][y][x] * value
    return weight


def test_lookups_are_the_weight_that_is_trained() -> None:
    _, layer = conv()
    found = lookup(layer)
    expected = torch.tensor(filters(found), dtype=torch.float64)
    torch.testing.assert_close(layer.weight_of(), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.weight(), expected, rtol=1e-13, atol=1e-13)
    # The case has zeros, and filters with fewer lookups than others.
    counts = (layer.sparsified() != 0).sum(1)
    assert counts.min() < counts.max() == found.index.shape[1]
    assert found.n_lookups == counts.sum() < layer.sparse.numel()


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}])
def test_the_output_is_a_convolution_with_that_weight(options: dict[str, int]) -> None:
    original, layer = conv(**options)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    weight = torch.tensor(filters(lookup(layer)), dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, weight, original.bias, **options)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_an_output_by_lookups_alone() -> None:
    """S is the input times the dictionary; a pixel sums few channels of it, chosen by I."""
    _, layer = conv()
    found = lookup(layer)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    s = torch.einsum("km,mhw->khw", found.dictionary, x[0]).tolist()
    index, coefficient = found.index.tolist(), found.coefficient.tolist()
    bias = [0.0] * 5 if layer.bias is None else layer.bias.tolist()
    output = layer(x)[0].tolist()
    for f, y, z in itertools.product(range(5), range(2), range(3)):
        total = bias[f]
        for t, r, c in itertools.product(*map(range, found.index.shape[1:])):
            total += coefficient[f][t][r][c] * s[index[f][t][r][c]][y + r][z + c]
        assert output[f][y][z] == pytest.approx(total, abs=1e-12)


def test_a_linear_layer_is_one_pixel() -> None:
    torch.manual_seed(0)
    with doubles():
        original = nn.Linear(6, 4)
        layer = Lookup(original, 3, threshold=0.3)
    x = torch.randn(5, 6, dtype=torch.float64)
    expected = x @ lookup(layer).weight().t() + original.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_what_is_near_zero_gets_a_gradient() -> None:
    _, layer = conv()
    assert (layer.sparsified() == 0).any()
    probe = torch.randn_like(layer.sparse)
    (layer.sparsified() * probe).sum().backward()
    assert layer.sparse.grad is not None and torch.equal(layer.sparse.grad, probe)


def test_the_penalty_makes_it_sparse() -> None:
    torch.manual_seed(0)
    module = lcnn(wrn(10, 1), 0.5).module
    layers = [m for m in module.modules() if isinstance(m, Lookup)]
    before = sum(lookup(layer).n_lookups for layer in layers)
    expected = sum(value for layer in layers for value in layer.sparse.abs().flatten().tolist())
    assert penalty(module).item() == pytest.approx(expected, rel=1e-5)
    for _ in range(5):
        module.zero_grad()
        penalty(module).backward()
        for layer in layers:
            with torch.no_grad():
                layer.sparse.sub_(torch.as_tensor(layer.sparse.grad), alpha=0.01)
    assert sum(lookup(layer).n_lookups for layer in layers) < 0.9 * before


def test_multiply_accumulates() -> None:
    _, layer = conv(stride=2, padding=1)
    x = torch.randn(1, 3, 7, 8, dtype=torch.float64)
    output = layer(x).shape[2:]
    assert training_macs(layer, (7, 8), output) == macs(layer, x)
    found = lookup(layer)
    per_pixel = sum(1 for value in layer.sparsified().flatten().tolist() if value)
    expected = 4 * 3 * 7 * 8 + per_pixel * output.numel()
    assert inference_macs(found, (7, 8), output) == expected < training_macs(layer, (7, 8), output)


@pytest.mark.parametrize("budget", [40_000, 200_000, 691_674])
def test_the_largest_share_that_fits(budget: int) -> None:
    """Counted again from the equations' shapes, with exact fractions."""
    with torch.device("meta"):
        module = wrn(16, 2)
        built = build(wide(16, 2), budget)
    shapes = [p.shape for p in module.parameters() if p.dim() > 1]
    kept = sum(p.numel() for p in module.parameters() if p.dim() == 1)

    def count(share: Fraction) -> int:
        total = kept
        for n, m, *kernel in shapes:
            k = max(1, math.floor(share * m))
            total += k * m + n * k * math.prod(kernel)
        return total

    shares = {Fraction(k, m) for _, m, *_ in shapes for k in range(1, 2 * m + 1)}
    assert built.n_params == max(n for n in map(count, shares) if n <= budget)
    assert all(isinstance(m, Lookup) for m in built.module.modules() if hasattr(m, "stride"))


def test_layers_start_as_wide_as_they_were() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    made = Lookup(layer, 32, threshold=0.0).weight_of().std().item()
    assert made == pytest.approx(layer.weight.std().item(), rel=0.1)


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="no Conv2d of one group: mlp"):
        build(mlp(), 1000)
