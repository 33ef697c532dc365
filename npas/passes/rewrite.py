"""Rewrite: a copy of the model in which weights come from banks."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from npas.bank import Bank
from npas.compiled import Held
from npas.errors import NpasError
from npas.guards import has_hooks
from npas.leaf import Source, take_over_all
from npas.naming import identifier
from npas.passes.trace import Trace, clone_module, clone_tensor
from npas.plan import LayerPlan, Plan
from npas.recompute import LiveWeights

BANKS = "npas.banks"


@dataclass(frozen=True, slots=True)
class Banks:
    """The banks of a plan for one model, not initialised, and what reads from them.

    Attributes:
        banks: the generated banks by name.
        live: the generated weights that are alive.
        sources: every name of a generated weight -> where it comes from.
    """

    banks: Mapping[str, Bank]
    live: LiveWeights
    sources: Mapping[str, Source]

    def attach(self, root: nn.Module) -> None:
        """Make the modules of a model generate their weights, in place."""
        take_over_all(root, self.sources)

    def hold(self, root: nn.Module, parts: Mapping[str, Any]) -> None:
        """Put the banks, and what the graphs read besides, under ``npas``."""
        held = Held()
        if self.banks:
            held["banks"] = nn.ModuleDict(dict(self.banks))
        if parts:
            held["parts"] = nn.Module()
            for name, part in parts.items():
                if isinstance(part, nn.Module):
                    held["parts"].add_module(name, part)
                else:
                    held["parts"].register_buffer(name, part, persistent=False)
        if held:
            root.npas = held.train(root.training)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The copy of the model and its graphs, before generation is scheduled.

    Attributes:
        root: the copy: kept tensors cloned, its modules read from the banks.
        graphs: the graph of each mode, one object where they are the same.
        banks: the generated banks by name.
        live: the generated weights that are alive.
        watched: modules that the graphs run through without calling them.
    """

    root: nn.Module
    graphs: Mapping[bool, fx.Graph]
    banks: Mapping[str, Bank]
    live: LiveWeights
    watched: tuple[nn.Module, ...]


def rewrite(
    model: nn.Module, trace: Trace, plan: Plan, backend: str = "auto", schedule: str = "layer"
) -> Rewritten:
    """Copy the model and make every planned weight come from its bank.

    Args:
        model: the original; it is not changed and shares nothing with the copy.
        trace: its graphs.
        plan: checked against the model.
        backend: what generates weights, one of `npas.kernels.backends.BACKENDS`.
        schedule: how modules generate that a graph does not give their weights.

    Raises:
        NpasError: if weights of one bank stand on several devices.
    """
    made = make_banks(model, trace, plan, backend, schedule)
    root = clone_module(model, _replacements(model, made.sources))
    made.attach(root)
    same = trace.graphs[True] is trace.graphs[False]
    generated = {name: source.layer for name, source in made.sources.items()}
    rows_only = frozenset(s.layer for s in made.sources.values() if s.rows_only)
    graphs: dict[bool, fx.Graph] = {}
    for mode in (True, False) if not same else (True,):
        graphs[mode] = rewrite_graph(trace.graphs[mode], plan, generated, rows_only)
    graphs.setdefault(False, graphs[True])
    watched = _not_called(root, graphs.values())
    made.hold(root, trace.parts)
    return Rewritten(root, graphs, made.banks, made.live, watched)


def make_banks(model: nn.Module, trace: Trace, plan: Plan, backend: str, schedule: str) -> Banks:
    """Make the banks of a plan; the model is not changed.

    Args:
        model: the original.
        trace: its graphs, which tell the embeddings of which only rows are read.
        plan: checked against the model.
        backend: what generates weights.
        schedule: how modules generate on their own.

    Raises:
        NpasError: if weights of one bank stand on several devices, or the name is taken.
    """
    if hasattr(model, "npas"):
        raise NpasError("the model has an attribute 'npas', where the banks would stand")
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
    sources = {
        name: Source(
            banks[plan.layer_by_name[layer].bank],
            layer,
            _schedule(schedule, plan.layer_by_name[layer]),
            layer in rows_only,
        )
        for name, layer in generated.items()
    }
    return Banks(banks, live, sources)


def _schedule(schedule: str, layer: LayerPlan) -> str:
    """Return how a layer's module generates on its own: deferred only where it may pay."""
    if schedule == "bank" or (schedule in ("auto", "fused") and layer.is_pointwise and layer.k):
        return schedule
    return "layer"


