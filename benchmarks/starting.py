"""What a compiled model starts at, against the original: ``python -m benchmarks.starting``.

Every case compiles a network in place, without and with ``calibrate=batch``, and compares, in
training mode and on the batch that calibrated:

- weights: the standard deviation of every generated weight;
- activations: the standard deviation of each block's output;
- gradients: of the standard deviation of the gradient at each block's output, and of the root mean
  square of the gradient of every weight in its dense form, for a loss that is a fixed random
  direction of the output: the same gradient enters both networks.

Rows are kept in a file as they are made, and a run that was cut short goes on where it stopped.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import npas
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.runner import environment
from benchmarks.tables import Column, Row, Section, markdown, show
from npas.bank import Bank, banks_of
from npas.init import alone, spread
from npas.plan import Plan

BUDGETS = ("1.4%", "10%", "50%", "100%", "400%")
GROUPS = ("auto", "single", "own")
#: Largest factors between the compiled model and the original that are promised.
WEIGHTS, ACTIVATIONS, GRADIENTS = 1.05, 1.10, 2.0


@dataclass(frozen=True, slots=True)
class Network:
    """A network, a batch for it, and the modules whose outputs are looked at."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    blocks: tuple[str, ...]


def bert(**sizes: int) -> nn.Module:
    """Return transformers' BertModel with BERT-base's sizes, or those given, initialised anew."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**sizes, attn_implementation="eager"), add_pooling_layer=False)


def _tokens(vocabulary: int, *shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(vocabulary, shape, generator=_generator()),)


def _images(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape, generator=_generator()),)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


NETWORKS = {
    "pre-norm transformer, 50 blocks": Network(
        lambda: transformer(depth=50), _tokens(1000, 4, 64), ("blocks.*",)
    ),
    "WRN-28-10": Network(lambda: wrn(depth=28, width=10), _images(8, 3, 32, 32), ("group?.*",)),
    # Its blocks end with a norm, so that their outputs have one scale whatever happens: what is
    # added before each norm is looked at too.
    "BERT-base": Network(
        bert,
        _tokens(30_000, 2, 64),
        ("encoder.layer.*", "encoder.layer.*.attention.output.dense", "encoder.layer.*.output.dense"),
    ),
}


@dataclass(slots=True)
class Start:
    """What is compared: standard deviations, and root mean squares of weights' gradients."""

    weights: dict[str, float] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    weight_gradients: dict[str, float] = field(default_factory=dict)


def measured(module: nn.Module, network: Network, names: Sequence[str]) -> Start:
    """Run a network forward and backward once, in training mode.

    Args:
        module: the original, or what was compiled in place from it.
        network: whose batch and blocks are taken.
        names: the allocated weights.
    """
    found = Start()
    hooks = [
        child.register_forward_hook(_block_hook(name, found))
        for name, child in module.named_modules()
        if any(
            fnmatchcase(name, pattern) and name.count(".") == pattern.count(".")
            for pattern in network.blocks
        )
    ]
    assert hooks, network.blocks
    banks = banks_of(module).values()
    hooks += [bank.register_forward_hook(_bank_hook(found), with_kwargs=True) for bank in banks]
    torch.manual_seed(0)  # of dropout
    output = module(*network.inputs())
    output = output if isinstance(output, Tensor) else output[0]
    output.backward(torch.randn(output.shape, generator=_generator()))
    for hook in hooks:
        hook.remove()
    generated = {name: bank for bank in banks for name in bank.layer_names()}
    with torch.no_grad():
        for name in names:
            if name in generated:
                found.weights[name] = spread(generated[name].generate(name))
            else:
                parameter = module.get_parameter(name)
                assert parameter.grad is not None
                found.weights[name] = spread(parameter)
                found.weight_gradients[name] = _rms(parameter.grad)
    module.zero_grad()
    return found


def _block_hook(name: str, found: Start) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        found.activations[name] = float(output.detach().std())
        output.register_hook(lambda g: found.gradients.update({name: float(g.std())}))

    return hook


def _bank_hook(found: Start) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # The rows of an embedding that are looked up are left out: a row that is looked up twice
        # has two gradients there, and one in the original.
        if len(args) == 1 and "rows" not in kwargs and isinstance(output, Tensor):
            (layer,) = args
            output.register_hook(lambda g: found.weight_gradients.update({layer: _rms(g)}))

    return hook


def _rms(values: Tensor) -> float:
    return float(values.detach().float().square().mean().sqrt())


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    network: str
    groups: str
    budget: str
    seed: int = 0


def worst(found: Mapping[str, float], expected: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest factor, up or down, between two starts, and where it is."""
    factors = {
        name: max(value / expected[name], expected[name] / max(value, 1e-30))
        for name, value in found.items()
        if expected.get(name, 0) > 0
    }
    where = max(factors, key=lambda name: factors[name])
    return factors[where], where


def row_of(case: Case, network: Network, model: nn.Module, original: Start) -> Row:
    """Compile a network both ways, and return the worst of everything."""
    started = time.perf_counter()
    plan = npas.plan(model, case.budget, groups=case.groups)
    row: dict[str, Any] = {
        "network": case.network,
        "groups": case.groups,
        "budget": case.budget,
        "seed": case.seed,
        "banks": len(plan.banks),
        "shared": shared(plan),
    }
    names = [layer.name for layer in plan.layers]
    for variant, batch in (("plain", None), ("calibrated", network.inputs())):
        torch.manual_seed(1000 + case.seed)
        module = npas.compile_(copy.deepcopy(model), plan=plan, calibrate=batch)
        start = measured(module, network, names)
        for what in ("weights", "activations", "gradients", "weight_gradients"):
            factor, where = worst(getattr(start, what), getattr(original, what))
            row |= {f"{variant}_{what}": factor, f"{variant}_{what}_at": where}
        del module
    row["seconds"] = time.perf_counter() - started
    return row


def shared(plan: Plan) -> float:
    """Return the share of the allocated elements in layers that share elements of a bank."""
    total = sum(layer.n for layer in plan.layers)
    apart = {n for bank in plan.banks for n in alone(plan.layers_of(bank.name))}
    return sum(layer.n for layer in plan.layers if layer.name not in apart) / total
