"""What a training step costs in time and memory, by npas and by what it is compared with."""

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from scipy.stats import binomtest

from benchmarks import paper
from benchmarks.ledger.cost_memory import step_memory
from benchmarks.ledger.cost_methods import RIVALS, Inputs, Method, build_all, probe_loss
from benchmarks.ledger.plots import step_memory_plot, step_time_plot
from benchmarks.ledger.suite import Case, Plot, Rows, Suite
from benchmarks.networks import Network, network
from benchmarks.networks.bert import bert
from benchmarks.networks.embnet import embnet
from benchmarks.networks.spec import features, tokens
from benchmarks.peers.base import n_params
from benchmarks.runner import Times, paired
from benchmarks.tables import Column, Row, Section, count, ms, percent, times
from benchmarks.training import Step

CPU = torch.device("cpu")
ROUNDS, QUICK_ROUNDS = 15, 3
SEED = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """A network, the batch it is trained with, and the budgets.

    Attributes:
        name: of the network.
        batch: samples.
        budgets: each a case.
        spec: the network, where `benchmarks.networks` has none of the name.
    """

    name: str
    batch: int
    budgets: tuple[str, ...]
    spec: Network | None = None

    @property
    def network(self) -> Network:
        """The network."""
        return self.spec or network(self.name)


# SWRN and HyperNetworks can be had at half of a convolutional network's parameters.
_CONV = ("50%", "10%")
_OTHER = ("10%", "50%")
# Base shapes, with as many layers as leave a step below a second.
_BERT = replace(
    network("bert-base"),
    make=partial(bert, 768, 4),
    inputs=tokens(30_522, 64),
    published=None,
    source="BERT-base with 4 of its 12 layers, on 64 tokens",
    scaled=lambda factor: bert(768, 4, factor),
    shallower=tuple(partial(bert, 768, fewer) for fewer in range(1, 4)),
)
#: A dense step takes 30 to 700 ms on two threads.
SETTINGS = (
    Setting("wrn-16-2", 32, _CONV),
    # At half of its parameters a step with a hypernetwork takes 20 seconds.
    Setting("wrn-28-10", 2, ("10%",)),
    Setting("wrn-40-2", 8, _CONV),
    Setting("resnet-56", 16, _CONV),
    Setting("densenet-bc-100-12", 4, _CONV),
    Setting("efficientnet-b0", 2, _CONV),
    Setting("embnet", 32, _OTHER),
    # The smallest batch that batch norm takes: generation cannot hide behind the products.
    Setting("embnet", 2, _OTHER),
    Setting("adapt-t2i", 8, _OTHER),
    Setting("simnet", 64, _OTHER),
    Setting("bert-base-4", 1, _OTHER, _BERT),
)
_SMALL = replace(
    network("embnet"),
    make=partial(embnet, 64, 32, 64, 32),
    inputs=features((64,), (32,)),
    scaled=lambda factor: embnet(64, 32, max(1, int(64 * factor + 0.5)), 32),
    published=None,
    source="EmbNet, scaled down",
)
QUICK = (Setting("wrn-16-1", 2, ("50%",)), Setting("embnet-small", 2, ("50%",), _SMALL))


def rows_of(setting: Setting, budget: str, rounds: int = ROUNDS, seed: int = SEED) -> Rows:
    """Measure one network at one budget by every method, in turn.

    Args:
        setting: network and batch.
        budget: as printed, such as ``"10%"``.
        rounds: of the medians.
        seed: of the numbers at the start.

    Raises:
        AssertionError: if those of npas and parametrize are not the same function.
    """
    spec = setting.network
    with torch.device("meta"):
        n_dense = n_params(spec.make())
    asked = paper.n_params(budget, n_dense)
    inputs = spec.inputs(setting.batch)
    methods, absent = build_all(spec, inputs, asked, seed)
    base = {"network": setting.name, "kind": spec.kind, "budget": budget, "asked": asked}
    base |= {"batch": setting.batch}
    made = {"rounds": rounds, "seed": seed}
    measured = _measure(methods, inputs, rounds)
    rows: Rows = [
        base
        | {"method": method.name, "params": n_params(method.module)}
        | measured[method.name]
        | made
        | {"minimum": None, "note": method.note}
        for method in methods
    ]
    empty = dict.fromkeys(("params", *next(iter(measured.values()))))
    return rows + [
        base | {"method": a.name} | empty | made | {"minimum": a.minimum, "note": a.note}
        for a in absent
    ]


def _measure(methods: Sequence[Method], inputs: Inputs, rounds: int) -> dict[str, dict[str, Any]]:
    steps = {m.name: Step(m.module, partial(probe_loss, m.module, inputs)) for m in methods}
    of_steps = paired(steps, CPU, rounds)
    optimizer = {n: statistics.median(step.optimizer_ms[-rounds:]) for n, step in steps.items()}
    makers = {m.name: m.generate for m in methods if m.generate is not None}
    of_makers = paired(makers, CPU, rounds)
    gc.collect()
    memory = {m.name: step_memory(m.module, steps[m.name], inputs) for m in methods}
    steps.clear()  # the optimizers' state
    for method in methods:
        method.module.eval()
    of_eval = paired({m.name: _forward(m, inputs) for m in methods}, CPU, rounds)
    return {
        m.name: {
            "step_ms": of_steps.ms(m.name),
            "step_spread": of_steps.spread(m.name),
            "optimizer_ms": optimizer[m.name],
            "eval_ms": of_eval.ms(m.name),
            "generation_ms": of_makers.ms(m.name) if m.name in makers else None,
            "to_npas": of_steps.ratio(m.name, "npas"),
            "to_dense": of_steps.ratio(m.name, "dense"),
            "npas_slower": _slower(of_steps, "npas", m.name),
            **memory[m.name],
        }
        for m in methods
    }