def _not_called(root: nn.Module, graphs: Iterable[fx.Graph]) -> tuple[nn.Module, ...]:
    """Return the modules below the root that some graph runs through without calling them."""
    watched: dict[int, nn.Module] = {}
    for graph in set(graphs):
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        inside = {
            id(module)
            for path in called
            if not path.startswith("npas.") and path != "run_original"
            for module in root.get_submodule(path).modules()
        }
        watched |= {id(m): m for m in root.modules() if m is not root and id(m) not in inside}
    return tuple(watched.values())


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


def _replacements(model: nn.Module, generated: Iterable[str]) -> dict[int, torch.Tensor]:
    """Clone what is kept; what will be generated stays shared until it is taken out."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    dropped = {id(parameters[name]) for name in generated}
    tensors: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        kept = id(parameter) not in dropped
        tensors[id(parameter)] = clone_tensor(parameter) if kept else parameter
    tensors.update({id(buffer): clone_tensor(buffer) for buffer in model.buffers()})
    return tensors


def rewrite_graph(
    original: fx.Graph,
    plan: Plan,
    generated: Mapping[str, str],
    rows_only: frozenset[str],
) -> fx.Graph:
    """Copy a graph and let its weights come from the banks.

    Args:
        original: of the original.
        plan: what is generated.
        generated: every name of a generated weight -> its layer.
        rows_only: layers of which only rows are looked up.
    """
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
                    ids = user.args[1 if user.args[0] is node else 0]
                    _look_up(graph, plan, layer, user, ids)
            else:
                node.replace_all_uses_with(weight(layer, node))
            graph.erase_node(node)
        elif node.op == "call_module" and str(node.target) in inside:
            start = len(str(node.target)) + 1
            names = [name for name in inside[str(node.target)] if "." not in name[start:]]
            if not names:
                continue  # its children make their weights when they read them
            layer = generated[names[0]]
            if layer in rows_only:
                ids = node.args[0] if node.args else node.kwargs["input"]
                _look_up(graph, plan, layer, node, ids)
                continue
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
    """Return the layers whose every use is a plain lookup of rows, as far as the trace shows.

    A module that runs whole makes rows or weights on its own, as its code asks for them: what is
    decided here for an embedding in it is what a call of the embedding does.
    """
    looked_up: set[str] = set()
    otherwise: set[str] = set()
    inside = _by_module(generated)
    padding = {layer.name: layer.padding_idx for layer in plan.layers}
    # Of an opaque trace the only call is that of the original, which has everything in it.
    everything = tuple(generated) if trace.front_end == "opaque" else ()
    has_graph = trace.front_end != "structure"
    for graph in set(trace.graphs.values()):
        for node in graph.nodes:
            if node.op == "get_attr" and node.target in generated:
                name = generated[str(node.target)]
                plain = all(_is_plain_lookup(user, node, padding[name]) for user in node.users)
                (looked_up if plain else otherwise).add(name)
            elif node.op == "call_module":
                for name in inside.get(str(node.target), everything):
                    path = name.rpartition(".")[0]
                    module = model.get_submodule(path)
                    # The graph looks up rows in place of calling the module, and its hooks.
                    replaced = has_graph and path == node.target
                    plain = (
                        type(module) is nn.Embedding
                        and not (replaced and has_hooks(module))
                        and not module.scale_grad_by_freq
                        and module.padding_idx == padding[generated[name]]
                    )
                    (looked_up if plain else otherwise).add(generated[name])
    two_dimensional = {layer.name for layer in plan.layers if len(layer.shape) == 2}
    return frozenset((looked_up - otherwise) & two_dimensional)


def _is_plain_lookup(user: fx.Node, weight: fx.Node, padding_idx: int | None) -> bool:
    if user.target is torch.ops.aten.embedding.default:
        given = user.args[2:]
        padded, scaled, sparse = (*given, *(-1, False, False)[len(given) :])
        same = bool(padded == (-1 if padding_idx is None else padding_idx))
        return user.args[0] is weight and same and not (user.kwargs or scaled or sparse)
    return (
        user.target is F.embedding
        and len(user.args) == 2
        and user.args[1] is weight
        and user.kwargs.get("padding_idx") is None
        and user.kwargs.get("max_norm") is None
        and not user.kwargs.get("sparse")
        and not user.kwargs.get("scale_grad_by_freq")
    )
