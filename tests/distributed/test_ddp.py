"""Compiled modules under DistributedDataParallel: one model on all ranks, and exact bytes."""

from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.scale.ranks import moved, on_ranks
from tests.distributed.networks import compiled, dense, loss, numbers, smooth, train

STEPS = 50
HOW: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several banks, a layer at a time": {"n_banks": 3, "schedule": "layer", "recompute": True},
}


def _trained(rank: int, n: int) -> dict[str, Any]:
    """Train what is compiled in several ways, and count what moves in a step."""
    found: dict[str, Any] = {}
    for name, how in HOW.items():
        module = compiled(smooth(), **how)
        wrapped = DistributedDataParallel(module, static_graph=name != "defaults")
        train(wrapped, STEPS, rank, n)
        found[name] = numbers(module)
    module = compiled(dense())
    wrapped = DistributedDataParallel(module)
    train(wrapped, 2, rank, n)  # buckets are made anew after the first step

    def step() -> None:
        loss(wrapped, 99, rank, n).backward()

    found["moved"] = moved(step)
    found["trainable"] = sum(p.numel() for p in module.parameters())
    found["buffers"] = sum(b.numel() for b in module.buffers())
    found["accumulated"] = _accumulated(rank, n)
    with torch.autocast("cpu", torch.bfloat16):
        loss(wrapped, 99, rank, n).backward()
    grads = [p.grad for p in module.parameters()]
    found["mixed"] = all(g is not None and g.isfinite().all() for g in grads)
    return found


def _accumulated(rank: int, n: int) -> float:
    """Return how far gradients of two parts of a batch, sent once, are from those of the whole."""
    module = compiled(smooth())
    wrapped = DistributedDataParallel(module)
    with wrapped.no_sync():
        (loss(wrapped, 0, rank, n) / 2).backward()
    (loss(wrapped, 1, rank, n) / 2).backward()
    alone = compiled(smooth())
    ((loss(alone, 0) + loss(alone, 1)) / 2).backward()
    pairs = zip(module.parameters(), alone.parameters(), strict=True)
    return max(float((a.grad - b.grad).abs().max()) for a, b in pairs)  # type: ignore[operator]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_ranks(request.param, _trained)


@pytest.mark.parametrize("how", HOW)
def test_all_ranks_have_the_model_that_one_process_has(
    ranks: list[dict[str, Any]], how: str
) -> None:
    first = ranks[0][how]
    for other in ranks[1:]:
        assert all(torch.equal(other[how][name], value) for name, value in first.items())
    alone = compiled(smooth(), **HOW[how])
    before = numbers(alone)
    train(alone, STEPS)
    for name, value in numbers(alone).items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5, msg=name)
        assert not torch.equal(before[name], value), name


def test_what_moves_in_a_step_is_each_gradient_once(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        reduced = [n for kind, n in found["moved"] if kind == "all-reduce"]
        assert sum(reduced) == found["trainable"]
        # Running statistics of batch norm, and the banks' fixed scales.
        sent = [n for kind, n in found["moved"] if kind == "broadcast"]
        assert sum(sent) == found["buffers"] > 0
        assert len(reduced) + len(sent) == len(found["moved"])


def test_accumulated_and_mixed_precision_gradients(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["accumulated"] < 1e-6
        assert found["mixed"]
