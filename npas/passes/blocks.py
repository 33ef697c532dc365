"""The op graph of a traced model, and the blocks that repeat on it."""

from dataclasses import dataclass

import networkx as nx
import numpy as np
from torch import fx, nn

from npas.passes.collect import WeightOp

# Starts of a run that are tried; more are of blocks that are longer than any module.
_MOST_OFFSETS = 64


@dataclass(frozen=True, slots=True)
class Repetition:
    """A block that stands several times in a row on the op graph.

    Attributes:
        copies: one tuple of weight names a copy; the i-th weight of each copy has the same role.
    """

    copies: tuple[tuple[str, ...], ...]


def op_graph(graph: fx.Graph, model: nn.Module, weights: tuple[WeightOp, ...]) -> nx.DiGraph:
    """Return the op graph: a node an operation, an edge where data flows.

    Node attributes: ``label`` (the operation and its constants, equal for equal operations) and
    ``weights`` (names of the weight ops it reads, first names).
    """
    first = {alias: w.name for w in weights for alias in (w.name, *w.aliases)}
    shapes = {w.name: w.shape for w in weights}
    modules = dict(model.named_modules(remove_duplicate=False))
    below: dict[str, list[str]] = {}
    for alias, name in first.items():
        parts = alias.split(".")
        for end in range(len(parts)):
            below.setdefault(".".join(parts[:end]), []).append(name)
    result = nx.DiGraph()
    for node in graph.nodes:
        read: tuple[str, ...] = ()
        if node.op == "call_module":
            module = modules[str(node.target)]
            read = tuple(dict.fromkeys(below.get(str(node.target), ())))
            what = f"{type(module).__qualname__}({module.extra_repr()})"
        elif node.op == "get_attr":
            read = (first[str(node.target)],) if str(node.target) in first else ()
            what = "parameter" if read else "get_attr"
        elif node.op in ("placeholder", "output"):
            what = node.op
        else:
            constants = [a for a in (*node.args, *node.kwargs.values()) if _is_constant(a)]
            name = node.target if isinstance(node.target, str) else node.target.__name__
            what = f"{name}{constants}"
        label = f"{what} {[shapes[name] for name in read]}" if read else what
        result.add_node(node.name, label=label, weights=read)
        result.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
    return result


def repeated_blocks(graph: nx.DiGraph) -> tuple[Repetition, ...]:
    """Find blocks that repeat in a row: isomorphic runs of operations.

    The trace lists operations in the order they run, so copies of a block are runs of equal
    labels; that the i-th operation of one copy maps to the i-th of the next is then checked edge
    by edge, which is the isomorphism itself (no search). Longest coverage first; runs without
    two copies or without a weight do not count. Where a run may begin at several operations, its
    copies begin where modules do, as their names tell.
    """
    names = list(graph.nodes)
    index = {name: i for i, name in enumerate(names)}
    words = [graph.nodes[name]["label"] for name in names]
    codes = {word: i for i, word in enumerate(dict.fromkeys(words))}
    labels = np.array([codes[word] for word in words])
    inner = [
        tuple(sorted(index[name] - index[source] for source in graph.predecessors(name)))
        for name in names
    ]
    weighted = np.cumsum([0, *(len(graph.nodes[name]["weights"]) for name in names)])
    runs: list[tuple[int, int, int, int, int]] = []
    for period in range(1, len(names) // 2 + 1):
        same = np.concatenate(([0], labels[period:] == labels[:-period], [0]))
        edges = np.flatnonzero(np.diff(same))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            copies = (end - start) // period + 1
            covered = int(weighted[start + copies * period] - weighted[start])
            if copies >= 2 and covered:
                slack = int(end - start) % period
                runs.append((-covered, period, int(start), int(copies), slack))
    taken = np.zeros(len(names), dtype=bool)
    found: list[tuple[int, Repetition]] = []
    held = [graph.nodes[name]["weights"] for name in names]
    for _, period, first, copies, slack in sorted(runs):
        if taken[first : first + copies * period].all():
            continue
        start = _module_start(held, first, period, copies, min(slack, _MOST_OFFSETS))
        spans = [range(start + c * period, start + (c + 1) * period) for c in range(copies)]
        spans = [s for s in spans if not taken[s.start : s.stop].any()]
        spans = _isomorphic_to_first(spans, inner)
        members = [tuple(w for i in s for w in graph.nodes[names[i]]["weights"]) for s in spans]
        # One weight used several times in a row is no repeated block.
        distinct = {weight for member in members for weight in member}
        if len(spans) < 2 or len(distinct) <= len(members[0]):
            continue
        for span in spans:
            taken[span.start : span.stop] = True
        found.append((start, Repetition(tuple(members))))
    return tuple(repetition for _, repetition in sorted(found, key=lambda item: item[0]))


def _module_start(
    held: list[tuple[str, ...]], first: int, period: int, copies: int, slack: int
) -> int:
    """Return where copies begin so that the weights of each share the longest part of their names.

    Args:
        held: names of the weights that each operation reads.
        first: where the run begins.
        period: operations of a copy.
        copies: how many.
        slack: operations that the run has besides.
    """

    def shared(start: int) -> int:
        total = 0
        for copy in range(copies):
            begin = start + copy * period
            parts = [w.split(".") for weights in held[begin : begin + period] for w in weights]
            for same in zip(*parts, strict=False):
                if len(set(same)) > 1:
                    break
                total += 1
        return total

    return max(range(first, first + slack + 1), key=lambda start: (shared(start), -start))


def _isomorphic_to_first(spans: list[range], inner: list[tuple[int, ...]]) -> list[range]:
    """Keep the longest row of neighbouring spans whose inner edges are equal."""
    best: list[range] = []
    row: list[range] = []
    shape: list[tuple[int, ...]] | None = None
    for span in spans:
        own = [tuple(d for d in inner[i] if i - d >= span.start) for i in span]
        if own == shape and row and row[-1].stop == span.start:
            row.append(span)
        else:
            row, shape = [span], own
        if len(row) > len(best):
            best = list(row)
    return best


def _is_constant(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
