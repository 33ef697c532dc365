"""Distributed checkpoints of compiled modules: from two ranks to two, four and one, and back."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils._pytree import tree_flatten

import npas
from benchmarks.scale.ranks import on_ranks
from npas.sharding import gathered
from tests.distributed.networks import compiled, loss, numbers, smooth
from tests.distributed.test_fsdp import sharded

HOW: dict[str, Any] = {"n_banks": 3}


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(npas.param_groups(module, 1e-3), lr=1e-3)


def _train(
    module: nn.Module, optimizer: torch.optim.Optimizer, steps: range, rank: int = 0, n: int = 1
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss(module, step, rank, n).backward()
        optimizer.step()


def _whole(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: gathered(p.detach()).clone() for name, p in module.named_parameters()}


def _everything(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return parameters, buffers and the optimizer's state, whole."""
    state = get_state_dict(module, optimizer, options=StateDictOptions(full_state_dict=True))
    return dict(zip(("model", "optimizer"), copy.deepcopy(state), strict=True))


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return dict(zip(("model", "optimizer"), get_state_dict(module, optimizer), strict=True))


def _save(rank: int, n: int, folder: str) -> dict[str, Any]:
    """Train, save, and return what was saved, and the parameters after a few steps more."""
    module = sharded(compiled(smooth(), **HOW), n)
    optimizer = _optimizer(module)
    _train(module, optimizer, range(5), rank, n)
    state = _state(module, optimizer)
    save(state, checkpoint_id=folder)
    saved = _everything(module, optimizer)
    _train(module, optimizer, range(5, 8), rank, n)
    return {"saved": saved, "after": _whole(module)}


def _load(module: nn.Module, folder: str) -> torch.optim.Optimizer:
    """Change everything, load, and return the optimizer."""
    optimizer = _optimizer(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    state = _state(module, optimizer)
    load(state, checkpoint_id=folder)
    parts = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
    set_state_dict(module, optimizer, **parts)
    return optimizer


def _go_on(rank: int, n: int, folder: str, again: str = "") -> dict[str, Any]:
    """Load, save again where there is a second folder, and go on."""
    module = sharded(compiled(smooth(), **HOW), n)
    optimizer = _load(module, folder)
    if again:
        save(_state(module, optimizer), checkpoint_id=again)
    _train(module, optimizer, range(5, 8), rank, n)
    return _whole(module)


def _same(found: Any, expected: Any) -> bool:
    """Tell whether nested state dicts are equal, bit for bit."""
    pairs = [tree_flatten(tree) for tree in (found, expected)]
    (values, spec), (others, other) = pairs
    return spec == other and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(values, others, strict=True)
    )


Saved = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = str(tmp_path_factory.mktemp("saved"))
    return folder, on_ranks(2, _save, folder)[0]


def test_on_as_many_ranks_training_goes_on_bit_for_bit(saved: Saved) -> None:
    folder, expected = saved
    for found in on_ranks(2, _go_on, folder):
        assert all(torch.equal(found[name], value) for name, value in expected["after"].items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_from_two_ranks_to_four_to_one_nothing_changes(saved: Saved, tmp_path: Path) -> None:
    folder, expected = saved
    for found in on_ranks(4, _go_on, folder, str(tmp_path)):
        for name, value in expected["after"].items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    module = compiled(smooth(), **HOW)
    optimizer = _load(module, str(tmp_path))
    assert _same(_everything(module, optimizer), expected["saved"])
    optimizer.param_groups[0]["lr"] *= 2
    assert not _same(_everything(module, optimizer), expected["saved"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_on_one_rank_and_into_a_folder_of_npas(saved: Saved, tmp_path: Path) -> None:
    folder, expected = saved
    module = compiled(smooth(), **HOW)
    optimizer = _load(module, folder)
    npas.save(module, tmp_path / "folder")
    again = npas.load(tmp_path / "folder", smooth)
    assert all(torch.equal(numbers(again)[name], p) for name, p in numbers(module).items())
    _train(module, optimizer, range(5, 8))
    for name, value in expected["after"].items():
        torch.testing.assert_close(numbers(module)[name], value, rtol=1e-4, atol=1e-6, msg=name)
