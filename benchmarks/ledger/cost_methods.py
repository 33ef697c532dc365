"""The methods whose cost is measured, and the check that npas's are one function."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

import npas
from benchmarks.networks import Network
from benchmarks.peers import PEERS, PeerError, TooSmall
from benchmarks.peers.naive import Naive, naive
from npas.bank import Bank, banks_of

Inputs = tuple[torch.Tensor, ...]
#: Peers with as many parameters as were asked for.
SIZED = ("soft_sharing", "hypernetwork", "reduced_width")
#: Methods that npas is to be at least as fast as.
RIVALS = ("parametrize", "soft_sharing", "hypernetwork")
METHODS = ("dense", "npas", "npas-layer", "npas-bank", "parametrize", *SIZED)
# Gradients in float64, against the tensor's largest and the module's largest.
_OF_TENSOR, _OF_ALL = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class Method:
    """A network as a method has it, in training mode.

    Attributes:
        name: one of `METHODS`.
        module: the network.
        generate: makes every generated weight once, None where none is generated.
        note: what was done, in a line.
    """

    name: str
    module: nn.Module
    generate: Callable[[], object] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """A method that cannot do what was asked.

    Attributes:
        name: one of `METHODS`.
        note: why.
        minimum: the fewest parameters it can do with, None where it does not apply.
    """

    name: str
    note: str
    minimum: int | None


def build_all(
    spec: Network, inputs: Inputs, asked: int, seed: int
) -> tuple[list[Method], list[Absent]]:
    """Build a network by every method.

    npas, npas-layer, npas-bank and parametrize have the same plan and numbers, and are checked to
    give the same outputs and gradients.

    Args:
        spec: the network.
        inputs: of a batch.
        asked: parameters of every method but the dense network.
        seed: each network is drawn with it.
    """
    torch.manual_seed(seed)
    dense = spec.make()
    found = [Method("dense", dense)]
    absent: list[Absent] = []
    ours, missing = _ours(dense, inputs, asked, seed)
    found += ours
    absent += missing
    for name in SIZED:
        torch.manual_seed(seed)
        try:
            built = PEERS[name].build(spec, asked)
        except PeerError as error:
            least = error.minimum if isinstance(error, TooSmall) else None
            absent.append(Absent(name, str(error), least))
            continue
        generate = partial(read_all, built.module) if built.generation_macs else None
        found.append(Method(name, built.module, generate, built.note))
    for method in found:
        method.module.train()
    return found, absent


def _ours(
    dense: nn.Module, inputs: Inputs, asked: int, seed: int
) -> tuple[list[Method], list[Absent]]:
    plan = npas.plan(dense, asked, example_inputs=inputs)
    torch.manual_seed(seed)
    ssn = npas.compile(dense, plan=plan, example_inputs=inputs)
    layer = npas.compile(dense, plan=plan, example_inputs=inputs, recompute=True)
    bank = npas.compile(dense, plan=plan, example_inputs=inputs, schedule="bank", recompute=False)
    for other in (layer, bank):
        other.load_state_dict(ssn.state_dict())
    modes = ", ".join(dict.fromkeys(layer.mode for layer in plan.layers))
    how = f"{len(plan.layers)} weights from {len(plan.banks)} banks ({modes})"
    note = f"{how}; front end {npas.report(ssn).front_end}"
    found = [
        Method("npas", ssn, one_by_one(ssn), note),
        Method("npas-layer", layer, one_by_one(layer), f"{how}; made again"),
        Method("npas-bank", bank, partial(bank_by_bank, bank), f"{how}; kept"),
    ]
    try:
        made = naive(copy.deepcopy(dense), plan)
    except PeerError as error:
        same(ssn, (layer, bank), None, inputs)
        return found, [Absent("parametrize", str(error), None)]
    made.copy_from(ssn)
    same(ssn, (layer, bank), made, inputs)
    module = made.module
    return [*found, Method("parametrize", module, partial(read_all, module), how)], []


def one_by_one(ssn: nn.Module) -> Callable[[], None]:
    """Return what makes all weights as a step does in training mode: a layer after the other.

    Embeddings of which only rows are looked up are not among them: npas never makes them whole.
    """
    layers: list[tuple[Bank, tuple[str, ...]]] = []
    with torch.no_grad():
        for bank in banks_of(ssn).values():
            layers.append((bank, tuple(cast(dict[str, torch.Tensor], bank()))))

    @torch.no_grad()
    def make() -> None:
        for bank, names in layers:
            for name in names:
                bank(name)

    return make


@torch.no_grad()
def bank_by_bank(ssn: nn.Module) -> None:
    """Make all weights of a module in training mode in as few launches as there can be."""
    for bank in banks_of(ssn).values():
        bank()


@torch.no_grad()
def read_all(module: nn.Module) -> None:
    """Read every weight of a module that is parametrized."""
    for child in module.modules():
        if parametrize.is_parametrized(child):
            for name in cast(nn.ModuleDict, child.parametrizations):
                getattr(child, name)


def probe_loss(module: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Return a loss that reaches every output: its mean product with cosines of its places.

    A mean square would not do: that of an output of length 1 is a constant.
    """
    total = inputs[0].new_zeros((), dtype=next(module.parameters()).dtype)
    for out in outputs_of(module(*inputs)):
        places = torch.arange(out.numel(), device=out.device, dtype=out.dtype)
        total = total + (out * places.cos().view_as(out)).mean()
    return total


