"""The right half of the pipeline, and the record that passes leave."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from npas.compiled import State
from npas.kernels.backends import check_triton
from npas.module import Shapeshifter
from npas.passes.rewrite import rewrite
from npas.passes.schedule import schedule_all
from npas.passes.trace import Trace
from npas.plan import Plan
from npas.report import PassRecord, Report

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
    recompute: bool,
    backend: str,
) -> Shapeshifter:
    """Rewrite and schedule: return the compiled module, its banks not initialised."""
    rewritten = run("rewrite", rewrite, model, traced, plan, backend, schedule)
    graphs = run("schedule", schedule_all, rewritten.graphs, plan, schedule)
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
        recompute=recompute,
        how={
            "frontend": traced.front_end,
            "n_inputs": traced.n_inputs,
            "keywords": list(traced.keywords),
            "schedule": schedule,
            "recompute": recompute,
        },
    )
    return Shapeshifter(rewritten.root, graphs, traced.guards, state, rewritten.watched)


def submodules(model: nn.Module, traced: Trace) -> dict[str, str]:
    """Return, for every submodule, the front end that captured its operations, and why."""
    found: dict[str, str] = {}
    called = {
        str(node.target)
        for graph in traced.graphs.values()
        for node in graph.nodes
        if node.op == "call_module"
    }
    for path, _ in model.named_modules():
        whole = next((leaf for leaf in traced.leaves if _is_below(path, leaf)), None)
        if whole is not None:
            found[path] = f"opaque: {traced.leaves[whole]}"
        elif path in called:
            found[path] = f"{traced.front_end}: called"
        else:
            found[path] = f"{traced.front_end}: its operations are in the graph"
    return found


def visible_share(traced: Trace, plan: Plan) -> float:
    """Return the share of the allocated elements whose weight some graph reads or calls for."""
    nodes = [node for graph in traced.graphs.values() for node in graph.nodes]
    read = {str(node.target) for node in nodes if node.op == "get_attr"}
    called = {str(node.target) for node in nodes if node.op == "call_module"}
    seen = sum(
        layer.n
        for layer in plan.layers
        if any(n in read or n.rpartition(".")[0] in called for n in (layer.name, *layer.aliases))
    )
    return seen / sum(layer.n for layer in plan.layers)


def _is_below(path: str, leaf: str) -> bool:
    return not leaf or path == leaf or path.startswith(f"{leaf}.")
