"""Pruning: ranks of known maps, which filters go, and that a smaller network computes the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import npas
from benchmarks.networks.resnet import resnet_cifar
from benchmarks.networks.wrn import wrn
from benchmarks.quality.experiments.pruning import EXPERIMENTS
from benchmarks.quality.printed import printed
from benchmarks.quality.pruning import kept, ranks
from benchmarks.quality.pruning_filters import (
    NORMS,
    Kept,
    Spread,
    blocks,
    macs,
    n_left,
    n_params,
    without,
)
from benchmarks.quality.quick import IMAGES, quick
from benchmarks.quality.spec import Build, Run, missing, npas_build, options
from benchmarks.quality.train import train
from benchmarks.sources import Sources

pytestmark = pytest.mark.pure

NOWHERE = Sources()
TINY = replace(IMAGES, lr=0.1)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Known(nn.Module):
    """A block whose maps are its input, those of its second convolution transposed in channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm1(x).flip(1)


def test_ranks_of_known_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NORMS, Known, ("norm1", None))
    eye, zero = torch.eye(4), torch.zeros(4, 4)
    line = torch.outer(torch.arange(4.0), torch.ones(4))
    two = line + torch.outer(torch.ones(4), torch.arange(4.0) ** 2)
    one = torch.stack([zero, line, eye, two, -eye])
    other = torch.stack([zero, line, line, two, -two])
    images = torch.stack([one, other]).repeat(60, 1, 1, 1)  # more than one part
    found = ranks(nn.Sequential(Known()).train(), images)
    wanted = [0.0, 1.0, 2.5, 2.0, 0.0]  # negative maps are none behind a ReLU
    assert {name: values.tolist() for name, values in found.items()} == {
        "0.conv1": wanted,
        "0.conv2": wanted[::-1],
    }


