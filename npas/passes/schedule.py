"""Schedule: one generation a layer, where it is first used, or one a bank."""

import copy
import operator
from collections.abc import Mapping

from torch import fx

from npas.passes.rewrite import BANKS
from npas.plan import Plan

SCHEDULES = ("auto", "layer", "bank")


def schedule_all(graphs: Mapping[bool, fx.Graph], plan: Plan, how: str) -> dict[bool, fx.Graph]:
    """Schedule the graph of each mode; one object stays one."""
    done = {id(graph): schedule(graph, plan, how) for graph in graphs.values()}
    return {mode: done[id(graph)] for mode, graph in graphs.items()}


def schedule(graph: fx.Graph, plan: Plan, how: str) -> fx.Graph:
    """Decide when weights are generated.

    ``"layer"`` (and ``"auto"``) leaves a generation where its weight is first used, so that the
    backward pass can drop and make again one weight at a time; without grad a bank then makes all
    its weights in one launch at its first call. ``"bank"`` makes all weights of a bank at the
    first use of any: fewer launches, all of them held.

    Args:
        graph: from `npas.passes.rewrite.rewrite`.
        plan: what is generated.
        how: one of `SCHEDULES`.
    """
    if how != "bank":
        return graph
    graph = copy.deepcopy(graph)
    banks = {f"{BANKS}.{bank.name}": bank.name for bank in plan.banks}
    whole: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_module" or node.target not in banks or "rows" in node.kwargs:
            continue
        bank = banks[str(node.target)]
        with graph.inserting_before(node):
            if bank not in whole:
                whole[bank] = graph.create_node("call_module", str(node.target), (), name=bank)
            weight = graph.create_node(
                "call_function", operator.getitem, (whole[bank], node.args[0])
            )
        node.replace_all_uses_with(weight)
        name = node.name
        graph.erase_node(node)
        weight.name = f"{name}_weight" if name == bank else name
    graph.lint()
    return graph
