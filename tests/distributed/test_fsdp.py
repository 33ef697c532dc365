"""Compiled modules under FSDP2: the same losses, and each bank gathered once."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import npas
from benchmarks.scale.ranks import moved, on_ranks
from tests.distributed.networks import compiled, loss, numbers, smooth

STEPS = 20
HOW: dict[str, dict[str, Any]] = {
    "a bank at a time": {"n_banks": 3},
    "a layer at a time": {"n_banks": 3, "schedule": "layer", "recompute": True},
    "one bank, multiplied where that is possible": {"schedule": "fused", "groups": "single"},
}


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


def _work(rank: int, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, how in HOW.items():
        for keep in (True, False):
            module = sharded(compiled(smooth(), **how), n, keep=keep)
            losses = curve(module, rank, n)
            whole = {
                name: p.full_tensor()
                for name, p in module.named_parameters()  # type: ignore
            }
            found[name, keep] = losses, whole

            def step(module: nn.Module = module) -> None:
                loss(module, 99, rank, n).backward()

            found[name, keep, "moved"] = moved(step)
        found[name, "banks"] = [p.numel() for q, p in module.named_parameters() if "theta" in q]
        found[name, "own"] = sum(p.to_local().numel() for p in module.parameters())  # type: ignore
    found["eval"] = _in_eval(rank, n)
    found["mixed"] = _mixed(rank, n)
    found["left out"] = _left_out(n)
    return found


def _in_eval(rank: int, n: int) -> bool:
    """Tell whether weights follow a step that is taken in evaluation."""
    module = sharded(compiled(smooth()), n).eval()
    # Of the shards: after a forward pass without grad the module has what it gathered.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = module(x)
    loss(module, 0, rank, n).backward()
    optimizer.step()
    with torch.no_grad():
        after = module(x)
    alone = compiled(smooth()).eval()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.5)
    loss(alone, 0).backward()
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(after, alone(x), rtol=1e-4, atol=1e-5)
    return not torch.equal(before, after)


def _mixed(rank: int, n: int) -> bool:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    module = sharded(compiled(smooth()), n, mp_policy=policy)
    loss(module, 0, rank, n).backward()
    return all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def _left_out(n: int) -> str:
    module = compiled(smooth())
    fully_shard(module, mesh=init_device_mesh("cpu", (n,)))
    try:
        module(torch.zeros(2, 8))
    except npas.NpasError as error:
        return str(error)
    return "nothing was said"


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[Any, Any]]:
    return on_ranks(request.param, _work)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_losses_and_weights_are_those_of_one_process(
    ranks: list[dict[Any, Any]], how: str, keep: bool
) -> None:
    alone = compiled(smooth(), **HOW[how])
    expected = curve(alone)
    for found in ranks:
        losses, whole = found[how, keep]
        assert losses == pytest.approx(expected, rel=1e-4)
        for name, value in numbers(alone).items():
            torch.testing.assert_close(whole[name], value, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("how", HOW)
def test_each_bank_is_gathered_once_in_a_step(ranks: list[dict[Any, Any]], how: str) -> None:
    for found in ranks:
        gathered = [x for kind, x in found[how, True, "moved"] if kind == "all-gather"]
        # What is kept as it is, and each bank with what combines its templates.
        assert len(gathered) == 1 + len(found[how, "banks"])
        reduced = [kind for kind, _ in found[how, True, "moved"] if kind != "all-gather"]
        assert len(reduced) == len(gathered)


def test_without_keeping_banks_a_layer_at_a_time_costs_more(ranks: list[dict[Any, Any]]) -> None:
    def gathers(keep: bool) -> int:
        own = ranks[0]["a layer at a time", keep, "moved"]
        return sum(kind == "all-gather" for kind, _ in own)

    assert gathers(False) > gathers(True)


@pytest.mark.parametrize("how", HOW)
def test_every_rank_holds_its_part(ranks: list[dict[Any, Any]], how: str) -> None:
    total = sum(p.numel() for p in compiled(smooth(), **HOW[how]).parameters())
    held = [found[how, "own"] for found in ranks]
    assert sum(held) == total
    assert max(held) < 1.2 * total / len(ranks)


def test_evaluation_sees_every_step_and_mixed_precision_runs(ranks: list[dict[Any, Any]]) -> None:
    assert all(found["eval"] and found["mixed"] for found in ranks)


def test_banks_that_are_left_out_are_an_error(ranks: list[dict[Any, Any]]) -> None:
    for found in ranks:
        assert "fully_shard left npas.banks.b0 out" in found["left out"]
        assert "npas.fsdp_units(module)" in found["left out"]
