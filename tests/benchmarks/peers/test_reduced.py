"""Reduced width and depth are the closest that fit, found again by trying them all."""

import pytest
import torch
from torch import nn

from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError, TooSmall
from benchmarks.peers.base import n_params
from benchmarks.peers.reduced import reduced_depth, reduced_width
from tests.benchmarks.peers.networks import Spec, mlp

pytestmark = pytest.mark.pure


def width(factor: float) -> int:
    return max(1, round(100 * factor))


def net(inner: int) -> nn.Module:
    return nn.Sequential(nn.Linear(7, inner), nn.ReLU(), nn.Linear(inner, inner))


SCALED = Spec("net", lambda: net(100), (7,), scaled=lambda factor: net(width(factor)))
DEEP = Spec(
    "wrn-28-1",
    lambda: wrn(28, 1),
    shallower=(lambda: wrn(10, 1), lambda: wrn(16, 1), lambda: wrn(22, 1)),
)


@pytest.mark.parametrize("budget", [10, 57, 58, 1000, 5555, 10_900, 10_901, 10**6])
def test_the_widest_that_fits(budget: int) -> None:
    counts = [n_params(net(inner)) for inner in range(1, 101)]
    expected = max((n for n in counts if n <= budget), default=None)
    assert expected is not None
    built = reduced_width(SCALED, budget)
    assert built.n_params == expected
    assert f": {expected:,} parameters" in built.note and built.generation_macs == 0


@pytest.mark.parametrize("budget", [80_000, 175_065, 175_066, 200_000, 10**9])
def test_the_deepest_that_fits(budget: int) -> None:
    counts = [n_params(wrn(depth, 1)) for depth in (10, 16, 22, 28)]
    built = reduced_depth(DEEP, budget)
    assert built.n_params == max(n for n in counts if n <= budget)
    assert f": {built.n_params:,} parameters" in built.note


def test_below_the_smallest() -> None:
    with pytest.raises(TooSmall, match="minimum is 10") as caught:
        reduced_width(SCALED, 9)
    assert caught.value.minimum == n_params(net(1))
    with pytest.raises(TooSmall, match="shallowest") as caught:
        reduced_depth(DEEP, 1000)
    assert caught.value.minimum == n_params(wrn(10, 1))


def test_what_they_do_not_apply_to() -> None:
    with pytest.raises(PeerError, match="mlp has no width"):
        reduced_width(mlp(), 1000)
    with pytest.raises(PeerError, match="mlp has no depth"):
        reduced_depth(mlp(), 1000)


def test_a_search_allocates_nothing() -> None:
    with torch.device("meta"):
        built = reduced_width(SCALED, 5000)
    assert all(p.is_meta for p in built.module.parameters())
