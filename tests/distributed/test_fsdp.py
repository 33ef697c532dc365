"""Compiled modules under FSDP2: the same losses, and each bank gathered once."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import npas
from benchmarks.scale.ranks import moved, on_ranks
from npas.sharding import gathered
from tests.distributed.networks import compiled, loss, numbers, smooth

STEPS = 20
#: name -> options of `npas.compile`, and whether banks stay gathered until the backward pass.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "a bank at a time": ({"n_banks": 3}, True),
    "a layer at a time": ({"n_banks": 3, "schedule": "layer", "recompute": True}, True),
    "a layer at a time, freed": (
        {"n_banks": 3, "schedule": "layer", "recompute": True},
        False,
    ),
    "multiplied where that is possible": ({"schedule": "fused", "groups": "single"}, True),
}
KEPT = [name for name, (_, keep) in CASES.items() if keep]


def sharded(module: nn.Module, n: int, *, keep: bool = True, **more: Any) -> nn.Module:
    mesh = init_device_mesh("cpu", (n,))
    for unit in npas.fsdp_units(module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=not keep, **more)
    return module


def curve(module: nn.Module, rank: int = 0, n: int = 1) -> list[float]:
    """Train with AdamW, and return the mean loss of each step."""
    optimizer = torch.optim.AdamW(npas.param_groups(module, 1e-3), lr=1e-3)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        own = loss(module, step, rank, n)
        own.backward()
        optimizer.step()
        mean = own.detach().clone()
        if n > 1:
            dist.all_reduce(mean)
        found.append(mean.item() / n)
    return found


def _trained(name: str, rank: int, n: int) -> dict[str, Any]:
    how, keep = CASES[name]
    module = sharded(compiled(smooth(), **how), n, keep=keep)
    losses = curve(module, rank, n)
    shards: dict[str, Any] = dict(module.named_parameters())
    return {
        "losses": losses,
        "own": sum(shard.to_local().numel() for shard in shards.values()),
        "whole": {name: shard.full_tensor() for name, shard in shards.items()},
        "banks": sum(name.endswith("theta") for name in shards),
        "moved": moved(lambda: loss(module, 99, rank, n).backward()),
    }


def _work(rank: int, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: _trained(name, rank, n) for name in CASES}
    found["eval"] = [
        _follows_in_eval(way(compiled(smooth()), n), compiled(smooth()), rank, n)
        for way in (sharded, _one_unit)
    ]
    found["eval"].append(_follows_in_eval(staged(n), stages(), rank, n))
    found["mixed"] = _mixed(rank, n)
    found["alone"] = [_alone(rank, n, keep) for keep in (True, False)]
    found["twice"] = {
        name: _twice(sharded(compiled(smooth(), **CASES[name][0]), n, keep=CASES[name][1]), rank, n)
        for name in CASES
    }
    found["stages"] = curve(staged(n), rank, n)
    found["by hand"] = _by_hand(n)
    return found


def _one_unit(module: nn.Module, n: int, reshard: bool = False) -> nn.Module:
    fully_shard(module, mesh=init_device_mesh("cpu", (n,)), reshard_after_forward=reshard)
    return module


def stages() -> nn.Module:
    """Return a network whose parts are compiled by themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(*(smooth() if i else nn.Linear(4, 8) for i in (1, 0, 1)))
    for part in model.children():
        if isinstance(part, nn.Sequential):
            npas.compile_(part, "50%")
    return model


def staged(n: int) -> nn.Module:
    """Shard it as docs/distributed.md says: each part a unit."""
    model, mesh = stages(), init_device_mesh("cpu", (n,))
    for unit in (*model.children(), model):
        fully_shard(unit, mesh=mesh)
    return model


