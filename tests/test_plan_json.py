"""Plans from files are not trusted: every field is mutated, and none gets through unchecked."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from torch import nn

import npas
from npas import Plan, PlanError

pytestmark = pytest.mark.pure

KeyPath = tuple[str | int, ...]
# Numbers that decide nothing else in a plan, and bounds that a valid plan need not reach.
FREE = ("uses", "macs", "seed", "padding_idx", "budget_params")


class Net(nn.Module):
    """Every mode at once: a tied embedding, templates of each kind, upsampling, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8, padding_idx=0)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.fourth = nn.Linear(8, 8)
        self.rest = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        self.wide = nn.Linear(8, 40)
        self.back = nn.Linear(40, 8)
        self.alone = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Embedding(12, 8, padding_idx=0)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        x = self.rest(self.fourth(self.third(self.second(self.first(x)))))
        return self.head(ids) + self.norm(self.alone(self.back(self.wide(x))))


def make_plan() -> Plan:
    return npas.plan(
        Net(),
        760,
        groups={
            "rest": "templates",
            "first": "templates",
            "second": "templates",
            "third": "templates",
            "fourth": "templates",
            "wide": "small",
            "back": "small",
            "embed": "small",
        },
        k=3,
        overrides={
            "second": {"downsample": "emb"},
            "third": {"downsample": "avg"},
            "fourth": {"downsample": "rr", "scale": True},
            "back": {"upsample": "repeat"},
        },
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def data(plan: Plan) -> Any:
    return json.loads(plan.to_json())


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every scalar with its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def nodes(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every value with its path."""
    yield path, value
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from nodes(item, (*path, key))


def at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def put(data: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(data)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def drop(data: Any, path: KeyPath) -> Any:
    changed = copy.deepcopy(data)
    del at(changed, path[:-1])[path[-1]]
    return changed


def field_of(path: KeyPath) -> str:
    """Return the name of the field that a path lies in."""
    return next(key for key in reversed(path) if isinstance(key, str))


def error_of(data: Any) -> str | None:
    """Return what reading says, or None where it is accepted; other errors pass through."""
    try:
        Plan.from_json(data if isinstance(data, str) else json.dumps(data))
    except PlanError as error:
        return str(error)
    return None


def refuse(data: Any, *says: str) -> None:
    error = error_of(data)
    assert error is not None, "accepted"
    for text in says:
        assert text in error


def is_sound(plan: Plan) -> bool:
    """Check a plan element by element, with nothing of npas."""
    used_by_bank = {bank.name: [0] * bank.size for bank in plan.banks}
    total = sum(fixed.n_params for fixed in plan.fixed if fixed.trainable)
    dense = total
    for layer in plan.layers:
        used = used_by_bank[layer.bank]
        n = math.prod(layer.shape)
        dense += n
        if layer.k == 0 and not (n > len(used) and layer.base == layer.stride == 0):
            return False
        for template in range(layer.k):
            start = layer.base + template * layer.stride
            if start < 0 or start + n > len(used):
                return False
            used[start : start + n] = [1] * n
        if layer.k == 0:
            used[:] = [1] * len(used)
    if not all(all(used) for used in used_by_bank.values()):
        return False
    for bank in plan.banks:
        rows = [layer for layer in plan.layers if layer.bank == bank.name]
        if tuple(layer.name for layer in rows) != bank.layers:
            return False
        learned = [x for x in rows if x.k >= 2 and x.downsample in ("wavg", "emb")]
        total += bank.size + sum(x.k for x in learned if x.downsample == "wavg")
        emb = [x.k for x in learned if x.downsample == "emb"]
        total += 24 * len(emb) + 25 * max(emb, default=0)
        masked = [math.prod(x.shape) for x in rows if x.k == 0 and x.upsample == "mask"]
        if masked:
            width = min(9, bank.size)
            # Position by position: the window element that each element of a later tile reads.
            total += len(
                {
                    (element // bank.size, element % bank.size % width)
                    for element in range(bank.size, max(masked))
                }
            )
        ordinary = len(rows) == 1 and math.prod(rows[0].shape) == bank.size
        total += 0 if ordinary else sum(x.scale for x in rows if x not in learned)
    return plan.n_params == total <= plan.budget_params and plan.n_dense == dense


def test_the_plan_under_test_has_every_mode(plan: Plan) -> None:
    modes = {layer.mode.split(" ")[0] for layer in plan.layers}
    assert {"wavg", "emb", "avg", "window", "mask", "repeat"} <= modes
    assert any(layer.aliases for layer in plan.layers)
    assert any(layer.padding_idx is not None for layer in plan.layers)
    assert any(cost.scales for cost in plan.costs.values())
    assert is_sound(plan)


def test_round_trip_is_the_identity(plan: Plan, tmp_path: Path) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert make_plan().to_json() == text
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == text
    assert Plan.load(tmp_path / "plan.json") == plan
    assert Plan.load(str(tmp_path / "plan.json")) == plan


@pytest.mark.parametrize(
    ("groups", "budget"),
    [("own", "100%"), ("own", "60%"), ("single", "30%"), ("random", "200%"), ("auto", "largest")],
)
def test_round_trip_of_other_plans(groups: str, budget: str) -> None:
    plan = npas.plan(Net(), budget, groups=groups)
    assert Plan.from_json(plan.to_json()) == plan
    assert is_sound(plan)
    if budget == "100%":
        assert all(plan.is_ordinary(bank.name) for bank in plan.banks)


def test_it_is_json_that_others_can_read(plan: Plan) -> None:
    def refuse_constant(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(plan.to_json(), parse_constant=refuse_constant)
    assert found["npas_plan"] == 1
    assert found["n_params"] == plan.n_params


@pytest.mark.parametrize(
    "overrides",
    [
        {"first": {"k": 9}},
        {"first": {"k": 1}},
        {"first": {"k": 9, "downsample": "emb"}, "second": {"k": 7}},
        {"*": {"k": 8}},
    ],
)
def test_plans_with_a_k_of_their_own_can_be_read(overrides: dict[str, Any]) -> None:
    model = nn.Sequential()
    for name in ("first", "second", "third"):
        model.add_module(name, nn.Linear(8, 8))
    plan = npas.plan(model, 800, groups="single", overrides=overrides)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "text",
    ["", "{", "plan", "[" * 100_000, "1" * 5_000, "\ufeff{}", "{'npas_plan': 1}", '{"a": 1,}'],
)
def test_not_json(text: str) -> None:
    refuse(text, "not JSON")


@pytest.mark.parametrize("value", [None, [], 3, "plan", True, math.nan, [{}]])
def test_not_an_object(value: Any) -> None:
    refuse(json.dumps(value), "plan: must be a JSON object")


@pytest.mark.parametrize("cut", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated(plan: Plan, cut: float) -> None:
    text = plan.to_json().rstrip()
    refuse(text[: int(len(text) * cut)], "not JSON")


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [], 1.5, True, 1.0, math.nan])
def test_versions(data: Any, version: Any) -> None:
    refuse(put(data, ("npas_plan",), version), "npas_plan")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"absent\.json"):
        Plan.load(tmp_path / "absent.json")
    with pytest.raises(PlanError, match=tmp_path.name):
        Plan.load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(PlanError, match=r"binary\.json"):
        Plan.load(tmp_path / "binary.json")


def wrong_types(path: KeyPath, value: Any) -> list[Any]:
    """Return values of a type that a field cannot hold."""
    nullable = field_of(path) in ("macs", "padding_idx")
    found: list[Any] = [[], {}, 1.5, math.nan, math.inf, -math.inf, [value], {"value": value}]
    if not nullable:
        found.append(None)
    if not isinstance(value, str):
        found += ["", "3", "NaN"]
    if not isinstance(value, bool):
        found += [True, False]
    if isinstance(value, str):
        found += [0, 1]
    if isinstance(value, int) and not isinstance(value, bool):
        found += [float(value), str(value), 2**53 + 1, 2**63, 2**64, 10**30, -(2**53) - 1]
        found += [] if field_of(path) == "seed" else [-1, -(2**31)]
    if isinstance(value, bool):
        found += [0, 1, 2]
    return found


def test_every_field_with_every_wrong_type(data: Any) -> None:
    wrong: list[str] = []
    n_tried = 0
    for path, value in leaves(data):
        for other in wrong_types(path, value):
            n_tried += 1
            error = error_of(put(data, path, other))
            if error is None:
                wrong.append(f"{path} = {other!r} is accepted")
            elif field_of(path) not in error and str(path[0]) not in error:
                wrong.append(f"{path} = {other!r}: {error}")
    assert n_tried > 2_000
    assert not wrong, "\n".join(wrong[:20])


def test_wrong_types_are_named_by_their_full_path(data: Any) -> None:
    for i in range(len(data["layers"])):
        for name in data["layers"][i]:
            for other in ({}, 1.5, math.nan):
                refuse(put(data, ("layers", i, name), other), f"layers[{i}].{name}")
    for i in range(len(data["banks"])):
        for name in data["banks"][i]:
            refuse(put(data, ("banks", i, name), 1.5), f"banks[{i}].{name}")
    for i in range(len(data["fixed"])):
        for name in data["fixed"][i]:
            refuse(put(data, ("fixed", i, name), 1.5), f"fixed[{i}].{name}")


def test_every_missing_field_is_named(data: Any) -> None:
    n_tried = 0
    for path, _ in nodes(data):
        if path and isinstance(path[-1], str):
            n_tried += 1
            says = "cost" if "cost" in path else f"{path[-1]!r} is missing"
            refuse(drop(data, path), "npas_plan" if path == ("npas_plan",) else says)
    assert n_tried > 150


def test_every_unknown_field_is_named(data: Any) -> None:
    n_tried = 0
    for path, value in nodes(data):
        if isinstance(value, dict):
            n_tried += 1
            says = "cost" if "cost" in path else "'surplus'"
            refuse(put(data, (*path, "surplus"), 1), says)
    assert n_tried > 20


def test_every_list_shortened_lengthened_and_reordered(data: Any) -> None:
    for path, value in list(nodes(data)):
        if not isinstance(value, list) or not value:
            continue
        for i in range(len(value)):
            if field_of(path) != "aliases":
                refuse(drop(data, (*path, i)))
            refuse(put(data, path, [*value, value[i]]))
        refuse(put(data, path, [*value, None]), field_of(path))
    reordered = put(data, ("layers",), data["layers"][::-1])
    refuse(reordered, "banks[", "layers")


@pytest.mark.parametrize("step", [-1, 1, 16, 1_000, 2**40])
def test_every_number_moved_is_refused_or_still_sound(data: Any, step: int) -> None:
    """A moved number is refused, or it is free, or a brute-force check finds the plan sound."""
    wrong: list[str] = []
    for path, value in leaves(data):
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        changed = put(data, path, value + step)
        if error_of(changed) is not None:
            continue
        name = field_of(path)
        if name not in FREE and not is_sound(Plan.from_json(json.dumps(changed))):
            wrong.append(f"{path}: {value} -> {value + step} is accepted")
    assert not wrong, "\n".join(wrong)


def test_free_numbers_are_free(data: Any) -> None:
    """The list of exceptions above is not wider than it must be."""
    assert error_of(put(data, ("seed",), -5)) is None
    assert error_of(put(data, ("budget_params",), data["budget_params"] + 1)) is None
    assert error_of(put(data, ("layers", 1, "macs"), 7)) is None
    assert error_of(put(data, ("layers", 1, "uses"), 7)) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 200) | st.integers() | st.floats() | st.text("ab."),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_mutations(draw: st.DataObject) -> None:
    data = json.loads(PLAN.to_json())
    for _ in range(draw.draw(st.integers(1, 3))):
        path, _ = draw.draw(st.sampled_from([node for node in nodes(data) if node[0]]))
        data = put(data, path, draw.draw(json_values))
    try:
        found = Plan.from_json(json.dumps(data))
    except PlanError:
        return
    assert is_sound(found)
    assert Plan.from_json(found.to_json()) == found


PLAN = make_plan()


def index_of(data: Any, name: str) -> int:
    return next(i for i, layer in enumerate(data["layers"]) if layer["name"] == name)


def bank_index(data: Any, name: str) -> int:
    return next(i for i, bank in enumerate(data["banks"]) if bank["name"] == name)


@pytest.mark.parametrize("base", [1, 10**6, 2**53])
def test_windows_out_of_bounds(data: Any, base: int) -> None:
    for i, layer in enumerate(data["layers"]):
        if layer["k"]:
            size = data["banks"][bank_index(data, layer["bank"])]["size"]
            refuse(put(data, ("layers", i, "base"), size - 1 + base), f"layers[{i}].base")
            refuse(put(data, ("layers", i, "base"), -base), f"layers[{i}].base")


def test_strides_that_run_past_the_end(data: Any) -> None:
    for i, layer in enumerate(data["layers"]):
        if layer["k"] >= 2:
            for stride in (layer["stride"] + 10**6, 2**53):
                refuse(put(data, ("layers", i, "stride"), stride), f"layers[{i}].base")
            refuse(put(data, ("layers", i, "stride"), 0), f"layers[{i}].stride")
        elif layer["k"] == 1:
            refuse(put(data, ("layers", i, "stride"), 1), f"layers[{i}].stride")
        else:
            refuse(put(data, ("layers", i, "stride"), 1), f"layers[{i}].k")
            refuse(put(data, ("layers", i, "base"), 1), f"layers[{i}].k")


def test_counts_of_templates(data: Any) -> None:
    for i, layer in enumerate(data["layers"]):
        refuse(put(data, ("layers", i, "k"), 10**9), f"layers[{i}]")
        if layer["k"]:
            refuse(put(data, ("layers", i, "k"), 0), f"layers[{i}].k")


def test_a_dead_element(data: Any) -> None:
    """A larger bank whose totals are all right, but which no window reaches."""
    i = bank_index(data, "templates")
    changed = put(data, ("banks", i, "size"), data["banks"][i]["size"] + 1)
    changed["banks"][i]["cost"]["elements"] += 1
    changed["n_params"] += 1
    changed["budget_params"] += 1
    refuse(changed, f"banks[{i}].size", "covers")


def test_wrong_costs_and_totals(data: Any) -> None:
    for path, value in leaves(data):
        if "cost" in path:
            refuse(put(data, path, value + 1), f"{path[0]}[{path[1]}].cost")
    for name in ("n_fixed", "n_params", "n_dense"):
        refuse(put(data, (name,), data[name] + 1), name)
        refuse(put(data, (name,), data[name] - 1), name)


def test_over_budget(data: Any) -> None:
    refuse(put(data, ("budget_params",), data["n_params"] - 1), "budget_params")
    assert error_of(put(data, ("budget_params",), data["n_params"])) is None


def test_duplicated_names(data: Any) -> None:
    names = [layer["name"] for layer in data["layers"]]
    refuse(put(data, ("layers", 1, "name"), names[2]), names[2])
    refuse(put(data, ("layers", 1, "aliases"), [names[2]]), names[2], "stands in")
    refuse(put(data, ("layers", 1, "aliases"), [names[1]]), names[1], "stands in")
    refuse(put(data, ("layers", 1, "aliases"), ["x", "x"]), "'x'", "stands in")
    refuse(put(data, ("fixed", 0, "name"), names[0]), "fixed[0].name", names[0])
    refuse(put(data, ("fixed", 0, "name"), data["fixed"][1]["name"]), "fixed[1].name")
    refuse(put(data, ("banks", 0, "name"), data["banks"][1]["name"]), "banks")


def test_names_that_a_bank_cannot_have(data: Any) -> None:
    for name in ("", "a b", "a.b", "0", "a-b", "../x", "a\n"):
        refuse(put(data, ("banks", 0, "name"), name), "banks[0].name")


def test_a_layer_of_no_bank(data: Any) -> None:
    changed = put(data, ("layers", 1, "bank"), "nowhere")
    refuse(changed, "bank")
    i = bank_index(data, data["layers"][1]["bank"])
    changed["banks"][i]["layers"].remove(data["layers"][1]["name"])
    refuse(changed, "layers[1].bank", "nowhere")


def test_a_bank_of_no_layer(data: Any) -> None:
    empty = copy.deepcopy(data["banks"][0]) | {"name": "empty", "layers": []}
    refuse(put(data, ("banks",), [*data["banks"], empty]), f"banks[{len(data['banks'])}].layers")


def test_no_layers_at_all(data: Any) -> None:
    changed = data | {"layers": [], "banks": []}
    refuse(changed, "layers")


@pytest.mark.parametrize(
    "dtype", ["float64", "int64", "complex64", "bool", "Tensor", "", "__class__", "\ud800", "nn"]
)
def test_dtypes(data: Any, dtype: str) -> None:
    refuse(put(data, ("layers", 1, "dtype"), dtype), "layers[1].dtype")
    refuse(put(data, ("banks", 0, "dtype"), dtype), "dtype")


@pytest.mark.parametrize(
    "shape",
    [[], [0], [8, 0], [8, -8], [8.0, 8], [True, 64], ["8", 8], [2**52, 2**52], [1] * 17, None, 64],
)
def test_shapes(data: Any, shape: Any) -> None:
    refuse(put(data, ("layers", 1, "shape"), shape), "layers[1].shape")


def test_padding_beyond_the_rows(data: Any) -> None:
    i = index_of(data, "embed.weight")
    refuse(put(data, ("layers", i, "padding_idx"), 12), f"layers[{i}].padding_idx")
    assert error_of(put(data, ("layers", i, "padding_idx"), 11)) is None


@pytest.mark.parametrize("mode", ["", "WAVG", "mean", "__init__", "mask", None, 1])
def test_modes(data: Any, mode: Any) -> None:
    refuse(put(data, ("layers", 1, "downsample"), mode), "layers[1].downsample")
    if mode != "mask":
        refuse(put(data, ("layers", 1, "upsample"), mode), "layers[1].upsample")


def test_a_window_for_a_coefficient_is_seen_in_the_totals(data: Any) -> None:
    i = index_of(data, "first.weight")
    refuse(put(data, ("layers", i, "downsample"), "avg"), ".cost")
    i = index_of(data, "wide.weight")
    refuse(put(data, ("layers", i, "upsample"), "inter"), ".cost")


def test_a_bank_too_large_to_sweep_is_refused_at_once(data: Any) -> None:
    """2**53 elements and templates are numbers like others: nothing loops over them."""
    i = index_of(data, "alone.weight")
    b = bank_index(data, data["layers"][i]["bank"])
    changed = put(data, ("banks", b, "size"), 2**53)
    changed["layers"][i] |= {"k": 2**47, "stride": 64}
    changed |= {"k": 2**53, "budget_params": 2**53}
    refuse(changed)


def test_a_plan_in_memory_is_what_json_says(plan: Plan) -> None:
    """The broken case: a plan that differs in one number does not compare equal."""
    other = replace(plan, seed=plan.seed + 1)
    assert other != plan
    assert Plan.from_json(other.to_json()) == other != plan
