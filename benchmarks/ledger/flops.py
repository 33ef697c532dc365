"""Multiply-accumulates of every network, at every budget of the paper, beside the peers'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import npas
from benchmarks import paper
from benchmarks.ledger.flops_tables import PUBLISHED, sections
from benchmarks.ledger.plots import overhead_plot
from benchmarks.ledger.suite import Case, Plot, Rows, Suite
from benchmarks.networks import NETWORKS, example_inputs, network
from benchmarks.networks.spec import OUR_OWN
from benchmarks.peers import PEERS, Built, PeerError, TooSmall
from benchmarks.peers.hypernetwork import hypernetwork
from npas.counting import MODES, Count
from npas.counting_view import number
from npas.kernels.combine_linear.cost import fused, written
from npas.plan import Plan

Inputs = tuple[torch.Tensor, ...]

BATCHES = (1, 64)
ITEMSIZE = 4
#: Of networks that the paper trains at no budget that its tables print.
OTHER_BUDGETS = ("10%", "50%", "100%")
#: What is counted beside npas and the dense network.
PEER_NAMES = ("hypernetwork", "soft_sharing", "lcnn")
METHODS = ("dense", "npas", "npas-single", *PEER_NAMES)


def names() -> list[str]:
    """Return the networks of the paper, without the small ones of our own."""
    return [name for name, spec in NETWORKS.items() if spec.source != OUR_OWN]


def budgets_of(name: str) -> tuple[str, ...]:
    """Return the budgets of a network: the paper's, or `OTHER_BUDGETS`."""
    found = tuple(b.budget for b in paper.budgets() if b.network == name)
    return found or OTHER_BUDGETS


def rows_of(name: str, batches: Sequence[int] = BATCHES, methods: Sequence[str] = METHODS) -> Rows:
    """Count one network at all of its budgets.

    Args:
        name: of the network.
        batches: sizes; a training step is counted at the first.
        methods: some of `METHODS`.

    Raises:
        KeyError: if there is no such network.
    """
    found = list(_rows(_Subject.of(name, batches), methods))
    return [row for row in found if row["method"] in methods]


@dataclass(frozen=True, slots=True)
class _Subject:
    """A network that is counted.

    Attributes:
        name: in the registry.
        dense: the network on meta tensors.
        inputs: batch size -> inputs on meta tensors.
        macs: (batch size, mode) -> multiply-accumulates of one sample. They depend on both where a
            layer does something for the batch as a whole, as network deconvolution does.
    """

    name: str
    dense: nn.Module
    inputs: Mapping[int, Inputs]
    macs: Mapping[tuple[int, str], Fraction]

    @staticmethod
    def of(name: str, batches: Sequence[int]) -> "_Subject":
        with torch.device("meta"):
            dense = network(name).make()
        inputs = {batch: example_inputs(name, batch, "meta") for batch in batches}
        macs = {
            (batch, mode): Fraction(counted(_set_mode(dense, mode), x), batch)
            for batch, x in inputs.items()
            for mode in MODES
        }
        return _Subject(name, dense, inputs, macs)

    @property
    def n_params(self) -> int:
        return sum(p.numel() for p in self.dense.parameters() if p.requires_grad)

    def totals(self, batch: int, mode: str, generation: Fraction | int) -> dict[str, Any]:
        """Return the multiply-accumulates of one sample, with what generation adds."""
        return {"batch": batch, "mode": mode, **_totals(self.macs[batch, mode], generation)}


