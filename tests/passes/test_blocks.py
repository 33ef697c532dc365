from collections.abc import Callable
from itertools import pairwise

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from networkx.algorithms.isomorphism import is_isomorphic
from torch import nn

from npas.passes.blocks import Repetition, op_graph, repeated_blocks
from npas.passes.collect import collect
from npas.passes.trace import trace

pytestmark = pytest.mark.pure


class Attention(nn.Module):
    """q, k, v and o of one shape: four equal operations that are no repeated block."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.o(torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v)


class Block(nn.Module):
    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(d), Attention(d)
        self.ln2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


def transformer(depth: int = 4, d: int = 4, hidden: int = 8) -> nn.Module:
    blocks = nn.Sequential(*(Block(d, hidden) for _ in range(depth)))
    return nn.Sequential(nn.Embedding(9, d), blocks, nn.LayerNorm(d), nn.Linear(d, 9))


class Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1, stride) if n_in != n_out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


def resnet() -> nn.Module:
    stages: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1)]
    for n_in, n_out in ((4, 4), (4, 6), (6, 8)):
        stages.append(Residual(n_in, n_out, 1 if n_in == n_out else 2))
        stages += [Residual(n_out, n_out, 1) for _ in range(2)]
    return nn.Sequential(*stages)


def mlp() -> nn.Module:
    layers = [layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.ReLU())]
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))


def graph_of(model: nn.Module) -> nx.DiGraph:
    traced = trace(model)
    return op_graph(traced.graphs[True], model, collect(model, traced).weights)


def found_in(model: nn.Module) -> tuple[Repetition, ...]:
    return repeated_blocks(graph_of(model))


def block_names(path: str) -> tuple[str, ...]:
    parts = ("attn.q", "attn.k", "attn.v", "attn.o", "up", "down")
    return tuple(f"{path}.{part}.weight" for part in parts)


def test_the_blocks_of_a_transformer() -> None:
    (found,) = found_in(transformer(4))
    assert found.copies == tuple(block_names(f"1.{i}") for i in range(4))


def test_projections_of_one_shape_are_not_the_block() -> None:
    # With hidden = d all six weights of a block have one shape, and q, k, v stand in a row.
    (found,) = found_in(transformer(3, d=4, hidden=4))
    assert found.copies == tuple(block_names(f"1.{i}") for i in range(3))


def test_one_block_alone_repeats_nothing_larger_than_its_projections() -> None:
    for repetition in found_in(transformer(1)):
        assert {len(copy) for copy in repetition.copies} == {1}


def test_the_blocks_of_a_residual_network() -> None:
    found = found_in(resnet())
    names = {copy for repetition in found for copy in repetition.copies}
    # Three blocks at width 4 (none changes it); two at 6 and at 8, after one that does.
    for stage in (range(1, 4), range(5, 7), range(8, 10)):
        for i in stage:
            assert (f"{i}.conv1.weight", f"{i}.conv2.weight") in names, i
    assert len(found) == 3
    assert not {name for copy in names for name in copy if ".skip." in name or name == "0.weight"}


def test_the_layers_of_an_mlp() -> None:
    (found,) = found_in(mlp())
    assert found.copies == tuple((f"{i}.weight",) for i in (1, 3, 5, 7, 9))


def test_a_weight_used_over_and_over_is_no_repetition() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(4):
                x = torch.tanh(self.fc(x))
            return x

    assert found_in(Recurrent()) == ()


def test_layers_that_differ_in_more_than_their_weight_do_not_repeat() -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=2, dilation=2), nn.Flatten()
    )
    assert found_in(model) == ()


def test_equal_operations_with_other_wiring_do_not_repeat() -> None:
    class Wired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.b(torch.relu(self.a(x)))
            c = self.c(x)
            torch.relu(c)
            return self.d(x)

    for repetition in found_in(Wired()):
        assert repetition.copies != (("a.weight", "b.weight"), ("c.weight", "d.weight"))


def test_constants_of_an_operation_count() -> None:
    class Slopes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.leaky_relu(self.b(F.leaky_relu(self.a(x), 0.1)), 0.2)

    assert all(len(copy) == 1 for found in found_in(Slopes()) for copy in found.copies)
    labels = nx.get_node_attributes(graph_of(Slopes()), "label")
    assert labels["leaky_relu"] != labels["leaky_relu_1"]
    assert labels["a"] == labels["b"]


def copies_on_graph(graph: nx.DiGraph, repetition: Repetition) -> list[nx.DiGraph]:
    """Return the induced subgraph of each copy: from its first weight to the last of its run."""
    names = list(graph.nodes)
    starts = [
        min(i for i, name in enumerate(names) if set(copy) & set(graph.nodes[name]["weights"]))
        for copy in repetition.copies
    ]
    period = starts[1] - starts[0]
    assert [b - a for a, b in pairwise(starts)] == [period] * (len(starts) - 1)
    return [nx.DiGraph(graph.subgraph(names[start : start + period])) for start in starts]


@pytest.mark.parametrize(
    "make", [transformer, lambda: transformer(3, 4, 4), resnet, mlp, lambda: transformer(7)]
)
def test_networkx_agrees_that_copies_are_isomorphic(make: Callable[[], nn.Module]) -> None:
    graph = graph_of(make())
    found = repeated_blocks(graph)
    assert found
    for repetition in found:
        first, *others = copies_on_graph(graph, repetition)
        # The last copy may end before the operations that only join it to the next one.
        whole = others[:-1] if len(others) > 1 else others
        for other in whole:
            assert is_isomorphic(first, other, node_match=lambda a, b: a["label"] == b["label"])


def test_networkx_disagrees_for_a_block_with_one_edge_moved() -> None:
    # The check above can fail: the same labels, wired differently.
    graph = graph_of(transformer(3))
    (repetition,) = repeated_blocks(graph)
    source, target = "_1_1_up", "gelu_1"
    graph.remove_edge(source, target)
    graph.add_edge("_1_1_ln2", target)
    first, second, *_ = copies_on_graph(graph, repetition)
    assert not is_isomorphic(first, second, node_match=lambda a, b: a["label"] == b["label"])
    assert all(found.copies != repetition.copies for found in repeated_blocks(graph))


def test_the_op_graph() -> None:
    model = transformer(1)
    graph = graph_of(model)
    assert nx.is_directed_acyclic_graph(graph)
    reads = {name: data["weights"] for name, data in graph.nodes(data=True) if data["weights"]}
    assert set(reads.values()) == {
        (name,) for name in ("0.weight", *block_names("1.0"), "3.weight")
    }
    assert graph.nodes["output"]["label"] == "output"
    assert list(graph.predecessors("output")) == ["_3"]
    softmax = next(name for name in graph if name.startswith("softmax"))
    assert {"_1_0_attn_q", "_1_0_attn_k"} <= nx.ancestors(graph, softmax)
    assert "_1_0_attn_v" not in nx.ancestors(graph, softmax)


def test_tied_weights_stand_on_the_op_graph_by_their_first_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    graph = graph_of(model)
    assert graph.nodes["_0"]["weights"] == graph.nodes["_2"]["weights"] == ("0.weight",)


def test_an_opaque_leaf_reads_all_its_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    assert graph_of(model).nodes["_1"]["weights"] == ("1.weight_ih_l0", "1.weight_hh_l0")


def test_a_deep_network_is_searched_in_reasonable_work() -> None:
    (found,) = found_in(nn.Sequential(*(Block(4, 8) for _ in range(40))))
    assert len(found.copies) == 40
