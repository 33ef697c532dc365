import random
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import npas
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.quality.variants import twins
from npas.errors import NpasError, PlanError
from npas.mapping import Mapping
from npas.passes.blocks import op_graph
from npas.passes.collect import WeightOp, collect
from npas.passes.mapping import (
    STRATEGIES,
    MapRequest,
    _features,
    _taps,
    kmeans,
    map_layers,
    merge_starved,
)
from npas.passes.trace import trace

pytestmark = pytest.mark.pure


def request(model: nn.Module, **options: Any) -> MapRequest:
    traced = trace(model)
    weights = collect(model, traced).weights
    graph = op_graph(traced.graphs[True], model, weights)
    chosen = {"n_banks": None, "share": 0.1, "seed": 0, **options}
    return MapRequest(weights, graph, **chosen)


def made_up(shapes: list[tuple[int, ...]], **options: Any) -> MapRequest:
    """Return a request for linear layers that no model has."""
    weights = tuple(
        WeightOp(f"l{i}.weight", (), "linear" if len(s) == 2 else "conv", s, "float32", 1)
        for i, s in enumerate(shapes)
    )
    chosen = {"n_banks": None, "share": 0.1, "seed": 0, **options}
    return MapRequest(weights, nx.DiGraph(), **chosen)


def mlp(*widths: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def names(n: int) -> tuple[str, ...]:
    return tuple(f"{i}.weight" for i in range(n))


def test_own() -> None:
    found = map_layers("own", request(mlp(3, 4, 5)))
    assert found.banks == {"b0": ("0.weight",), "b1": ("1.weight",)}
    assert found.source == "own"
    assert found.reasons == {"b0": "its own bank", "b1": "its own bank"}


def test_single() -> None:
    found = map_layers("single", request(mlp(3, 4, 5, 6)))
    assert found.banks == {"b0": names(3)}


def test_by_shape() -> None:
    found = map_layers("by_shape", request(mlp(4, 4, 3, 4, 4, 4)))
    assert found.banks == {
        "b0": ("0.weight", "3.weight", "4.weight"),
        "b1": ("1.weight",),
        "b2": ("2.weight",),
    }
    assert found.reasons["b0"] == "all of shape 4x4"


def test_by_shape_tells_a_convolution_from_a_matrix_of_its_size() -> None:
    found = map_layers("by_shape", made_up([(4, 9), (4, 1, 3, 3), (4, 9)]))
    assert list(found.banks.values()) == [("l0.weight", "l2.weight"), ("l1.weight",)]


def test_random_depends_on_the_seed_alone() -> None:
    first = map_layers("random", request(mlp(*[4] * 13), n_banks=3, seed=1))
    again = map_layers("random", request(mlp(*[4] * 13), n_banks=3, seed=1))
    other = map_layers("random", request(mlp(*[4] * 13), n_banks=3, seed=2))
    assert first == again
    assert first.banks != other.banks
    assert [len(layers) for layers in first.banks.values()] == [4, 4, 4]
    for layers in first.banks.values():
        assert list(layers) == sorted(layers, key=names(12).index)
    assert "seed 1" in first.reasons["b0"]


def test_why_layers_share_is_said() -> None:
    assert map_layers("single", request(mlp(4, 4, 4))).reasons == {"b0": "one bank for all layers"}


def test_random_leaves_the_callers_random_state_alone() -> None:
    random.seed(0)
    expected = random.random()
    random.seed(0)
    map_layers("random", request(mlp(4, 4, 4), n_banks=2))
    assert random.random() == expected


def test_soft_sharing_is_the_papers_manual_groups_of_a_wrn() -> None:
    """Stages of four blocks: the six 3x3 convolutions of the last three share (14 groups)."""
    with torch.device("meta"):
        model = wrn(28, 10)
    found = map_layers("soft_sharing", request(model))
    assert len(found.banks) == 14
    shared = [layers for layers in found.banks.values() if len(layers) > 1]
    assert shared == [
        tuple(f"group{g}.{b}.conv{c}.weight" for b in (1, 2, 3) for c in (1, 2)) for g in (1, 2, 3)
    ]


def test_soft_sharing_tells_shapes_apart() -> None:
    blocks = [nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)) for _ in range(4)]
    found = map_layers("soft_sharing", request(nn.Sequential(*blocks, nn.Linear(6, 2))))
    assert list(found.banks.values()) == [
        tuple(f"{b}.0.weight" for b in range(4)),
        tuple(f"{b}.2.weight" for b in range(4)),
        ("4.weight",),
    ]
    assert found.reasons["b0"] == "all of shape 9x6 in 4 repeated blocks (repetition 1)"
    assert found.reasons["b2"] == "in no repeated block: its own bank"


