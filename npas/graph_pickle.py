"""Graphs of operators as plain data: fx pickles code and traces it, which drops subgraphs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate


@dataclass(frozen=True, slots=True)
class _Ref:
    """A node, by its place in the graph."""

    index: int


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator, by its name in ``torch.ops``."""

    namespace: str
    name: str
    overload: str


_Row = tuple[str, str, Any, Any, Any]


def dump(graph: fx.Graph) -> list[_Row]:
    """Return a graph as rows (op, name, target, args, kwargs) that pickle."""
    places = {node: index for index, node in enumerate(graph.nodes)}

    def plain(value: Any) -> Any:
        return _Ref(places[value]) if isinstance(value, fx.Node) else value

    return [
        (
            node.op,
            node.name,
            _plain_target(node.target),
            map_aggregate(node.args, plain),
            map_aggregate(node.kwargs, plain),
        )
        for node in graph.nodes
    ]


def load(rows: Sequence[_Row]) -> fx.Graph:
    """Return the graph that `dump` wrote."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def real(value: Any) -> Any:
        return nodes[value.index] if isinstance(value, _Ref) else value

    for op, name, target, args, kwargs in rows:
        node = graph.create_node(
            op, _target(target), map_aggregate(args, real), map_aggregate(kwargs, real), name=name
        )
        node.name = name
        nodes.append(node)
    return graph


def _plain_target(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        return _Operator(namespace, name, target._overloadname)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return _Operator("higher_order", target._name, "")
    return target


def _target(target: Any) -> Any:
    if not isinstance(target, _Operator):
        return target
    found = getattr(getattr(torch.ops, target.namespace), target.name)
    return getattr(found, target.overload) if target.overload else found