def _stepped_in_eval(module: nn.Module, rank: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs before and after a step that is taken in evaluation."""
    module.eval()
    # Of the shards: after a forward pass without grad the module has what it gathered.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = module(x)
    loss(module, 0, rank, n).backward()
    optimizer.step()
    with torch.no_grad():
        return before, module(x)


def _follows_in_eval(module: nn.Module, alone: nn.Module, rank: int, n: int) -> bool:
    """Tell whether weights follow a step in evaluation, as those of one process do."""
    before, after = _stepped_in_eval(module, rank, n)
    _, expected = _stepped_in_eval(alone, 0, 1)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
    return not torch.equal(before, after)


def _twice(module: nn.Module, rank: int, n: int) -> dict[str, torch.Tensor]:
    """Return gradients of two losses, both made before the first is run backward."""
    first, second = loss(module, 0, rank, n), loss(module, 1, rank, n)
    first.backward(retain_graph=True)
    first.backward()
    second.backward()
    return {name: gathered(p.grad) for name, p in module.named_parameters() if p.grad is not None}


def _mixed(rank: int, n: int) -> bool:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    module = sharded(compiled(smooth()), n, mp_policy=policy)
    loss(module, 0, rank, n).backward()
    return all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def _alone(rank: int, n: int, keep: bool) -> list[float]:
    """Train the module as one unit."""
    module = compiled(smooth(), schedule="layer", recompute=True)
    return curve(_one_unit(module, n, not keep), rank, n)


def _by_hand(n: int) -> str:
    """Return what is said of a bank that is sharded, and by nothing that could gather it."""
    module = compiled(smooth())
    bank = module.npas.banks.b0  # type: ignore[union-attr]
    mesh = init_device_mesh("cpu", (n,))
    bank.theta = torch.nn.Parameter(distribute_tensor(bank.theta.detach(), mesh, [Shard(0)]))  # type: ignore
    try:
        module(torch.zeros(2, 8))
    except npas.NpasError as error:
        return str(error)
    return "nothing was said"


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_ranks(request.param, _work)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_are_those_of_one_process(
    ranks: list[dict[str, Any]], name: str
) -> None:
    alone = compiled(smooth(), **CASES[name][0])
    expected = curve(alone)
    for found in ranks:
        assert found[name]["losses"] == pytest.approx(expected, rel=1e-4)
        for parameter, value in numbers(alone).items():
            torch.testing.assert_close(
                found[name]["whole"][parameter], value, rtol=1e-2, atol=1e-4, msg=parameter
            )


@pytest.mark.parametrize("name", KEPT)
def test_each_bank_is_gathered_once_in_a_step(ranks: list[dict[str, Any]], name: str) -> None:
    for found in ranks:
        kinds = [kind for kind, _ in found[name]["moved"]]
        # What is kept as it is, and each bank with what combines its templates.
        assert kinds.count("all-gather") == 1 + found[name]["banks"]
        assert len(kinds) == 2 * kinds.count("all-gather")


def test_only_the_modules_own_unit_is_ever_gathered_again(ranks: list[dict[str, Any]]) -> None:
    def gathers(name: str) -> int:
        return sum(kind == "all-gather" for kind, _ in ranks[0][name]["moved"])

    assert gathers("a layer at a time, freed") == gathers("a layer at a time") + 1


@pytest.mark.parametrize("name", KEPT)
def test_every_rank_holds_its_part(ranks: list[dict[str, Any]], name: str) -> None:
    total = sum(p.numel() for p in compiled(smooth(), **CASES[name][0]).parameters())
    held = [found[name]["own"] for found in ranks]
    assert sum(held) == total
    assert max(held) < 1.2 * total / len(ranks)


def test_evaluation_sees_every_step_and_mixed_precision_runs(ranks: list[dict[str, Any]]) -> None:
    assert all(all(found["eval"]) and found["mixed"] for found in ranks)


@pytest.mark.parametrize("name", CASES)
def test_a_backward_pass_may_follow_another(ranks: list[dict[str, Any]], name: str) -> None:
    expected = _twice(compiled(smooth(), **CASES[name][0]), 0, 1)
    for found in ranks:
        assert found["twice"][name].keys() == expected.keys()
        for parameter, value in expected.items():
            torch.testing.assert_close(
                found["twice"][name][parameter], value, rtol=1e-4, atol=1e-6, msg=parameter
            )


def test_parts_that_are_compiled_by_themselves(ranks: list[dict[str, Any]]) -> None:
    dense = sum(
        p.numel() for i in (1, 0, 1) for p in (smooth() if i else nn.Linear(4, 8)).parameters()
    )
    alone = stages()
    assert sum(p.numel() for p in alone.parameters()) < 0.55 * dense
    expected = curve(alone)
    for found in ranks:
        assert found["stages"] == pytest.approx(expected, rel=1e-4)


def test_one_unit_for_all_is_right_too(ranks: list[dict[str, Any]]) -> None:
    expected = curve(compiled(smooth()))
    for found in ranks:
        for losses in found["alone"]:
            assert losses == pytest.approx(expected, rel=1e-4)


def test_a_bank_that_is_sharded_by_hand_is_an_error(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "a bank is sharded where its weights are made" in found["by hand"]
        assert "npas.fsdp_units(module)" in found["by hand"]