class Tied(nn.Module):
    """Two rows of repeated blocks, all of which call one layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.low = nn.ModuleList(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6)) for _ in range(3))
        self.shared = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.wide:
            x = torch.relu(self.shared(torch.tanh(layer(x))))
        for block in self.low:
            x = torch.sigmoid(self.shared(torch.relu(block(x))))
        return x


@pytest.mark.parametrize("strategy", ["repeated", "soft_sharing"])
def test_a_layer_of_several_blocks_has_one_bank(strategy: str) -> None:
    asked = request(Tied())
    found = map_layers(strategy, asked)
    layers = [layer for bank in found.banks.values() for layer in bank]
    assert sorted(layers) == sorted(w.name for w in asked.weights) and all(found.banks.values())
    assert len(layers) == len(set(layers)) == 10


def test_soft_sharing_has_as_many_templates_as_layers() -> None:
    blocks = [nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU()) for _ in range(6)]
    plan = npas.plan(nn.Sequential(*blocks), 6 * 256 + 6 * 6, groups="soft_sharing")
    assert [bank.size for bank in plan.banks] == [6 * 256]
    assert {(layer.base, layer.stride, layer.k) for layer in plan.layers} == {(0, 256, 6)}


class TwoRoles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(x) * self.key(x)


def test_auto_tells_roles_apart() -> None:
    """Queries and keys are alike in all but what they are for: no bank holds both."""
    found = map_layers("auto", request(nn.Sequential(*(TwoRoles() for _ in range(6))), n_banks=4))
    roles = [{layer.split(".")[1] for layer in layers} for layers in found.banks.values()]
    assert sorted(map(sorted, roles)) == [["key"], ["key"], ["query"], ["query"]]


def test_repeated() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3)]
    found = map_layers("repeated", request(nn.Sequential(nn.Linear(3, 4), *blocks)))
    assert found.banks == {
        "b0": tuple(f"{i}.0.weight" for i in (1, 2, 3)),
        "b1": tuple(f"{i}.2.weight" for i in (1, 2, 3)),
        "b2": ("0.weight",),
    }
    assert [found.reasons[bank] for bank in ("b0", "b1")] == [
        f"weight {place} of a block that repeats 3 times (repetition 1)" for place in (1, 2)
    ]
    assert found.reasons["b2"] == "in no repeated block: its own bank"


def test_albert_is_one_weight_for_each_place_of_a_block() -> None:
    """At budget "largest", and nothing else is touched."""
    with torch.device("meta"):
        model = transformer(vocab=50, dim=32, depth=4, heads=2, max_len=8, causal=False)
    parts = ("attention.q", "attention.k", "attention.v", "attention.out", "up", "down")
    plan = npas.plan(model, "largest", groups="albert")
    assert plan.groups == "albert"
    shared = [bank for bank in plan.banks if not plan.is_ordinary(bank.name)]
    assert [bank.layers for bank in shared] == [
        tuple(f"blocks.{block}.{part}.weight" for block in range(4)) for part in parts
    ]
    for bank in shared:
        layers = plan.layers_of(bank.name)
        assert {(layer.base, layer.k, layer.n) for layer in layers} == {(0, 1, bank.size)}


def test_albert_leaves_what_repeats_nowhere_alone() -> None:
    blocks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3)]
    asked = request(nn.Sequential(nn.Linear(3, 4), *blocks))
    found = map_layers("albert", asked)
    assert found.banks == map_layers("repeated", asked).banks
    assert found.source == "albert"
    assert found.banks["b2"] == ("0.weight",)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0, 4.0, None])
def test_every_strategy_covers_every_layer_once(strategy: str, share: float | None) -> None:
    asked = request(mlp(3, 16, 16, 16, 8, 8, 2), share=share)
    found = map_layers(strategy, asked)
    placed = [layer for layers in found.banks.values() for layer in layers]
    assert sorted(placed) == sorted(w.name for w in asked.weights)
    assert set(found.reasons) == set(found.banks)
    assert all(bank.isidentifier() for bank in found.banks)
    found.check(w.name for w in asked.weights)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_gives_the_same_mapping_again(strategy: str) -> None:
    def found() -> str:
        return map_layers(strategy, request(mlp(3, 16, 16, 16, 8, 8, 2), seed=3)).to_json()

    assert found() == found()


def shapes_at(seed: int) -> list[tuple[int, ...]]:
    generator = random.Random(seed)
    count = generator.randint(1, 40)
    return [
        tuple(generator.choice([4, 8, 16, 64, 256]) for _ in range(generator.choice([2, 2, 4])))
        for _ in range(count)
    ]


def upsampled_without_need(asked: MapRequest, mapping: Mapping) -> list[str]:
    """Return the layers larger than their bank's share that one bank for all could hold."""
    assert asked.share is not None
    sizes = {w.name: w.n for w in asked.weights}
    total = sum(sizes.values())
    return [
        name
        for layers in mapping.banks.values()
        for name in layers
        if asked.share * total >= sizes[name] > asked.share * sum(sizes[n] for n in layers)
    ]


