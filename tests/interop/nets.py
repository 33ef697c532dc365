"""The networks of the interoperation tests, and the ways in which npas takes them."""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas
from npas.bank import banks_of

#: The three front ends of `npas.compile`, and `npas.compile_`.
WAYS = ("fx", "export", "opaque", "in place")
VOCABULARY, WIDTH = 24, 8

# What makes the weights of `Net`, and how that is asked for.
KINDS: dict[str, dict[str, Any]] = {
    "windows": {"budget": 0.6, "groups": "single", "k": 1},
    "templates": {"budget": 0.6, "groups": "single"},
    "embedded templates": {"budget": 0.7, "groups": "single", "downsample": "emb"},
    "masked tiles": {"budget": 0.25, "groups": "single"},
    "interpolation": {"budget": 0.25, "groups": "single", "upsample": "inter"},
}


#: Every way with one kind, and every other kind in one way.
CASES = [(way, "templates") for way in WAYS]
CASES += [("in place", kind) for kind in KINDS if kind != "templates"]
EVERY = pytest.mark.parametrize(("way", "kind"), CASES)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """Rows looked up, a convolution, a block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.block = Block()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.block(x))


def ids(batch: int = 3, length: int = 5) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(batch)
    )


def convert(
    model: nn.Module, way: str, example: tuple[Any, ...] = (), budget: float = 0.6, **options: Any
) -> Any:
    """Compile a model in one of `WAYS`, so that its weights depend on the seed alone."""
    torch.manual_seed(1)
    if way == "in place":
        return npas.compile_(model, budget, **options)
    found = npas.compile(model, budget, frontend=way, example_inputs=example, **options)
    assert npas.report(found).front_end == way
    return found


def net(way: str, kind: str = "templates", **options: Any) -> Any:
    """Return `Net` in one of `WAYS`, its weights made in one of `KINDS`."""
    return copy.deepcopy(_net(way, kind, tuple(options.items())))


@functools.cache
def _net(way: str, kind: str, options: tuple[tuple[str, Any], ...]) -> Any:
    torch.manual_seed(0)
    return convert(Net(), way, (ids(),), **KINDS[kind], **dict(options))


def gradients(module: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of every parameter, and leave the module without."""
    module.zero_grad()
    output.square().sum().backward()
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    module.zero_grad()
    return found


def assert_same(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **tolerance: Any
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def bank_names(module: nn.Module) -> set[str]:
    """Return the names of the parameters of the banks."""
    return {n for n, _ in module.named_parameters() if n.startswith("npas.banks.")}


def generated_names(module: nn.Module) -> set[str]:
    """Return the names of the weights that banks make."""
    return {layer for bank in banks_of(module).values() for layer in bank.layer_names()}


def library(name: str) -> Any:
    """Import a library, or skip the test for want of it."""
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)