def _forward(method: Method, inputs: Inputs) -> Callable[[], object]:
    @torch.no_grad()
    def forward() -> object:
        return method.module(*inputs)

    return forward


def _slower(found: Times, one: str, other: str) -> int:
    """Return in how many rounds one took longer than the other."""
    return sum(a > b for a, b in zip(found.rounds[one], found.rounds[other], strict=True))


def cases_of(
    settings: Sequence[Setting] = SETTINGS,
    rounds: int = ROUNDS,
    budgets: Sequence[str] | None = None,
) -> list[Case]:
    """Return a case a network, batch and budget.

    Args:
        settings: networks and batches.
        rounds: of the medians.
        budgets: only these, None for all.
    """
    return [
        Case(f"{s.name}-b{s.batch}-{budget}", partial(rows_of, s, budget, rounds))
        for s in settings
        for budget in s.budgets
        if budgets is None or budget in budgets
    ]


_WHICH = (
    Column("network", "network"),
    Column("batch", "batch"),
    Column("budget", "budget"),
    Column("method", "method"),
    Column("trained", "params", count),
)


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return a table of time, one of memory, and one of what could not be had."""
    measured = [row for row in rows if row["step_ms"] is not None]
    return [
        Section("Time", _time_note(measured), _time_columns(), measured),
        Section("Memory of a step", _MEMORY_NOTE, _memory_columns(), measured),
        Section(
            "Not measured",
            "Methods that do not apply to a network, or cannot do with so few parameters.",
            [
                *_WHICH[:4],
                Column("asked", "asked", count),
                Column("minimum", "minimum", count),
                Column("why", "note"),
            ],
            [row for row in rows if row["step_ms"] is None],
        ),
    ]


def _time_columns() -> list[Column]:
    return [
        *_WHICH,
        Column("step ms", "step_ms", ms),
        Column("spread", "step_spread", percent),
        Column("to npas", "to_npas", times),
        Column("to dense", "to_dense", times),
        Column("optimizer ms", "optimizer_ms", ms),
        Column("evaluation ms", "eval_ms", ms),
        Column("generation ms", "generation_ms", ms),
        Column("how", "note"),
    ]


def _memory_columns() -> list[Column]:
    kinds = ("weights", "gradients", "optimizer", "saved", "temporaries", "peak")
    return [*_WHICH, *(Column(f"{kind} MB", f"{kind}_bytes", _mb) for kind in kinds)]


_MEMORY_NOTE = (
    "MB (1e6 bytes) by kind. Weights, gradients and the state of AdamW are of what is trained. "
    "Saved is what the forward pass holds for the backward pass beside those and the inputs. "
    "Temporaries are the most of all else at once: generated weights that are made where they are "
    "used, and what operators need on the way. Peak is the most of all kinds at once, at most "
    "about their sum, as saved memory goes while gradients come. What oneDNN takes for itself is "
    "not seen."
)


_WHY = (
    " On networks of many small layers npas's generation and its gradients, functions of Python "
    "that are called a bank at a time, take longer than the few native operators a layer that "
    "parametrize and soft sharing are written in. On large layers those operators' temporaries "
    "take longer."
)


def _time_note(rows: Sequence[Row]) -> str:
    found = {True: [], False: []}
    for r in slower(rows):
        found[resolved(r)].append(
            f"{r['network']} (batch {r['batch']}, {r['budget']}) {r['method']} {r['to_npas']:.3f}, "
            f"in {r['npas_slower']} of {r['rounds']} rounds"
        )
    return (
        "A step is forward, backward and AdamW (fused); all methods of a network take turns in "
        "one process. Spread is the distance between the quartiles, in medians. To npas and to "
        "dense are medians of the rounds' ratios: above 1, the method "
        "takes longer. npas (the defaults) makes each weight where it is used and again for the "
        "backward pass, or, where they are small (32 MiB in all, 512 KiB a layer), those of a bank "
        "at once, and keeps them. npas-layer always does the first, npas-bank the second; "
        "parametrize makes the same weights from the same parameters by autograd (outputs and "
        "gradients of all four are checked to be equal in float64). "
        "Evaluation is a forward pass without grad once npas has made its weights; peers make "
        "theirs at each. Generation makes every weight once without grad: npas as its step does, "
        "but for embeddings of which rows are looked up, which parametrize makes whole. "
        f"Methods whose step is faster than npas's, of {', '.join(RIVALS)}, resolved by a sign "
        f"test at 5%: {'; '.join(found[True]) or 'none'}. Not resolved: "
        f"{'; '.join(found[False]) or 'none'}.{_WHY if found[True] else ''}"
    )


def slower(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of `RIVALS` whose step takes less than npas's."""
    return [
        r for r in rows if r["method"] in RIVALS and r["to_npas"] is not None and r["to_npas"] < 1
    ]


def resolved(row: Row) -> bool:
    """Tell whether npas is behind in more rounds than chance explains (two-sided sign test, 5%)."""
    return bool(binomtest(row["npas_slower"], row["rounds"]).pvalue < 0.05)


def _mb(value: float) -> str:
    return f"{value / 1e6:,.1f}"


SUITE = Suite(
    "cost",
    "Time and memory of a training step",
    cases_of,
    sections,
    (
        Plot("step_memory", "Memory of a training step by kind", step_memory_plot),
        Plot("step_time", "Time of a training step against the dense network's", step_time_plot),
    ),
)