def merged(clusters: list[tuple[float, int, int]], share: float) -> list[int]:
    """Return where clusters go, each of (place, layers, size of a layer)."""
    labels = np.repeat(np.arange(len(clusters)), [count for _, count, _ in clusters])
    features = np.array([[place] for place, count, _ in clusters for _ in range(count)])
    sizes = np.array([size for _, count, size in clusters for _ in range(count)])
    found = merge_starved(labels, features, sizes, share)
    assert [len(set(found[labels == i])) for i in range(len(clusters))] == [1] * len(clusters)
    return [int(found[labels == i][0]) for i in range(len(clusters))]


def test_what_has_room_for_its_templates_stays() -> None:
    assert merged([(0, 4, 10), (1, 4, 10)], 1.0) == [0, 1]
    assert merged([(0, 4, 10), (1, 3, 10)], 1.0) == [0, 0]
    # One bank for all has room for one of the first and three of the others.
    assert merged([(0, 1, 10), (1, 2, 5)], 0.9) == [1, 1]
    assert merged([(0, 1, 10)], 0.1) == [0]
    # The first is larger than one bank for all: nowhere it would have room.
    assert merged([(0, 1, 300), (1, 30, 10)], 0.4) == [0, 1]


def test_a_starved_cluster_goes_to_the_nearest() -> None:
    assert merged([(0, 1, 10), (1, 40, 10), (-5, 4, 10)], 1.0) == [1, 1, 2]
    assert merged([(0, 1, 10), (-1, 40, 10), (5, 4, 10)], 1.0) == [1, 1, 2]
    assert merged([(0, 1, 10), (-5, 4, 10), (1, 40, 10)], 1.0) == [2, 1, 2]
    labels, sizes = np.array([0] + [1] * 4 + [2] * 4), np.full(9, 10)
    places = np.array([[0, 0]] + [[1, -1]] * 4 + [[0.1, 0.1]] * 4)
    assert merge_starved(labels, places, sizes, 1.0).tolist() == [2] + [1] * 4 + [2] * 4


def test_the_smallest_starved_cluster_goes_first() -> None:
    """The other way round, the first would end in the last."""
    assert merged([(0, 1, 10), (1, 1, 20), (1.5, 40, 10), (-1.2, 40, 10)], 1.0) == [2, 2, 2, 3]
    assert merged([(1, 1, 20), (0, 1, 10), (1.5, 40, 10), (-1.2, 40, 10)], 1.0) == [2, 2, 2, 3]


def test_fewer_points_than_clusters() -> None:
    assert kmeans(np.zeros((4, 2)), 2, 0).tolist() == [0, 0, 0, 0]  # and no warning


def test_what_layers_are_compared_by() -> None:
    found = _features(made_up([(4, 8), (16, 8)]).weights)
    # Elements, outputs, depth and role tell them apart; inputs, positions and kind are the same.
    assert found.tolist() == [[-1, -1, 0, 0, -1, 1, 1, 0], [1, 1, 0, 0, 1, 1, 0, 1]]
    taps = [_taps(w) for w in made_up([(4, 8), (4, 8, 3, 3), (4, 8, 1), (4, 8, 5)]).weights]
    assert taps == [1, 9, 1, 5]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.35, 0.75])
def test_auto_upsamples_no_layer_that_need_not_be(share: float) -> None:
    for seed in range(8):
        asked = made_up(shapes_at(seed), share=share)
        assert upsampled_without_need(asked, map_layers("auto", asked)) == [], seed


