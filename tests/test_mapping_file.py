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
