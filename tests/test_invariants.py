"""The nine invariants on random modules, budgets and planning options."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import npas
from tests.compiling import Options, compile_case, compile_within, plan_or_nearest
from tests.invariants import (
    assert_equal_bits,
    banks_of,
    check_gradients,
    check_identity,
    check_loads,
    check_materialized,
    check_no_dead_parameter,
    check_parameter_count,
    check_reader,
    check_refuses,
    check_round_trip,
    check_same_plan,
    check_start,
    check_unchanged,
    check_windows,
    gradients,
    n_trainable,
    run,
    snapshot,
)
from tests.strategies import PROFILE, Ask, Case, Large, asks, cases, large_models, options

pytestmark = pytest.mark.pure

# 1.


@settings(PROFILE, max_examples=60)
@given(cases(), asks(), options())
def test_budget_is_never_exceeded(case: Case, ask: Ask, options: Options) -> None:
    model, ssn, plan = compile_case(case, ask, options)
    check_parameter_count(ssn, plan)
    assert plan.n_dense == n_trainable(model)


@settings(PROFILE, max_examples=60)
@given(large_models(), asks(), options())
def test_large_budgets_are_used(large: Large, ask: Ask, options: Options) -> None:
    plan_or_nearest(large.make(), ask, large.options(options))


# 2.


@settings(PROFILE, max_examples=60)
@given(cases(), asks(), options())
def test_no_parameter_is_dead(case: Case, ask: Ask, options: Options) -> None:
    _, ssn, plan = compile_case(case, ask, options)
    check_no_dead_parameter(ssn, plan)


# 3.


@settings(PROFILE, max_examples=60)
@given(cases(), asks(), options())
def test_windows_lie_in_their_banks(case: Case, ask: Ask, options: Options) -> None:
    check_windows(plan_or_nearest(case.make(), ask, options))


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.sampled_from([10**6, 2**53, 2**63, -(2**63), 10**400, 1.5, float("nan"), float("inf"), ""]),
    st.sampled_from(["b0", "head.weight", "wavg", "emb", "mask", "float64", "nn", "\ud800"]),
    st.sampled_from([[], {}, [1], [[]], {"name": 1}]),
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        items = value.items()
    return [path] * bool(path) + [p for key, v in items for p in _paths(v, (*path, key))]


def _mutate(data: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Change one field: a value, a small step of a number, another field's value, or none."""
    paths = _paths(data)
    if not paths:
        return
    *outer, last = draw(st.sampled_from(paths))
    owner = data
    for key in outer:
        owner = owner[key]
    match draw(st.sampled_from(["step", "step", "value", "swap", "delete", "add", "repeat"])):
        case "step" if isinstance(owner[last], int):
            owner[last] += draw(st.integers(-9, 9))
        case "swap":
            value = data
            for key in draw(st.sampled_from(paths)):
                value = value[key]
            owner[last] = copy.deepcopy(value)
        case "delete":
            del owner[last]
        case "add" if isinstance(owner, dict):
            owner["surprise"] = copy.deepcopy(draw(_VALUES))
        case "repeat" if isinstance(owner, list):
            owner.append(copy.deepcopy(owner[last]))
        case _:
            owner[last] = copy.deepcopy(draw(_VALUES))


@settings(PROFILE, max_examples=300)
@given(cases(), asks(), options(), st.data())
def test_a_mutated_plan_is_refused_or_valid(
    case: Case, ask: Ask, options: Options, data: st.DataObject
) -> None:
    model = case.make(device="meta")
    text = plan_or_nearest(model, ask, options).to_json()
    mutated = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        _mutate(mutated, data.draw)
    plan = check_reader(json.dumps(mutated), npas.Plan.from_json)
    if plan is not None:
        try:
            ssn = npas.compile(model, plan=plan)
        except npas.PlanError:
            return
        check_parameter_count(ssn, plan)


@settings(PROFILE, max_examples=100)
@given(st.data())
def test_a_cut_plan_is_refused(data: st.DataObject) -> None:
    text = npas.plan(Case("vector", 5, 7, 0, ("plain",)).make(), "50%").to_json()
    cut = text[: data.draw(st.integers(0, len(text) - 3))]
    assert check_reader(cut, npas.Plan.from_json) is None
    assert check_reader(data.draw(st.text(max_size=20)), npas.Plan.from_json) is None


def test_a_plan_that_lost_an_alias_does_not_fit() -> None:
    model = Case("vector", 8, 12, 0, ("tied",)).make()
    data = json.loads(npas.plan(model, "70%", groups="single").to_json())
    tied = next(layer for layer in data["layers"] if layer["aliases"])
    tied["aliases"] = []
    with pytest.raises(npas.PlanError, match=r"blocks\.0\.b\.weight"):
        npas.compile(model, plan=npas.Plan.from_json(json.dumps(data)))


# 4.


@settings(PROFILE, max_examples=40)
@given(cases(), st.sampled_from(["100%", 1.0, "1x", "largest"]), st.booleans())
def test_own_banks_at_100_percent_are_the_original(
    case: Case, budget: str | float, recompute: bool
) -> None:
    model = case.make()
    plan = npas.plan(model, budget, groups="own")
    ssn = npas.compile(model, plan=plan, recompute=recompute)
    check_parameter_count(ssn, plan)
    check_identity(model, ssn, case.inputs())