def test_random_banks_do_upsample_some() -> None:
    # The check above can fail.
    found = [
        upsampled_without_need(asked, map_layers("random", asked))
        for asked in (made_up(shapes_at(seed), n_banks=1 + seed, share=0.1) for seed in range(30))
        if len(asked.weights) > (asked.n_banks or 1)
    ]
    assert any(found)


def test_auto_has_more_than_one_bank_where_that_costs_nothing() -> None:
    asked = made_up([(64, 64)] * 20 + [(64, 64, 3, 3)] * 20, share=0.25)
    found = map_layers("auto", asked)
    assert len(found.banks) >= 2
    kinds = {w.name: w.kind for w in asked.weights}
    # Shape and kind tell the two apart.
    assert all(len({kinds[n] for n in layers}) == 1 for layers in found.banks.values())


@pytest.mark.parametrize("share", [1.0, 1.5, 40.0])
def test_auto_is_own_where_everything_fits(share: float) -> None:
    asked = request(mlp(3, 4, 5, 6), share=share)
    assert map_layers("auto", asked).banks == map_layers("own", asked).banks


@pytest.mark.parametrize("budget", ["15%", "25%", "50%", "75%"])
def test_auto_has_room_for_the_templates_of_every_layer(budget: str) -> None:
    # One bank for all would hold each of these layers four times or more at all of these budgets.
    model = mlp(*[32] * 40)
    plan = npas.plan(model, budget)
    assert all(bank.size >= 4 * 32 * 32 for bank in plan.banks)
    assert twins(plan) == 0
    assert all(layer.k >= 1 for layer in plan.layers)
    # The check can fail: banks that hold their layers once tie them.
    assert twins(npas.plan(model, "15%", n_banks=3)) > 0


def test_auto_makes_more_banks_where_there_is_room_for_them() -> None:
    plan = npas.plan(mlp(*[32] * 40), "50%")
    assert len(plan.banks) > 1


@pytest.mark.parametrize("n_banks", [1, 2, 5, 7])
@pytest.mark.parametrize("strategy", ["auto", "random"])
def test_n_banks(strategy: str, n_banks: int) -> None:
    model = nn.Sequential(*(nn.Linear(4 + i, 4 + i) for i in range(7)))
    found = map_layers(strategy, request(model, n_banks=n_banks))
    assert len(found.banks) == n_banks


def test_auto_with_n_banks_at_a_high_budget() -> None:
    model = nn.Sequential(*(nn.Linear(4 + i, 4 + i) for i in range(7)))
    assert len(map_layers("auto", request(model, n_banks=2, share=3.0)).banks) == 2


def test_auto_warns_nothing_about_layers_that_are_all_alike() -> None:
    # scikit-learn warns where there are fewer distinct points than clusters.
    found = map_layers("auto", made_up([(4, 4)] * 6, n_banks=4))
    assert 1 <= len(found.banks) <= 4


@pytest.mark.parametrize("n_banks", [0, -1, 4, 1.0, True, "2"])
def test_an_impossible_n_banks(n_banks: Any) -> None:
    with pytest.raises(NpasError, match="n_banks="):
        map_layers("auto", request(mlp(3, 4, 5, 6), n_banks=n_banks))


def test_a_small_budget_has_one_bank_for_all() -> None:
    found = map_layers("auto", made_up([(8, 8)] * 3 + [(6, 4, 1, 1)] * 2, share=0.02))
    assert len(found.banks) == 1
    assert found.reasons["b0"] == "near in shape, kind, depth and role (3 linear, 2 conv)"


@pytest.mark.parametrize("groups", ["own", "single", "by_shape", "repeated", {"*": "x"}])
def test_n_banks_where_the_strategy_decides(groups: Any) -> None:
    shown = groups if isinstance(groups, str) else "dict"
    says = f"n_banks=2 goes with groups='auto' or 'random'; groups='{shown}' decides"
    with pytest.raises(NpasError, match=says):
        map_layers(groups, request(mlp(3, 4, 5, 6), n_banks=2))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("singel", r"groups='singel' is no strategy \(nearest: 'single'\)"),
        (3, "groups=3 is a int"),
        (None, "groups=None is a NoneType"),
        (["single"], r"groups=\['single'\] is a list"),
    ],
)
def test_an_unknown_strategy(groups: Any, said: str) -> None:
    with pytest.raises(NpasError, match=said):
        map_layers(groups, request(mlp(3, 4, 5)))


