"""Schedule: one generation a layer, where it is first used, or one a bank; fused products."""

import copy
import operator
from collections.abc import Mapping

import torch
from torch import fx

from npas.kernels.combine_linear.cost import fusing_pays
from npas.passes.rewrite import BANKS
from npas.plan import LayerPlan, Plan

SCHEDULES = ("auto", "layer", "bank", "fused")
#: Generated weights are kept where all of them together are no larger than the one, and in the mean
#: no larger than the other: a network of many small layers (ResNet-56, DenseNet-BC-100-12) spends
#: more on making them again, one by one, than they weigh. One of few large layers does not.
KEPT_BYTES, KEPT_MEAN_BYTES = 32 << 20, 1 << 19


def remakes(plan: Plan, recompute: bool | str) -> bool:
    """Tell whether the weights of a plan are made again for the backward pass.

    Args:
        plan: what is generated.
        recompute: ``"auto"`` keeps what is small: `KEPT_BYTES`.
    """
    if recompute != "auto":
        return bool(recompute)
    sizes = generated_bytes(plan)
    return sum(sizes) > min(KEPT_BYTES, KEPT_MEAN_BYTES * len(sizes))


def makes_whole(plan: Plan, how: str, recompute: bool | str) -> bool:
    """Tell whether a bank makes all of its weights when a pass with grad reads the first.

    Args:
        plan: what is generated.
        how: one of `SCHEDULES`.
        recompute: as for `remakes`; what is asked for by name is done a layer at a time.
    """
    return how == recompute == "auto" and not remakes(plan, recompute)


def generated_bytes(plan: Plan) -> list[int]:
    """Return the bytes of each weight that is generated."""
    return [
        layer.n * getattr(torch, layer.dtype).itemsize
        for layer in plan.layers
        if not plan.is_ordinary(layer.bank)
    ]


def schedule_all(graphs: Mapping[bool, fx.Graph], plan: Plan, how: str) -> dict[bool, fx.Graph]:
    """Schedule the graph of each mode; one object stays one."""
    done = {id(graph): schedule(graph, plan, how) for graph in graphs.values()}
    return {mode: done[id(graph)] for mode, graph in graphs.items()}


def schedule(graph: fx.Graph, plan: Plan, how: str) -> fx.Graph:
    """Decide when weights are generated.

    ``"layer"`` leaves a generation where its weight is first used, so that the backward pass can
    drop and make again one weight at a time; without grad a bank then makes all its weights in one
    launch at its first call, and in a pass with grad too where they are small and kept
    (`makes_whole`). ``"bank"`` makes all weights of a bank at the first use of any: fewer
    launches, all of them held. ``"auto"`` is ``"layer"``, and where a product that generates its
    weight on the way can be the cheaper one (`npas.kernels.combine_linear.cost`) lets the layer
    decide when it knows its input; ``"fused"`` takes that product wherever it is possible.

    Args:
        graph: from `npas.passes.rewrite.rewrite`.
        plan: what is generated.
        how: one of `SCHEDULES`.
    """
    if how == "layer":
        return graph
    graph = copy.deepcopy(graph)
    banks = {f"{BANKS}.{bank.name}": bank.name for bank in plan.banks}
    whole: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_module" or node.target not in banks or "rows" in node.kwargs:
            continue
        if how != "bank":
            if _may_fuse(node, plan.layer_by_name[str(node.args[0])], always=how == "fused"):
                node.kwargs = {"defer": "always" if how == "fused" else "pays"}
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


def _may_fuse(node: fx.Node, layer: LayerPlan, *, always: bool) -> bool:
    """Tell whether a generated weight is only multiplied with, once, and perhaps by few rows."""
    users = list(node.users)
    if not layer.is_pointwise or not layer.k or len(users) != 1 or layer.uses != 1:
        return False
    if users[0].op != "call_module" or users[0].kwargs.get("generated") != {"weight": node}:
        return False
    if always or layer.macs is None:
        return True
    # More samples are more rows, and the more rows the less it pays. Under autocast the weight is
    # made in half precision, where it pays with more rows than in float32.
    rows, device = max(1, layer.macs // layer.n), torch.device("cuda")
    return fusing_pays(rows, layer.k, layer.n, 2, training=True, device=device)
