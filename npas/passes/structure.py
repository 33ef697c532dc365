"""Structure: what a planner can know of a model whose forward fx cannot capture."""

import torch
from torch import fx, nn

from npas.errors import NpasError
from npas.guards import Never
from npas.passes.trace import Trace, trace


def analyse(model: nn.Module, n_inputs: int = 0, keywords: tuple[str, ...] = ()) -> Trace:
    """Return the graph that a plan is made from: the same whatever front end captures the model.

    It is fx's, or where the root's forward defeats fx a list of the modules that hold parameters.

    Args:
        model: any module; it is not changed.
        n_inputs: positional example inputs that are given.
        keywords: names of keyword example inputs that are given.
    """
    try:
        return trace(model, (None,) * n_inputs, dict.fromkeys(keywords))
    except NpasError as error:
        return structure(model, str(error), n_inputs, keywords)


def structure(
    model: nn.Module, why: str, n_inputs: int = 0, keywords: tuple[str, ...] = ()
) -> Trace:
    """List the modules that hold parameters in the order of their definition, as a graph.

    The graph is a chain that says what comes after what, with a call of its class where a module
    with parts begins; it is never run.

    Args:
        model: any module; it is not changed.
        why: there is no better graph.
        n_inputs: positional example inputs that are given.
        keywords: names of keyword example inputs that are given.
    """
    graph = fx.Graph()
    last = graph.placeholder("input")
    for path, module in model.named_modules():
        if path and next(module.children(), None) is None:
            if module._parameters:
                last = graph.create_node("call_module", path, (last,))
            continue
        if path:
            last = graph.call_function(type(module), (last,))  # where a block begins
        for name, _ in module.named_parameters(recurse=False):
            held = graph.create_node("get_attr", f"{path}.{name}" if path else name)
            last = graph.call_function(torch.add, (last, held))
    graph.output(last)
    return Trace(
        {True: graph, False: graph},
        {True: Never(), False: Never()},
        {"": why},
        "structure",
        n_inputs=n_inputs,
        keywords=keywords,
    )
