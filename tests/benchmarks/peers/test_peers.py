"""What holds for every peer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.networks.wrn import wrn
from benchmarks.peers import PEERS, PeerError, TooSmall, peer
from benchmarks.peers.base import largest, n_params
from tests.benchmarks.peers.networks import Spec, losses, wide

pytestmark = pytest.mark.pure

NAMES = (
    "hypernetwork",
    "soft_sharing",
    "lcnn",
    "albert",
    "reduced_width",
    "reduced_depth",
    "parametrize",
    "low_rank",
)


def test_the_peers() -> None:
    assert tuple(PEERS) == NAMES
    assert all(peer(name).name == name for name in NAMES)


def test_an_unknown_peer() -> None:
    with pytest.raises(KeyError, match=r"no peer 'hypernet' .*hypernetwork"):
        peer("hypernet")


def wider(factor: float, depth: int, width: int) -> nn.Module:
    return wrn(depth, max(1, round(width * factor)))


def network(depth: int = 22, width: int = 2) -> Spec:
    return replace(
        wide(depth, width),
        scaled=partial(wider, depth=depth, width=width),
        shallower=tuple(partial(wrn, d, width) for d in range(10, depth, 6)),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.7, 0.8, 0.95])
def test_a_peer_is_within_the_budget(name: str, share: float) -> None:
    spec = network()
    with torch.device("meta"):
        budget = int(share * n_params(spec.make()))
        built = peer(name).build(spec, budget)
    assert 0.2 * budget < built.n_params <= budget
    assert built.note
    assert built.module(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_a_peers_minimum_is_met_and_one_less_is_not(name: str) -> None:
    spec = network()
    with torch.device("meta"):
        with pytest.raises(TooSmall, match="its minimum is") as caught:
            peer(name).build(spec, 10)
        minimum = caught.value.minimum
        assert f"{minimum:,}" in str(caught.value) and spec.name in str(caught.value)
        assert isinstance(caught.value, PeerError)
        assert peer(name).build(spec, minimum).n_params <= minimum
        with pytest.raises(TooSmall):
            peer(name).build(spec, minimum - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_trains(name: str) -> None:
    torch.manual_seed(0)
    spec = network()
    built = peer(name).build(spec, int(0.8 * n_params(spec.make())))
    before = {n: p.detach().clone() for n, p in built.module.named_parameters()}
    found = losses(built.module, torch.randn(6, 3, 8, 8))
    assert found[-1] < 0.7 * found[0]
    still = [n for n, p in built.module.named_parameters() if torch.equal(p, before[n])]
    assert not still, "a parameter that never moves is not used"


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_on_wrn_28_10_allocates_nothing(name: str) -> None:
    with torch.device("meta"):
        built = peer(name).build(network(28, 10), 30_000_000)
    assert all(p.is_meta for p in built.module.parameters())
    assert all(b.is_meta for b in built.module.buffers())
    assert built.n_params <= 30_000_000


def test_a_network_without_a_name_is_called_by_its_class() -> None:
    @dataclass(frozen=True)
    class Nameless:
        make: Callable[[], nn.Module]
        scaled: None = None
        shallower: tuple[Callable[[], nn.Module], ...] = ()

        def inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
            return (torch.empty(batch, 3),)

    with pytest.raises(PeerError, match="Sequential has no 3x3 convolution"):
        peer("hypernetwork").build(Nameless(lambda: nn.Sequential(nn.Linear(3, 3))), 100)


@pytest.mark.parametrize("limit", [1, 2, 7, 99, 100])
def test_largest(limit: int) -> None:
    assert largest(1, 100, lambda n: n <= limit) == limit