def test_ranks_leave_the_network_as_it_was() -> None:
    network = used(resnet_cifar(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = ranks(network, torch.randn(6, 3, 16, 16, dtype=torch.float64))
    assert [len(values) for values in found.values()] == [16, 16, 32, 32, 64, 64]
    assert all(not m._forward_hooks for m in network.modules())
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def used(network: nn.Module) -> nn.Module:
    """Return a network in double precision with norms as they are after training."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values, std=0.5)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    return network.double()


@torch.no_grad()
def zeroed(network: nn.Module, left: Kept) -> nn.Module:
    """Set everything of the filters that go to zero, in place."""
    for name, block in blocks(network):
        for conv, norm in zip(("conv1", "conv2"), NORMS[type(block)], strict=True):
            weight = block.get_parameter(f"{conv}.weight")
            gone = torch.ones(len(weight), dtype=torch.bool)
            gone[left[f"{name}.{conv}"]] = False
            weight[gone] = 0
            for value in () if norm is None else ("weight", "bias"):
                block.get_parameter(f"{norm}.{value}")[gone] = 0
    return network


MAKES: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet_cifar(2),
    "wrn": lambda: wrn(16, 2),
    "materialised": lambda: npas.materialize(npas.compile(resnet_cifar(1), "2x")),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("share", [0.832, 0.284, 0.06])
def test_a_pruned_network_is_the_one_with_zeros(
    make: Callable[[], nn.Module], share: float
) -> None:
    network = used(make())
    x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    left = kept(network, ranks(network, x), int(share * n_params(network)))
    small = without(network, left)
    whole = network.eval()(x)
    zeroed(network, left)
    assert not torch.allclose(network(x), whole)
    for mode in (False, True):
        torch.testing.assert_close(small.train(mode)(x), network.train(mode)(x))
    assert n_params(small) == n_left(network, {n: v.tolist() for n, v in left.items()})
    assert macs(small, x[:1]) < macs(network, x[:1])


@pytest.mark.parametrize("make", [lambda: resnet_cifar(3), lambda: wrn(16, 1)])
@pytest.mark.parametrize("share", [1.0, 0.832, 0.5, 0.284])
def test_as_many_parameters_are_left_as_asked_within_a_filter(
    make: Callable[[], nn.Module], share: float
) -> None:
    network = make()
    torch.manual_seed(0)
    convolutions = {
        f"{name}.{conv}": block.get_parameter(f"{conv}.weight")
        for name, block in blocks(network)
        for conv in ("conv1", "conv2")
    }
    found = {
        name: torch.rand(len(weight)).round(decimals=1) for name, weight in convolutions.items()
    }
    most = int(share * n_params(network))
    left = kept(network, found, most)
    a_filter = max(weight[0].numel() for weight in convolutions.values()) + 2
    beside = max(weight[:, 0].numel() for weight in convolutions.values())
    assert most - (a_filter + beside) < n_params(without(network, left)) <= most
    shares = []
    for name, stay in left.items():
        gone = sorted(set(range(len(found[name]))) - set(stay.tolist()))
        shares.append(len(stay) / len(found[name]))
        assert stay.tolist() == sorted(set(stay.tolist()))
        if gone:
            assert found[name][gone].max() <= found[name][stay].min()
    assert max(shares) - min(shares) <= 1 / 16  # one filter of the smallest layers
    assert (share == 1) == (min(shares) == 1)


def test_of_equal_filters_the_first_goes_and_one_stays() -> None:
    network = resnet_cifar(1)
    found = {
        f"{name}.{conv}": torch.zeros(len(block.get_parameter(f"{conv}.weight")))
        for name, block in blocks(network)
        for conv in ("conv1", "conv2")
    }
    fixed = n_left(network, dict.fromkeys(found, (0,)))
    left = kept(network, found, fixed)
    assert [stay.tolist() for stay in left.values()] == [[len(v) - 1] for v in found.values()]
    with pytest.raises(ValueError, match=f"{fixed - 1} parameters may stay, .* leaves {fixed}"):
        kept(network, found, fixed - 1)


def test_spread_puts_channels_back() -> None:
    x = torch.randn(2, 2, 3, 3, requires_grad=True)
    out = Spread(torch.tensor([1, 4]), 5)(x)
    assert out.shape == (2, 5, 3, 3)
    assert torch.equal(out[:, [1, 4]], x) and not out[:, [0, 2, 3]].any()
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


def test_multiply_accumulates_are_the_published_ones() -> None:
    assert round(macs(resnet_cifar(9), torch.zeros(1, 3, 32, 32)) / 1e6, 1) == 125.5


@pytest.mark.parametrize("build", [Build(), npas_build("4x")])
def test_a_run_is_trained_as_without_pruning_and_gives_the_same_row(build: Build) -> None:
    how = options(prune="hrank", left="28.4%", finetune=2, finetune_lr=0.1)
    run = Run(build, replace(TINY, how=how), 3, "test")
    one, again = train(run, NOWHERE), train(run, NOWHERE)
    for key in ("score", "losses", "params_left", "macs", "n_params", "banks"):
        assert one[key] == again[key]
    plain = train(replace(run, recipe=TINY), NOWHERE)
    assert one["losses"][:1] == plain["losses"] and len(one["losses"]) == 3
    assert (one["n_params"], one["n_dense"]) == (plain["n_params"], plain["n_dense"])
    assert 0.25 < one["params_left"] / one["n_dense"] <= 0.284
    assert 0.1 < one["macs"] / one["macs_dense"] < 0.5
    assert (one["steps"], one["finetune_steps"]) == (plain["steps"], 10)
    assert not {"params_left", "macs"} & plain.keys()


def test_what_diverged_is_not_pruned() -> None:
    how = options(prune="hrank", left="28.4%", finetune=1, finetune_lr=0.1)
    row = train(Run(Build(), replace(TINY, lr=1e30, how=how), 0, "test"), NOWHERE)
    assert row["diverged"] and row["score"] == 0 and "params_left" not in row


def test_experiments_have_the_papers_arms_and_run_quickly() -> None:
    wanted = {
        "pruning/cifar10 83.2%": [6.74, 5.21, 6.48, 5.86, 9.26],
        "pruning/cifar10 28.4%": [6.74, 5.21, 10.75, 9.94, 9.26],
    }
    rows: dict[str, Any] = {}
    for experiment in EXPERIMENTS:
        numbers = [printed(case, experiment) for case in experiment.cases]
        assert [[n["value"] for n in of_case] for of_case in numbers] == [
            [value] for value in wanted[experiment.name]
        ]
        for case in experiment.cases:
            assert case.recipe.epochs + dict(case.recipe.how).get("finetune", 0) == 12
        tiny = replace(quick(experiment), seeds=1)
        while runs := missing([tiny], rows):
            rows[runs[0].key] = train(runs[0], NOWHERE)
        assert tiny.n_done(rows) == tiny.n_runs(rows) == 2 + 5
    assert len(rows) == 2 + 3 + 2 * 2  # arms that are not pruned are run once
