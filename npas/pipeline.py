"""The right half of the pipeline, and the record that passes leave."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from npas.compiled import State
from npas.kernels.backends import check_triton
from npas.module import Shapeshifter
from npas.passes.rewrite import rewrite
from npas.passes.schedule import makes_whole, remakes, schedule_all
from npas.passes.trace import Trace
from npas.passes.visible import submodules, visible_share
from npas.plan import Plan
from npas.report import PassRecord, Report
from npas.ties import tied_names

T = TypeVar("T")


class Recorder:
    """Runs passes and records their name, time, and what they did to the graph."""

    def __init__(self) -> None:
        """Start with no record."""
        self.records: list[PassRecord] = []
        self._nodes: set[str] = set()

    def __call__(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one pass."""
        start = time.perf_counter()
        result = function(*args, **kwargs)
        ms = (time.perf_counter() - start) * 1e3
        graphs: Any = result if name == "schedule" else getattr(result, "graphs", None)
        added = erased = 0
        if graphs is not None:
            nodes = {node.name for node in graphs[True].nodes}
            added, erased = len(nodes - self._nodes), len(self._nodes - nodes)
            self._nodes = nodes
        self.records.append(PassRecord(name, ms, added, erased))
        return result


def check_backend(model: nn.Module, backend: str) -> None:
    """Check that a backend can run where the model is.

    Raises:
        NpasError: saying what is missing.
    """
    if backend == "triton":
        for device in {parameter.device.type for parameter in model.parameters()} - {"meta"}:
            check_triton("compile", device)


def assemble(
    run: Recorder,
    model: nn.Module,
    traced: Trace,
    plan: Plan,
    *,
    tried: tuple[str, ...] = (),
    schedule: str,
    recompute: bool | str,
    backend: str,
) -> Shapeshifter:
    """Rewrite and schedule: return the compiled module, its banks not initialised."""
    rewritten = run("rewrite", rewrite, model, traced, plan, backend, schedule)
    graphs = run("schedule", schedule_all, rewritten.graphs, plan, schedule)
    rewritten.live.whole = makes_whole(plan, schedule, recompute)
    state = State(
        original=type(model),
        plan=plan,
        report=Report(
            traced.front_end,
            traced.leaves,
            tuple(run.records),
            tried,
            visible_share(traced, plan),
            submodules(model, traced),
        ),
        live=rewritten.live,
        recompute=remakes(plan, recompute),
        how={
            "frontend": traced.front_end,
            "n_inputs": traced.n_inputs,
            "keywords": list(traced.keywords),
            "schedule": schedule,
            "recompute": recompute,
        },
        ties=tied_names(model, plan),
    )
    return Shapeshifter(rewritten.root, graphs, traced.guards, state, rewritten.watched)
