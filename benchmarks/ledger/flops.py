"""Multiply-accumulates of every network, at every budget of the paper, beside the peers'."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import npas
from benchmarks import paper
from benchmarks.ledger.plots import overhead_plot
from benchmarks.ledger.suite import Case, Plot, Rows, Suite
from benchmarks.networks import NETWORKS, example_inputs, network
from benchmarks.networks.spec import OUR_OWN
from benchmarks.peers import PEERS, Built, PeerError, TooSmall
from benchmarks.peers.hypernetwork import hypernetwork
from benchmarks.tables import Column, Row, Section, count, percent
from npas.counting import MODES
from npas.counting_view import number

BATCHES = (1, 64)
#: Of networks that the paper trains at no budget that its tables print.
OTHER_BUDGETS = ("10%", "50%", "100%")
#: What is counted beside npas and the dense network.
PEER_NAMES = ("hypernetwork", "soft_sharing", "lcnn")
METHODS = ("dense", "npas", *PEER_NAMES)
#: In place of a budget: a peer as its paper has it.
PUBLISHED = "as published"


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
    return [row for row in _rows(name, batches, methods) if row["method"] in methods]


def _rows(name: str, batches: Sequence[int], methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    spec = network(name)
    with torch.device("meta"):
        dense = spec.make()
    _training(dense)
    inputs = {batch: example_inputs(name, batch, "meta") for batch in batches}
    n_dense = sum(p.numel() for p in dense.parameters() if p.requires_grad)
    macs = counted(dense, inputs[batches[0]]) // batches[0]
    base = {"network": name, "kind": spec.kind, "macs": macs}
    for batch in batches:
        assert counted(dense, inputs[batch]) == batch * macs, name
        for mode in MODES:
            row = {"budget": "100%", "method": "dense", "batch": batch, "mode": mode}
            yield base | row | {"params": n_dense} | _totals(macs, 0)
    for budget in budgets_of(name):
        asked = paper.n_params(budget, n_dense)
        base |= {"budget": budget, "asked": asked}
        if "npas" in methods:
            for row in _npas_rows(name, dense, asked, inputs, macs):
                yield base | {"method": "npas"} | row
        for method in (method for method in PEER_NAMES if method in methods):
            for row in _peer_rows(partial(PEERS[method].build, spec, asked), inputs, macs):
                yield base | {"method": method} | row
    if "hypernetwork" in methods:
        base |= {"budget": PUBLISHED, "asked": None, "method": "hypernetwork"}
        for row in _peer_rows(lambda: hypernetwork(spec.make()), inputs, macs):
            if "params" in row:
                yield base | row


def _npas_rows(
    name: str,
    dense: nn.Module,
    asked: int,
    inputs: Mapping[int, tuple[torch.Tensor, ...]],
    macs: int,
) -> Iterator[dict[str, Any]]:
    first = next(iter(inputs))
    plan = npas.plan(dense, asked, example_inputs=inputs[first])
    # With more samples it is seen what all of them share.
    found = npas.count(dense, plan, example_inputs(name, 2, "meta"))
    assert found.macs == macs, (found.macs, macs)
    params = plan.params
    made = {
        "params": plan.n_params,
        "coefficients": params["coefficients"] + params["layer embeddings"],
        "masks": params["masks"],
        "upsampled": sum(layer.k == 0 for layer in plan.layers),
        "formula_overhead": found.formula / macs,
        "k": plan.k,
    }
    ssn = npas.compile(dense, plan=plan, example_inputs=inputs[first])
    for batch, x in inputs.items():
        for mode in MODES:
            generation = found.generation(batch, mode)
            seen = _steady(ssn, x, mode)
            totals = _totals(macs, generation)
            agrees = seen == batch * (macs + generation)
            note = "" if agrees else f"FlopCounterMode counts {seen / batch:,.0f} a sample"
            yield made | totals | {"batch": batch, "mode": mode, "agrees": agrees, "note": note}
    batch, x = first, inputs[first]
    steps = [_step(module, x) for module in (dense, ssn)]
    yield (
        made
        | _totals(macs, 0)
        | {
            "batch": batch,
            "mode": "step",
            "total_macs": steps[1] / batch,
            "overhead": steps[1] / steps[0] - 1,
        }
    )


def _peer_rows(
    build: Callable[[], Built], inputs: Mapping[int, tuple[torch.Tensor, ...]], macs: int
) -> Iterator[dict[str, Any]]:
    try:
        with torch.device("meta"):
            built = build()
    except PeerError as error:
        least = error.minimum if isinstance(error, TooSmall) else None
        for batch in inputs:
            for mode in MODES:
                yield {"batch": batch, "mode": mode, "minimum": least, "note": str(error)}
        return
    for batch, x in inputs.items():
        for mode in MODES:
            baked = mode == "eval" and built.generation_macs
            seen = batch * macs if baked else counted(_training(built.module, mode == "train"), x)
            generation = 0 if baked else built.generation_macs
            agrees = not generation or seen == batch * macs + generation
            yield {
                "batch": batch,
                "mode": mode,
                "params": built.n_params,
                **_totals(macs, Fraction(generation, batch)),
                "total_macs": number(Fraction(seen, batch)),
                "overhead": seen / batch / macs - 1,
                "agrees": agrees,
                "note": built.note,
            }


def _totals(macs: int | Fraction, generation: int | Fraction) -> dict[str, Any]:
    return {
        "generation_macs": number(generation),
        "total_macs": number(macs + generation),
        "overhead": float(generation / macs),
    }


def counted(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Return the multiply-accumulates of a forward pass that `FlopCounterMode` sees."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def _training(module: nn.Module, mode: bool = True) -> nn.Module:
    """Set the mode, but for batch norm, which costs the same in both and refuses one sample."""
    module.train(mode)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
    return module


def _steady(ssn: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str) -> int:
    """Count a forward pass once weights that are kept have been made."""
    if mode == "train":
        return counted(_training(ssn), inputs)
    ssn.eval()
    with torch.no_grad():
        ssn(*inputs)
        return counted(ssn, inputs)


def _step(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """Count a forward and a backward pass."""
    _training(module)
    with FlopCounterMode(display=False) as counter:
        out = module(*inputs)
        first = out if isinstance(out, torch.Tensor) else next(iter(dict(out).values()))
        first.sum().backward()
    return counter.get_total_flops() // 2


def cases() -> list[Case]:
    """Return a case a network."""
    return [Case(name, partial(rows_of, name)) for name in names()]


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.3%}"


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return what npas adds, what peers add, and where the counts differ."""
    ours = [_wide(row, rows) for row in rows if row["method"] == "npas" and _first(row)]
    theirs = [_peer_line(row, rows) for row in rows if row["method"] in PEERS and _first(row)]
    agree = [row["agrees"] for row in rows if "agrees" in row]
    different = [row for row in rows if row.get("agrees") is False]
    both = "; ".join(f"{r['network']} {r['method']} {r['budget']}: {r['note']}" for r in different)
    return [
        Section(
            "npas at every budget of the paper",
            "Parameters asked and trained, of which coefficients and masks; layers that are larger "
            "than their bank; multiply-accumulates of one sample, of generation once a forward "
            "pass, and the overhead at each batch size in training. The formula is the sum of "
            "K_i n_i over the network's own count; it differs where rows of an embedding are made "
            "and not the whole. In evaluation weights are kept, and after "
            "`npas.materialize` the count is the dense network's. A whole step (forward and "
            "backward, weights made again) is compared with the dense network's step. "
            f"The count from the plan and FlopCounterMode's agree in {sum(agree)} of {len(agree)} "
            f"rows{': ' + both if both else ', all of them'}.",
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("asked", "asked", count),
                Column("trained", "params", count),
                Column("coefficients", "coefficients", count),
                Column("masks", "masks", count),
                Column("upsampled", "upsampled"),
                Column("MACs", "macs", count),
                Column("generation", "generation_macs", _whole),
                Column("formula", "formula_overhead", _share),
                Column("batch 1", "overhead", _share),
                Column("batch 64", "at_64", _share),
                Column("eval, batch 1", "in_eval", _share),
                Column("step, batch 1", "step", _share),
            ],
            ours,
        ),
        Section(
            "Peers at the same budgets",
            "What each peer trains with at most that many parameters, and what it adds to a "
            "forward pass at batch 1 in training, beside npas. A peer that cannot meet a budget "
            "has its own minimum. LCNN replaces products instead of generating weights: in "
            "training every filter may use all of its dictionary.",
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("method", "method"),
                Column("asked", "asked", count),
                Column("trained", "params", count),
                Column("minimum", "minimum", count),
                Column("MACs a sample", "total_macs", _whole),
                Column("overhead", "overhead", percent),
                Column("npas", "npas", percent),
                Column("in eval", "in_eval", percent),
                Column("how", "note"),
            ],
            theirs,
        ),
    ]


def _first(row: Row) -> bool:
    return row["batch"] == BATCHES[0] and row["mode"] == "train"


def _same(row: Row, rows: Sequence[Row], **changed: Any) -> Row:
    """Return the row that differs from another in what is given, empty if there is none."""
    keys = ("network", "budget", "method", "batch", "mode")
    wanted = {key: changed.get(key, row[key]) for key in keys}
    return next((r for r in rows if all(r[key] == wanted[key] for key in keys)), {})


def _wide(row: Row, rows: Sequence[Row]) -> Row:
    return {
        **row,
        "at_64": _same(row, rows, batch=64).get("overhead"),
        "in_eval": _same(row, rows, mode="eval").get("overhead"),
        "step": _same(row, rows, mode="step").get("overhead"),
    }


def _peer_line(row: Row, rows: Sequence[Row]) -> Row:
    return {
        **row,
        "npas": _same(row, rows, method="npas").get("overhead"),
        "in_eval": _same(row, rows, mode="eval").get("overhead"),
    }


SUITE = Suite(
    "flops",
    "Multiply-accumulates",
    cases,
    sections,
    (Plot("overhead", "Overhead of generation against batch size", overhead_plot),),
)
