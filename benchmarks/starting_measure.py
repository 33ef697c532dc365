"""A start, measured: one forward and backward of a compiled network against the original's."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from npas.bank import banks_of
from npas.init import spread


@dataclass(frozen=True, slots=True)
class Network:
    """A network, a batch for it, and what modules' outputs are looked at.

    Attributes:
        make: makes it, with random weights.
        inputs: the same batch at every call.
        blocks: a regular expression: the names of the blocks.
        inside: of modules within the blocks, if any.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    blocks: str
    inside: str = "(?!)"


@dataclass(slots=True)
class Start:
    """What is compared: standard deviations, and root mean squares of weights' gradients."""

    weights: dict[str, float] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    inside: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    weight_gradients: dict[str, float] = field(default_factory=dict)


def measured(module: nn.Module, network: Network, names: Sequence[str]) -> Start:
    """Run a network forward and backward once, in training mode.

    Args:
        module: the original, or what was compiled in place from it with ``recompute=True``: the
            gradient of a weight is seen where its bank makes it alone.
        network: whose batch and blocks are taken.
        names: the allocated weights.
    """
    found = Start()
    hooks = [
        child.register_forward_hook(_output_hook(name, spreads, found.gradients))
        for pattern, spreads in (
            (network.blocks, found.activations),
            (network.inside, found.inside),
        )
        for name, child in module.named_modules()
        if re.fullmatch(pattern, name)
    ]
    assert hooks, network.blocks
    banks = banks_of(module).values()
    hooks += [bank.register_forward_hook(_bank_hook(found), with_kwargs=True) for bank in banks]
    torch.manual_seed(0)  # of dropout
    output = module(*network.inputs())
    output = output if isinstance(output, Tensor) else output[0]
    output.backward(torch.randn(output.shape, generator=generator()))
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


def _output_hook(
    name: str, spreads: dict[str, float], gradients: dict[str, float]
) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        spreads[name] = float(output.detach().std())
        output.register_hook(lambda g: gradients.update({name: float(g.std())}))

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


def compared(variant: str, start: Start, original: Start) -> dict[str, Any]:
    """Return the largest factor, up or down, between two starts, and where it is."""
    row: dict[str, Any] = {}
    for what in ("weights", "activations", "inside", "gradients", "weight_gradients"):
        found, expected = getattr(start, what), getattr(original, what)
        factors = {
            name: max(found[name] / size, size / max(found[name], 1e-30))
            for name, size in expected.items()
            if size > 0 and name in found
        }
        if not factors:
            continue
        where = max(factors, key=lambda name: factors[name])
        row |= {f"{variant}_{what}": factors[where], f"{variant}_{what}_at": where}
    return row


def normal(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape, generator=generator()),)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
