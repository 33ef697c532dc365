"""Front ends: capture the root's forward with the first that reproduces the original."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from npas.errors import TraceError
from npas.guards import ArgumentGuard, Never
from npas.module import opaque_graph
from npas.passes.export import export
from npas.passes.trace import Trace
from npas.passes.verify import compare
from npas.passes.visible import visible_share
from npas.plan import Plan

FRONTENDS = ("auto", "fx", "export", "opaque")


def capture(
    model: nn.Module,
    analysis: Trace,
    plan: Plan,
    frontend: str,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Trace, tuple[str, ...]]:
    """Capture ``model.forward``, and check the graph against the original on the example inputs.

    Args:
        model: any module; it is not changed.
        analysis: from `npas.passes.structure.analyse`: fx's graph, or why there is none.
        plan: whose weights a graph should show.
        frontend: one of `FRONTENDS`; ``"auto"`` takes the first that shows any weight and gives
            the original's outputs bit for bit.
        example_inputs: positional inputs of forward.
        example_kwargs: keyword inputs of forward.

    Returns:
        The graphs, and what became of each front end that was tried.

    Raises:
        TraceError: if the front end that was asked for cannot capture the model, or its graph
            computes something else.
    """
    tried: list[str] = []
    for name in ("fx", "export", "opaque") if frontend == "auto" else (frontend,):
        try:
            found = _run(name, model, analysis, example_inputs, example_kwargs)
            verdict = _check(model, found, example_inputs, example_kwargs, exact=frontend == "auto")
            if frontend == "auto" and name == "fx" and not visible_share(found, plan):
                raise TraceError(f"fx sees no weight: {next(iter(found.leaves.items()))}")
        except TraceError as error:
            if frontend != "auto":
                raise
            tried.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        tried.append(f"{name}: {verdict}")
        return found, tuple(tried)
    raise AssertionError("opaque captures everything")


def opaque(analysis: Trace, why: str) -> Trace:
    """Return a graph of one call of the original's forward."""
    graph = opaque_graph()
    return replace(
        analysis,
        graphs={True: graph, False: graph},
        guards={True: Never(), False: Never()},
        front_end="opaque",
        parts={},
        leaves={"": why},
    )


def _run(
    name: str,
    model: nn.Module,
    analysis: Trace,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None,
) -> Trace:
    if name == "export":
        return export(model, example_inputs, example_kwargs)
    if name == "opaque":
        return opaque(analysis, analysis.leaves.get("", "asked for"))
    if analysis.front_end != "fx":
        raise TraceError(analysis.leaves[""])
    guards = {
        mode: guard.for_examples(example_inputs, example_kwargs or {})
        for mode, guard in analysis.guards.items()
        if isinstance(guard, ArgumentGuard)
    }
    return replace(analysis, guards=guards)


def _check(
    model: nn.Module,
    found: Trace,
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None,
    *,
    exact: bool,
) -> str:
    is_opaque = found.front_end == "opaque"
    inputs = tuple(example_inputs), dict(example_kwargs or {})
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    real = (inputs[0] or inputs[1]) and not any(
        t.is_meta for t in (*tensors, *model.parameters(), *model.buffers())
    )
    if is_opaque:
        return compare(model, None, *inputs) if real else "the original's own forward"
    if not (inputs[0] or inputs[1]):
        return "taken for its structure alone: no example inputs to compare with"
    if not real:
        return "taken for its structure alone: meta tensors have no values to compare"
    return compare(model, found, *inputs, exact=exact)
