"""Rewrite: a copy of the model in which weights come from banks."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from npas.bank import Bank
from npas.errors import NpasError
from npas.leaf import Leaf
from npas.naming import identifier
from npas.passes.trace import Trace, clone_module, has_hooks
from npas.plan import Plan
from npas.recompute import LiveWeights

BANKS = "npas.banks"


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The copy of the model and its graphs, before generation is scheduled.

    Attributes:
        root: the copy: kept tensors cloned, banks and leaves in place, banks not initialised.
        graphs: the graph of each mode, one object where they are the same.
        banks: the generated banks by name.
        live: the generated weights that are alive.
    """

    root: nn.Module
    graphs: Mapping[bool, fx.Graph]
    banks: Mapping[str, Bank]
    live: LiveWeights


def rewrite(model: nn.Module, trace: Trace, plan: Plan, backend: str = "auto") -> Rewritten:
    """Copy the model and make every planned weight come from its bank.

    Args:
        model: the original; it is not changed and shares nothing with the copy.
        trace: its graphs.
        plan: checked against the model.
        backend: what generates weights, one of `npas.kernels.backends.BACKENDS`.

    Raises:
        NpasError: if weights of one bank stand on several devices.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    generated = {
        alias: layer.name
        for layer in plan.layers
        if not plan.is_ordinary(layer.bank)
        for alias in (layer.name, *layer.aliases)
    }
    live = LiveWeights()
    rows_only = _rows_only(trace, plan, model, generated)
    banks = {
        bank.name: Bank(
            plan,
            bank.name,
            device=_device(bank.layers, parameters),
            live=live,
            rows_only=rows_only,
            backend=backend,
        )
        for bank in plan.banks
        if not plan.is_ordinary(bank.name)
    }
    root = clone_module(model, _replacements(model, generated, parameters))
    for name in generated:
        owner, _, local = name.rpartition(".")
        # By assignment, which recurrent layers follow in the list that they keep.
        setattr(root.get_submodule(owner), local, None)
    same = trace.graphs[True] is trace.graphs[False]
    graphs: dict[bool, fx.Graph] = {}
    for mode in (True, False) if not same else (True,):
        graphs[mode] = _rewrite_graph(trace.graphs[mode], root, plan, generated, rows_only)
    graphs.setdefault(False, graphs[True])
    _place_leaves(root, graphs.values())
    if banks:
        if hasattr(root, "npas"):
            raise NpasError("the model has an attribute 'npas', where the banks would stand")
        root.npas = nn.ModuleDict({"banks": nn.ModuleDict(banks)}).train(root.training)
    return Rewritten(root, graphs, banks, live)


def _device(layers: tuple[str, ...], parameters: Mapping[str, nn.Parameter]) -> torch.device:
    first = layers[0]
    for name in layers:
        if parameters[name].device != parameters[first].device:
            raise NpasError(
                f"{first} is on {parameters[first].device} and {name} on "
                f"{parameters[name].device}, but they share a bank; move the model to one device "
                "or map them to different banks with groups="
            )
    return parameters[first].device


def _replacements(
    model: nn.Module, generated: Mapping[str, str], parameters: Mapping[str, nn.Parameter]
) -> dict[int, torch.Tensor]:
    """Clone what is kept; what will be generated stays shared until it is taken out."""
    dropped = {id(parameters[name]) for name in generated}
    tensors: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        kept = id(parameter) not in dropped
        tensors[id(parameter)] = _clone(parameter) if kept else parameter
    tensors.update({id(buffer): _clone(buffer) for buffer in model.buffers()})
    return tensors


def _clone(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone(memory_format=torch.preserve_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied


def _rewrite_graph(
    original: fx.Graph,
    root: nn.Module,
    plan: Plan,
    generated: Mapping[str, str],
    rows_only: frozenset[str],
) -> fx.Graph:
    graph = copy.deepcopy(original)
    made: dict[str, fx.Node] = {}

    def weight(layer: str, before: fx.Node) -> fx.Node:
        # Nodes are visited in order, so the first use decides the place.
        if layer not in made:
            with graph.inserting_before(before):
                made[layer] = _generation(graph, plan, layer)
        return made[layer]

    inside = _by_module(generated)
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target in generated:
            layer = generated[str(node.target)]
            if layer in rows_only:
                for user in list(node.users):
                    _look_up(graph, plan, layer, user, user.args[0])
            else:
                node.replace_all_uses_with(weight(layer, node))
            graph.erase_node(node)
        elif node.op == "call_module" and str(node.target) in inside:
            names = inside[str(node.target)]
            layer = generated[names[0]]
            if layer in rows_only:
                ids = node.args[0] if node.args else node.kwargs["input"]
                _look_up(graph, plan, layer, node, ids)
                continue
            start = len(str(node.target)) + 1 if node.target else 0
            values = {name[start:]: weight(generated[name], node) for name in names}
            node.kwargs = {**node.kwargs, "generated": values}
    graph.lint()
    return graph


def _generation(graph: fx.Graph, plan: Plan, layer: str) -> fx.Node:
    bank = plan.layer_by_name[layer].bank
    return graph.create_node(
        "call_module", f"{BANKS}.{bank}", (layer,), name=f"{bank}_{identifier(layer)}"
    )


def _look_up(graph: fx.Graph, plan: Plan, layer: str, node: fx.Node, ids: Any) -> None:
    """Replace an embedding's node by the bank's rows."""
    bank = plan.layer_by_name[layer].bank
    with graph.inserting_before(node):
        rows = graph.create_node(
            "call_module",
            f"{BANKS}.{bank}",
            (layer,),
            {"rows": ids},
            name=f"{bank}_{identifier(layer)}_rows",
        )
    rows.meta["origin"] = node.name
    node.replace_all_uses_with(rows)
    graph.erase_node(node)


def _by_module(generated: Mapping[str, str]) -> dict[str, list[str]]:
    """Return every module path -> the generated names below it."""
    found: dict[str, list[str]] = {}
    for name in generated:
        parts = name.split(".")
        for end in range(len(parts)):
            found.setdefault(".".join(parts[:end]), []).append(name)
    return found


def _rows_only(
    trace: Trace, plan: Plan, model: nn.Module, generated: Mapping[str, str]
) -> frozenset[str]:
    """Return the layers whose every use is a plain lookup of rows."""
    looked_up: set[str] = set()
    otherwise: set[str] = set()
    inside = _by_module(generated)
    padding = {layer.name: layer.padding_idx for layer in plan.layers}
    for graph in set(trace.graphs.values()):
        for node in graph.nodes:
            if node.op == "get_attr" and node.target in generated:
                plain = all(_is_plain_lookup(user, node) for user in node.users)
                (looked_up if plain else otherwise).add(generated[str(node.target)])
            elif node.op == "call_module":
                for name in inside.get(str(node.target), ()):
                    module = model.get_submodule(str(node.target))
                    plain = (
                        type(module) is nn.Embedding
                        and not has_hooks(module)
                        and not module.scale_grad_by_freq
                        and module.padding_idx == padding[generated[name]]
                    )
                    (looked_up if plain else otherwise).add(generated[name])
    two_dimensional = {layer.name for layer in plan.layers if len(layer.shape) == 2}
    return frozenset((looked_up - otherwise) & two_dimensional)


def _is_plain_lookup(user: fx.Node, weight: fx.Node) -> bool:
    return (
        user.target is F.embedding
        and len(user.args) == 2
        and user.args[1] is weight
        and user.kwargs.get("padding_idx") is None
        and user.kwargs.get("max_norm") is None
        and not user.kwargs.get("sparse")
        and not user.kwargs.get("scale_grad_by_freq")
    )


def _place_leaves(root: nn.Module, graphs: Iterable[fx.Graph]) -> None:
    """Put a `Leaf` wherever a module that is called with generated weights stands."""
    paths = {
        str(node.target)
        for graph in set(graphs)
        for node in graph.nodes
        if node.op == "call_module" and "generated" in node.kwargs
    }
    leaves = {id(root.get_submodule(path)): Leaf(root.get_submodule(path)) for path in paths}
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if id(child) in leaves:
                parent._modules[name] = leaves[id(child)]