def outputs_of(found: Any) -> tuple[torch.Tensor, ...]:
    """Return the tensors that a network gives: one, a tuple, or a mapping (transformers)."""
    if isinstance(found, torch.Tensor):
        return (found,)
    return tuple(found.values() if hasattr(found, "values") else found)


def same(
    ssn: nn.Module, scheduled: Sequence[nn.Module], made: Naive | None, inputs: Inputs
) -> None:
    """Check in float64 that outputs and gradients are the same, whatever makes the weights.

    Args:
        ssn: npas, as by default.
        scheduled: npas with other schedules and the same numbers.
        made: the same by parametrize, if that can be.
        inputs: of a batch.

    Raises:
        AssertionError: naming what differs.
    """
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    ours = copy.deepcopy(ssn).double()
    outputs = _step(ours, inputs)
    others = [copy.deepcopy(module).double() for module in scheduled]
    theirs = copy.deepcopy(made)
    for module in others if theirs is None else [*others, theirs.module.double()]:
        for one, other in zip(outputs, _step(module, inputs), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-8)
    # With gradients in place of the numbers, what copies numbers pairs gradients.
    _numbers_to_gradients(ours)
    expected = dict(ours.named_parameters())
    pairs = [(n, expected[n], _gradient(p)) for m in others for n, p in m.named_parameters()]
    if theirs is not None:
        theirs.copy_from(ours)
        pairs += [(n, p, _gradient(p)) for n, p in theirs.module.named_parameters()]
    most = max(float(p.detach().abs().max()) for _, p, _ in pairs)
    assert most > 0, "no parameter has a gradient"
    for name, right, gradient in pairs:
        near = _OF_TENSOR * float(right.detach().abs().max()) + _OF_ALL * most
        off = float((gradient - right.detach()).abs().max())
        assert off <= near, f"{name}: gradients differ by {off:.3g}, of at most {near:.3g}"


def _step(module: nn.Module, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Run forward and backward, with the same dropout at every call; return the outputs."""
    module.train()
    kept: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda m, args, out: kept.extend(outputs_of(out)))
    torch.manual_seed(1)
    probe_loss(module, inputs).backward()
    hook.remove()
    return tuple(out.detach() for out in kept)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@torch.no_grad()
def _numbers_to_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.copy_(_gradient(parameter))
