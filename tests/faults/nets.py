"""The network of these tests, compiled in some ways, and what is asked of it."""

import copy
import functools
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

import npas
from npas.bank import Bank
from tests.invariants import assert_equal_bits

#: A graph, the original's own forward, and in place.
WAYS = ("fx", "opaque", "in place")
#: What makes the weights. Those of "views" are windows of the bank itself.
KINDS: dict[str, dict[str, Any]] = {
    "templates": {"budget": "60%", "groups": "single"},
    "masked tiles": {"budget": "30%", "groups": "single"},
    "views": {"budget": "60%", "groups": "single", "k": 1},
    "own": {"budget": "100%", "groups": "own"},
}
CASES = [("fx", kind) for kind in KINDS] + [(way, "templates") for way in WAYS[1:]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.up = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 20)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.up(self.embedding(ids))))
        return self.head(self.down(x))


IDS = torch.arange(12)


def compiled(way: str, kind: str = "templates", **options: Any) -> Any:
    """Return `Net`, compiled; its weights depend on nothing but the arguments."""
    return copy.deepcopy(_compiled(way, kind, tuple(options.items())))


@functools.cache
def _compiled(way: str, kind: str, options: tuple[tuple[str, Any], ...]) -> Any:
    torch.manual_seed(0)
    arguments = KINDS[kind] | dict(options)
    if way == "in place":
        module = npas.compile_(Net(), **arguments)
    else:
        module = npas.compile(Net(), frontend=way, **arguments)
    if kind == "views":
        for bank in banks(module):
            bank.set_gains(torch.ones_like(bank.gain))
    return module


def banks(module: nn.Module) -> list[Bank]:
    """Return its banks."""
    return [part for part in module.modules() if isinstance(part, Bank)]


def evaluated(module: nn.Module) -> torch.Tensor:
    """Return its outputs in the mode that it is in, without grad."""
    with torch.no_grad():
        return module(IDS)


def truth(module: nn.Module) -> torch.Tensor:
    """Return what `evaluated` must be: a copy has no cache."""
    return evaluated(copy.deepcopy(module))


def loss_of(module: nn.Module) -> torch.Tensor:
    """Return a loss that reaches every parameter."""
    return module(IDS).square().mean()


def step(module: nn.Module, lr: float = 0.1) -> dict[str, torch.Tensor]:
    """Take a step of training; return the gradients and everything that the module holds then."""
    optimizer = torch.optim.SGD(module.parameters(), lr)
    optimizer.zero_grad()
    loss_of(module).backward()
    grads = {f"grad of {n}": p.grad for n, p in module.named_parameters() if p.grad is not None}
    optimizer.step()
    return {n: g.clone() for n, g in grads.items()} | values(module)


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers."""
    held = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in held}


def assert_trains_as(module: nn.Module, twin: nn.Module) -> None:
    """Take two steps with each; all that they hold and their gradients are the same bits."""
    for _ in range(2):
        assert_equal_bits(step(module), step(twin))


class Features(Dataset[torch.Tensor]):
    """Samples that a network makes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __len__(self) -> int:
        return len(IDS)

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.module(IDS[index : index + 1])[0]