def test_patterns() -> None:
    model = nn.ModuleDict({n: nn.Linear(4, 4) for n in ("q", "k", "up", "down")})
    asked = request(nn.Sequential(*model.values()))
    found = map_layers({"0": "attn", "1": "attn", "2": "mlp.x"}, asked)
    assert found.banks == {
        "attn": ("0.weight", "1.weight"),
        "mlp_x": ("2.weight",),
        "own__3_weight": ("3.weight",),
    }
    assert found.source == "patterns"


def test_of_several_patterns_the_first_that_matches_decides() -> None:
    found = map_layers({"re:.*1.*": "one", "*": "rest"}, request(mlp(3, 4, 5, 6)))
    assert found.banks == {"rest": ("0.weight", "2.weight"), "one": ("1.weight",)}


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(NpasError, match="groups: pattern 'nope' matches no weight"):
        map_layers({"*": "all", "nope": "x"}, request(mlp(3, 4, 5)))


def test_a_mapping() -> None:
    mapping = Mapping({"x": ("1.weight",), "y": ("0.weight", "2.weight")}, "searched")
    found = map_layers(mapping, request(mlp(3, 4, 5, 6)))
    assert found.banks == mapping.banks
    assert found.source == "searched"
    plan = npas.plan(mlp(3, 4, 5, 6), 1.0, groups=mapping)
    assert {bank.layers for bank in plan.banks} == {("1.weight",), ("0.weight", "2.weight")}


@pytest.mark.parametrize("strategy", ["own", "single", "by_shape", "random", "repeated"])
def test_the_mapping_of_one_plan_is_usable_for_another_budget(strategy: str) -> None:
    model = mlp(8, 8, 8, 8, 8)
    first = npas.plan(model, "80%", groups=strategy)
    mapping = Mapping({bank.name: bank.layers for bank in first.banks}, strategy)
    again = npas.plan(model, "95%", groups=mapping)
    assert [b.layers for b in again.banks] == [b.layers for b in first.banks]


def test_a_mapping_for_another_model() -> None:
    mapping = Mapping({"x": ("0.weight", "9.weight")}, "searched")
    with pytest.raises(PlanError, match=r"it lacks 1\.weight; it has also 9\.weight"):
        map_layers(mapping, request(mlp(3, 4, 5)))


def test_a_mapping_lists_a_banks_layers_in_the_models_order() -> None:
    # A bank's layers stand in the model's order everywhere; a mapping read from a file may not.
    mapping = Mapping({"x": ("1.weight", "0.weight")}, "by hand")
    plan = npas.plan(mlp(16, 16, 16), 0.9, groups=mapping)
    assert plan.banks[0].layers == ("0.weight", "1.weight")
    assert plan.banks[0].reason == "by hand"
    banks = {"late": ("2.weight",), "early": ("0.weight", "1.weight")}
    plan = npas.plan(mlp(16, 16, 16, 16), 0.9, groups=Mapping(banks, "by hand"))
    assert [bank.name for bank in plan.banks] == ["late", "early"]
    assert npas.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("groups", ["single", "by_shape", {"*": "all"}])
def test_a_bank_holds_one_dtype(groups: Any) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model[1].to(torch.float64)
    model[3].to(torch.float64)
    found = map_layers(groups, request(model))
    stem = "all" if isinstance(groups, dict) else "b0"
    assert found.banks == {
        f"{stem}_float32": ("0.weight", "2.weight"),
        f"{stem}_float64": ("1.weight", "3.weight"),
    }
    assert all(reason.endswith("split by dtype") for reason in found.reasons.values())
    plan = npas.plan(model, "100%", groups=groups)
    assert {bank.dtype for bank in plan.banks} == {"float32", "float64"}


def test_splitting_by_dtype_does_not_run_into_a_bank_of_that_name() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    model[1].to(torch.float64)
    found = map_layers({"0": "a", "1": "a", "2": "a_float64"}, request(model))
    placed = [layer for layers in found.banks.values() for layer in layers]
    assert sorted(placed) == list(names(3))
    dtypes = {w.name: w.dtype for w in request(model).weights}
    for layers in found.banks.values():
        assert len({dtypes[name] for name in layers}) == 1
    assert found.banks["a_float64"] == ("2.weight",)  # a name that was given stays


def test_the_weights_values_do_not_matter() -> None:
    model = mlp(3, 16, 16, 8, 8, 2)
    first = npas.plan(model, "90%").to_json()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    assert npas.plan(model, "90%").to_json() == first