# 5.


@settings(PROFILE, max_examples=60)
@given(cases(), asks(), options(), st.sampled_from(["layer", "bank"]))
def test_gradients_are_those_of_the_reference(
    case: Case, ask: Ask, options: Options, schedule: str
) -> None:
    model, ssn, plan = compile_case(case, ask, options, dtype=torch.float64, schedule=schedule)
    with torch.no_grad():
        for bank in banks_of(ssn).values():
            for parameter in bank.parameters():
                # Away from the start, where scalars and biases are zero.
                parameter.add_(torch.randn_like(parameter) / 10)
    check_gradients(model, ssn, plan, case.inputs(torch.float64))


@settings(PROFILE, max_examples=40)
@given(cases(), asks(), options(), st.sampled_from(["layer", "bank"]))
def test_recomputed_gradients_are_the_same_bits(
    case: Case, ask: Ask, options: Options, schedule: str
) -> None:
    results = []
    for recompute in (False, True):
        _, ssn, _ = compile_case(case, ask, options, schedule=schedule, recompute=recompute)
        results.append(gradients(ssn, case.inputs()))
    assert_equal_bits(*results)


# 6.


@settings(PROFILE, max_examples=60)
@given(cases(zero=False), asks(), options())
def test_a_plan_is_data(case: Case, ask: Ask, options: Options) -> None:
    model = case.make()
    plan = plan_or_nearest(model, ask, options)
    check_round_trip(plan, npas.Plan.from_json)
    again = npas.plan(case.make(), plan.budget_params, **options)
    meta = npas.plan(case.make(device="meta"), plan.budget_params, **options)
    compiled = npas.compile(model, plan.budget_params, **options)._npas.plan
    first = npas.plan(model, plan.budget_params, **options)
    check_same_plan(iter([first, again, meta, compiled]))


# 7.


@settings(PROFILE, max_examples=30)
@given(cases(zero=False), asks(), options())
def test_save_and_load_keep_every_bit(case: Case, ask: Ask, options: Options) -> None:
    _, ssn, _ = compile_case(case, ask, options)
    with tempfile.TemporaryDirectory() as folder:
        npas.save(ssn, folder)
        check_loads(Path(folder), ssn, case.make, case.inputs())


@settings(PROFILE, max_examples=60)
@given(cases(zero=False), options(), st.data())
def test_damaged_checkpoints_are_refused(case: Case, options: Options, data: st.DataObject) -> None:
    _, ssn, _ = compile_case(case, Ask("count", 0.5), options)
    with tempfile.TemporaryDirectory() as folder:
        npas.save(ssn, folder)
        path = sorted(Path(folder).iterdir())[data.draw(st.integers(0, 1))]
        text = path.read_bytes()
        content = bytearray(text)
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content = content[:position]
        else:
            content[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        if _says_the_same(path, text):
            check_loads(Path(folder), ssn, case.make, case.inputs())
        else:
            check_refuses(Path(folder), case.make)


def _says_the_same(path: Path, before: bytes) -> bool:
    """Tell whether a file of JSON differs in nothing but its spaces."""
    try:
        return path.name == "plan.json" and json.loads(path.read_bytes()) == json.loads(before)
    except ValueError:
        return False


# 8.


@settings(PROFILE, max_examples=60)
@given(cases(), asks(), options(), st.sampled_from(["random", "copy"]))
def test_weights_start_at_the_original_scale(
    case: Case, ask: Ask, options: Options, init: str
) -> None:
    model, ssn, plan = compile_case(case, ask, options, init=init)
    check_start(model, ssn, plan)


# 9.


@settings(PROFILE, max_examples=40)
@given(cases(), asks(), options())
def test_materialize_gives_the_same_function(case: Case, ask: Ask, options: Options) -> None:
    model, ssn, _ = compile_case(case, ask, options)
    gradients(ssn, case.inputs())  # moves the statistics of batch norms
    check_materialized(npas.materialize(ssn), ssn, model, case.inputs())


# The original.


@settings(PROFILE, max_examples=40)
@given(cases(), asks(), options(), st.booleans())
def test_the_original_is_never_changed(
    case: Case, ask: Ask, options: Options, training: bool
) -> None:
    model = case.make().train(training)
    budget = plan_or_nearest(model, ask, options).budget_params
    before = snapshot(model)
    ssn = compile_within(model, budget, example_inputs=case.inputs(), **options)
    check_unchanged(model, before)
    assert all(module.training is training for module in ssn.modules())
    ssn.train()
    gradients(ssn, case.inputs())
    torch.optim.SGD(ssn.parameters(), lr=0.5).step()
    dense = npas.materialize(ssn)
    with torch.no_grad():
        for tensor in (*dense.parameters(), *dense.buffers()):
            tensor.zero_()
    check_unchanged(model, before)
    run(ssn, case.inputs())
    check_unchanged(model, before)
