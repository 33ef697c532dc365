"""The mapping as data: what it refuses, in memory and from a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from torch import nn

import npas
from npas import Mapping, PlanError

pytestmark = pytest.mark.pure

GOOD: dict[str, Any] = {
    "npas_mapping": 1,
    "source": "by hand",
    "banks": {"one": ["0.weight", "1.weight"], "two": ["2.weight"]},
    "reasons": {"one": "alike"},
}
DROP = object()


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))


def changed(**fields: Any) -> str:
    data = {**GOOD, **fields}
    return json.dumps({name: value for name, value in data.items() if value is not DROP})


def test_round_trip(tmp_path: Path) -> None:
    mapping = Mapping.from_json(json.dumps(GOOD))
    assert mapping.banks == {"one": ("0.weight", "1.weight"), "two": ("2.weight",)}
    assert mapping.source == "by hand"
    assert mapping.bank_of == {"0.weight": "one", "1.weight": "one", "2.weight": "two"}
    assert Mapping.from_json(mapping.to_json()) == mapping
    mapping.save(tmp_path / "mapping.json")
    assert Mapping.load(tmp_path / "mapping.json") == mapping
    assert mapping.to_json() == Mapping.load(tmp_path / "mapping.json").to_json()


def test_reasons_are_optional() -> None:
    assert Mapping.from_json(changed(reasons=DROP)).reasons == {}


def test_names_beyond_ascii_survive_the_file(tmp_path: Path) -> None:
    mapping = Mapping({"b": ("größe.weight", "層.weight")}, "von Hand ✓", {"b": "ähnlich"})
    mapping.save(tmp_path / "mapping.json")
    assert Mapping.load(tmp_path / "mapping.json") == mapping


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5_000, "not JSON"),
        ("null", "npas_mapping"),
        ("[]", "npas_mapping"),
        ("3", "npas_mapping"),
        ("NaN", "npas_mapping"),
        ('"text"', "npas_mapping"),
        ("{}", "npas_mapping"),
        (changed(npas_mapping=DROP), "npas_mapping"),
        (changed(npas_mapping=2), "npas_mapping"),
        (changed(npas_mapping="1"), "npas_mapping"),
        (changed(npas_mapping=None), "npas_mapping"),
        (changed(npas_mapping=True), "npas_mapping"),
        (changed(extra=1), "'extra'"),
        (changed(source=DROP), "source"),
        (changed(source=None), "source"),
        (changed(source=3), "source"),
        (changed(banks=DROP), "banks"),
        (changed(banks=None), "banks"),
        (changed(banks=[]), "banks"),
        (changed(banks="one"), "banks"),
        (changed(banks={"one": "0.weight"}), r"banks\['one'\]"),
        (changed(banks={"one": None}), r"banks\['one'\]"),
        (changed(banks={"one": [1]}), r"banks\['one'\]"),
        (changed(banks={"one": [None]}), r"banks\['one'\]"),
        (changed(banks={"one": [["0.weight"]]}), r"banks\['one'\]"),
        (changed(banks={"one": {"0.weight": 1}}), r"banks\['one'\]"),
        (changed(banks={"one": []}), r"banks\['one'\] has no layer"),
        (changed(banks={"one": ["0.weight", "0.weight"]}), "0.weight"),
        (changed(banks={"one": ["0.weight"], "two": ["0.weight"]}), "'one' and 'two'"),
        (changed(banks={"not a name": ["0.weight"]}), "not a name"),
        (changed(banks={"": ["0.weight"]}), "banks"),
        (changed(reasons=None), "reasons"),
        (changed(reasons=[]), "reasons"),
        (changed(reasons={"one": 1}), r"reasons\['one'\]"),
        (changed(reasons={"one": ["alike"]}), r"reasons\['one'\]"),
    ],
)
def test_hostile_text(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Mapping.from_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["npas_mapping", "source", "banks", "reasons"]),
)
def test_any_value_is_read_or_a_plan_error(value: Any, name: str) -> None:
    try:
        mapping = Mapping.from_json(changed(**{name: value}))
    except PlanError:
        return
    assert all(isinstance(layer, str) for layer in mapping.bank_of)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"absent\.json"):
        Mapping.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"binary\.json"):
        Mapping.load(tmp_path / "binary.json")


def test_a_mapping_in_memory_is_checked_too() -> None:
    with pytest.raises(PlanError, match="'one' and 'two'"):
        Mapping({"one": ("a",), "two": ("a",)}, "x")
    with pytest.raises(PlanError, match=r"banks\['one'\] has no layer"):
        Mapping({"one": ()}, "x")


def test_a_name_where_a_list_of_names_belongs() -> None:
    with pytest.raises(PlanError, match="one"):
        Mapping({"one": "ab"}, "x")  # type: ignore[dict-item]


def test_a_mapping_for_another_model() -> None:
    mapping = Mapping({"one": ("0.weight", "1.weight", "9.weight")}, "by hand")
    with pytest.raises(PlanError, match="another model") as caught:
        npas.plan(model(), 60, groups=mapping)
    assert "2.weight" in str(caught.value) and "9.weight" in str(caught.value)


def test_a_long_difference_is_cut() -> None:
    mapping = Mapping({"one": tuple(f"x{i}" for i in range(20))}, "by hand")
    with pytest.raises(PlanError, match=r"x0, x1, x10, x11, x12 \.\.\."):
        mapping.check([])


def test_it_makes_the_plan_it_describes() -> None:
    mapping = Mapping.from_json(json.dumps(GOOD))
    plan = npas.plan(model(), 90, groups=mapping)
    assert {bank.name: bank.layers for bank in plan.banks} == mapping.banks
    assert plan.groups == "by hand"
    assert plan.bank_by_name["one"].reason == "alike"
    assert npas.Plan.from_json(plan.to_json()) == plan


def test_any_bank_name_that_is_accepted_survives_a_plan_file() -> None:
    names = ("b-0", "a b", "0", "class", "train", "type", "keys", "forward", "größe")
    refused = 0
    for name in names:
        try:
            mapping = Mapping({name: ("0.weight", "1.weight", "2.weight")}, "by hand")
            plan = npas.plan(model(), 60, groups=mapping)
        except npas.NpasError as error:
            assert name in str(error)
            refused += 1
            continue
        assert npas.Plan.from_json(plan.to_json()) == plan, name
        ssn = npas.compile(model(), plan=plan)
        assert sum(p.numel() for p in ssn.parameters()) == plan.n_params
    assert refused < len(names)


def by_hand() -> Mapping:
    return Mapping(
        {"one": ("a.w", "b.w", "c.w"), "two": ("d.w",), "three": ("e.w", "f.w")},
        "by hand",
        {"one": "alike", "two": "alone"},
    )


def test_merge() -> None:
    merged = by_hand().merge("two", "one")
    assert merged.banks == {"two": ("a.w", "b.w", "c.w", "d.w"), "three": ("e.w", "f.w")}
    assert "one" not in merged.reasons and "merged by hand" in merged.reasons["two"]
    assert set(merged.bank_of) == set(by_hand().bank_of)


def test_split_and_pin() -> None:
    split = by_hand().split("one", "a", "c")
    assert split.banks["one"] == ("b.w",) and split.banks["one_split"] == ("a.w", "c.w")
    again = split.split("one_split", "c", name="one")
    assert again.banks["one"] == ("b.w",) and again.banks["one_"] == ("c.w",)
    named = by_hand().split("one", "b", name="new")
    assert named.banks["new"] == ("b.w",)
    pinned = by_hand().pin("a", "d", "e")
    assert sorted(pinned.banks.values()) == [("a.w",), ("b.w", "c.w"), ("d.w",), ("e.w",), ("f.w",)]
    assert "pinned" in pinned.reasons[pinned.bank_of["a.w"]]
    assert by_hand() == by_hand().pin("d")  # it had its own already


def test_pin_leaves_a_layer_alone_in_a_plan() -> None:
    mapping = Mapping.from_json(json.dumps(GOOD)).pin("1")
    plan = npas.plan(model(), "100%", groups=mapping)
    assert plan.bank_by_name[plan.layer("1.weight").bank].layers == ("1.weight",)


def test_frozen_banks_stay_as_they_are(tmp_path: Path) -> None:
    frozen = by_hand().freeze("one")
    assert frozen.frozen == ("one",)
    for change in (
        lambda: frozen.merge("one", "two"),
        lambda: frozen.split("one", "a"),
        lambda: frozen.pin("b"),
    ):
        with pytest.raises(npas.NpasError, match="'one' is frozen"):
            change()
    assert frozen.merge("two", "three").frozen == ("one",)
    frozen.save(tmp_path / "m.json")
    assert Mapping.load(tmp_path / "m.json") == frozen
    with pytest.raises(PlanError, match="frozen"):
        Mapping.from_json(changed(frozen=["three"]))
    with pytest.raises(PlanError, match="frozen"):
        Mapping.from_json(changed(frozen="one"))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m.merge("one"), "two banks or more"),
        (lambda m: m.merge("one", "one"), "two banks or more"),
        (lambda m: m.merge("one", "twoo"), "nearest: 'two'"),
        (lambda m: m.split("one", "x"), "matches no weight"),
        (lambda m: m.split("one", "a", "b", "c"), "3 of the 3"),
        (lambda m: m.split("one"), "0 of the 3"),
        (lambda m: m.split("four", "a"), "no bank"),
        (lambda m: m.pin("zz"), "matches no weight"),
        (lambda m: m.freeze("four"), "no bank"),
    ],
)
def test_edits_that_make_no_sense(edit: Any, says: str) -> None:
    with pytest.raises(npas.NpasError, match=says):
        edit(by_hand())


LEARNED: dict[str, Any] = {
    "method": "emb",
    "templates": 8,
    "start": "equal",
    "steps": 40,
    "seed": 1,
    "optimizer": "AdamW",
    "losses": [2.5, 0.5],
    "inertia": 1.25,
    "silhouette": None,
    "stability": 0.75,
    "representation": {f"{i}.weight": [0.5, -1.5e-5, i] for i in range(3)},
}


def test_what_was_learned_survives_the_file_a_line_a_layer() -> None:
    mapping = Mapping.from_json(changed(learned=LEARNED))
    assert mapping.learned is not None and mapping.learned.losses == (2.5, 0.5)
    assert Mapping.from_json(mapping.to_json()) == mapping
    assert '      "1.weight": [0.5, -1.5e-05, 1],\n' in mapping.to_json()
    edited = mapping.merge("one", "two")
    assert edited.learned is not None
    assert edited.learned.inertia is None and edited.learned.stability is None
    assert edited.learned.representation == mapping.learned.representation


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "pca"}, "method"),
        ({"steps": -1}, "steps"),
        ({"seed": True}, "seed"),
        ({"templates": 8.0}, "templates"),
        ({"optimizer": None}, "optimizer"),
        ({"start": 3}, "start"),
        ({"inertia": "1"}, "inertia"),
        ({"stability": float("inf")}, "stability"),
        ({"losses": [1.0]}, "losses"),
        ({"losses": [1.0, float("nan")]}, "losses"),
        ({"representation": {}}, "representation"),
        ({"representation": {"0.weight": 3}}, "representation"),
        ({"representation": {"0.weight": []}}, "representation"),
        ({"representation": {"0.weight": [1.0], "1.weight": [1, 2]}}, "1.weight"),
        ({"representation": {"0.weight": [10**400]}}, "representation"),
        ({"representation": {"0.weight": [1.0]}}, "layers of the banks"),
        ({"extra": 1}, r"'learned\.extra'"),
    ],
)
def test_hostile_learned_fields(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Mapping.from_json(changed(learned={**LEARNED, **fields}))
    with pytest.raises(PlanError, match="learned must be"):
        Mapping.from_json(changed(learned=[]))


def test_a_file_of_hostile_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npas.mapping_json.MOST_BYTES", 100)
    (tmp_path / "m.json").write_text(json.dumps(GOOD), encoding="utf-8")
    with pytest.raises(PlanError, match="larger than"):
        Mapping.load(tmp_path / "m.json")
    with pytest.raises(PlanError, match="larger than"):
        Mapping.from_json(json.dumps(GOOD))


def test_the_summary_names_banks_and_layers() -> None:
    text = Mapping.from_json(changed(learned=LEARNED)).freeze("one").summary()
    assert "3 layers in 2 banks" in text and "one (frozen): 0.weight, 1.weight" in text
    assert "stability over seeds 0.75" in text and "silhouette" not in text
