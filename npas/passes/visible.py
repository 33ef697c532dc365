"""Visible: what of a model stands in a graph, module by module and weight by weight."""

from torch import nn

from npas.passes.trace import Trace
from npas.plan import Plan


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