def _rows(subject: _Subject, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    spec = network(subject.name)
    base: dict[str, Any] = {"network": subject.name, "kind": spec.kind}
    for batch, mode in subject.macs:
        dense = {"budget": "100%", "method": "dense", "params": subject.n_params}
        yield base | dense | subject.totals(batch, mode, 0)
    for budget in budgets_of(subject.name):
        asked = paper.n_params(budget, subject.n_params)
        base |= {"budget": budget, "asked": asked}
        if "npas" in methods:
            for row in _npas_rows(subject, asked):
                yield base | {"method": "npas"} | row
        if "npas-single" in methods:
            for row in _single_rows(subject, asked):
                yield base | {"method": "npas-single"} | row
        for method in (method for method in PEER_NAMES if method in methods):
            for row in _peer_rows(subject, partial(PEERS[method].build, spec, asked)):
                yield base | {"method": method} | row
    if "hypernetwork" in methods:
        base |= {"budget": PUBLISHED, "asked": None, "method": "hypernetwork"}
        for row in _peer_rows(subject, lambda: hypernetwork(spec.make())):
            if row["params"] is not None:
                yield base | row


def _planned(subject: _Subject, asked: int, groups: str) -> tuple[Count, dict[str, Any]]:
    # With two samples it is seen what all of them share.
    pair = example_inputs(subject.name, 2, "meta")
    plan = npas.plan(subject.dense, asked, groups=groups, example_inputs=pair)
    found = npas.count(subject.dense, plan, pair)
    params = plan.params
    first = next(iter(subject.inputs))
    return found, {
        "params": plan.n_params,
        "coefficients": params["coefficients"] + params["layer embeddings"],
        "masks": params["masks"],
        "upsampled": sum(layer.k == 0 for layer in plan.layers),
        "formula_overhead": float(found.formula / subject.macs[first, "train"]),
        "k": plan.k,
    }


def _single_rows(subject: _Subject, asked: int) -> Iterator[dict[str, Any]]:
    """Count with one bank for all layers, where most templates are combined, from the plan."""
    found, made = _planned(subject, asked, "single")
    for size, mode in subject.macs:
        yield made | subject.totals(size, mode, found.generation(size, mode))


def _npas_rows(subject: _Subject, asked: int) -> Iterator[dict[str, Any]]:
    found, made = _planned(subject, asked, "auto")
    plan, (batch, inputs) = found.plan, next(iter(subject.inputs.items()))
    pair = example_inputs(subject.name, 2, "meta")  # makes a graph for any batch
    ssn = npas.compile(subject.dense, plan=plan, example_inputs=pair)
    for (size, mode), macs in subject.macs.items():
        made |= weight_bytes(plan, size)
        generation = found.generation(size, mode)
        seen = Fraction(_steady(ssn, subject.inputs[size], mode), size)
        agrees = seen == macs + generation
        note = "" if agrees else f"FlopCounterMode counts {number(seen):,}"
        yield made | subject.totals(size, mode, generation) | {"agrees": agrees, "note": note}
    if has_grouped(subject.dense):
        return  # FlopCounterMode's formula of a convolution's gradients knows no groups
    before, after = (Fraction(_step(module, inputs), batch) for module in (subject.dense, ssn))
    yield made | {"batch": batch, "mode": "step", **_totals(before, after - before)}


def weight_bytes(plan: Plan, batch: int) -> dict[str, int]:
    """Return the bytes of weights that a forward pass moves in float32, dense and generated.

    Args:
        plan: with multiply-accumulates.
        batch: samples.

    Returns:
        ``dense_bytes`` where weights are read; ``written_bytes`` where they are made first;
        ``fused_bytes`` where products may make them on the way, if that moves less (see
        `npas.kernels.combine_linear.cost`).
    """
    dense = made = best = 0
    for layer in plan.layers:
        if not layer.macs:  # rows are looked up
            continue
        n, k, rows = layer.n, max(1, layer.k), batch * layer.macs // layer.n
        own = n * ITEMSIZE
        dense += own
        if plan.is_ordinary(layer.bank):
            made, best = made + own, best + own
            continue
        cost = written(rows, k, n, ITEMSIZE, training=False).n_bytes
        made += cost
        if layer.is_pointwise and layer.k:
            cost = min(cost, fused(rows, k, n, ITEMSIZE, training=False).n_bytes)
        best += cost
    return {"dense_bytes": dense, "written_bytes": made, "fused_bytes": best}


def _peer_rows(subject: _Subject, build: Callable[[], Built]) -> Iterator[dict[str, Any]]:
    try:
        with torch.device("meta"):
            built = build()
    except PeerError as error:
        least = error.minimum if isinstance(error, TooSmall) else None
        for batch, mode in subject.macs:
            empty = {"params": None, "generation_macs": None, "total_macs": None, "overhead": None}
            place = {"batch": batch, "mode": mode, "macs": number(subject.macs[batch, mode])}
            yield {**place, **empty, "minimum": least, "note": str(error)}
        return
    for (batch, mode), macs in subject.macs.items():
        # What a peer generates does not depend on the input: evaluation can do without.
        baked = mode == "eval" and built.generation_macs > 0
        generation = 0 if baked else Fraction(built.generation_macs, batch)
        seen = macs
        if not baked:
            seen = Fraction(counted(_set_mode(built.module, mode), subject.inputs[batch]), batch)
        # Without generation there is nothing from the equations to compare.
        compared = {"agrees": seen == macs + generation} if generation else {}
        more = ""
        if not compared.get("agrees", True):
            more = f"; FlopCounterMode counts {number(seen):,} (made at every use)"
        yield {
            "params": built.n_params,
            **subject.totals(batch, mode, generation),
            "total_macs": number(seen),
            "overhead": float(seen / macs - 1),
            **compared,
            "note": built.note + more,
        }


def _totals(macs: Fraction, generation: Fraction | int) -> dict[str, Any]:
    return {
        "macs": number(macs),
        "generation_macs": number(generation),
        "total_macs": number(macs + generation),
        "overhead": float(generation / macs),
    }


def has_grouped(module: nn.Module) -> bool:
    """Tell whether a module has a convolution of more than one group."""
    convs = (m for m in module.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return any(conv.groups > 1 for conv in convs)


def counted(module: nn.Module, inputs: Inputs) -> int:
    """Return the multiply-accumulates of a forward pass that `FlopCounterMode` sees."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def _set_mode(module: nn.Module, mode: str) -> nn.Module:
    """Set the mode, but for batch norm, which costs the same in both and refuses one sample."""
    module.train(mode == "train")
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
    return module


def _steady(ssn: nn.Module, inputs: Inputs, mode: str) -> int:
    """Count a forward pass once it is known which weights are kept, and those have been made."""
    _set_mode(ssn, mode)
    with torch.set_grad_enabled(mode == "train"):
        ssn(*inputs)
        return counted(ssn, inputs)


def _step(module: nn.Module, inputs: Inputs) -> int:
    """Count a forward and a backward pass from everything that is returned."""
    _set_mode(module, "train")
    with FlopCounterMode(display=False) as counter:
        returned = tree_leaves(module(*inputs))
        tensors = [t for t in returned if isinstance(t, torch.Tensor) and t.requires_grad]
        torch.autograd.backward(tensors, [torch.ones_like(t) for t in tensors])
    return counter.get_total_flops() // 2


def cases() -> list[Case]:
    """Return a case a network."""
    return [Case(name, partial(rows_of, name)) for name in names()]


SUITE = Suite(
    "flops",
    "Multiply-accumulates",
    cases,
    sections,
    (Plot("overhead", "Overhead of generation against batch size", overhead_plot),),
)
