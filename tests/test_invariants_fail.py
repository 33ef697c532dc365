"""For each invariant one broken case, which its check must refuse."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import npas
from npas.module import Shapeshifter
from tests.invariants import (
    assert_equal_bits,
    banks_of,
    check_gradients,
    check_honest,
    check_identity,
    check_loads,
    check_materialized,
    check_no_dead_parameter,
    check_parameter_count,
    check_plan_budget,
    check_reader,
    check_refuses,
    check_round_trip,
    check_same_plan,
    check_start,
    check_unchanged,
    check_windows,
    gradients,
    snapshot,
)
from tests.strategies import Case, Large

pytestmark = pytest.mark.pure

CASE = Case("vector", 8, 12, 0, ("plain", "residual", "raw"))
INPUTS = CASE.inputs()


def compiled(
    budget: str = "50%", *, dtype: torch.dtype = torch.float32, upsample: str = "mask"
) -> tuple[nn.Module, Shapeshifter, npas.Plan]:
    model = CASE.make(dtype)
    plan = npas.plan(model, budget, groups="single", upsample=upsample)
    return model, npas.compile(model, plan=plan), plan


def with_layer(plan: npas.Plan, index: int, **changes: int) -> npas.Plan:
    layers = list(plan.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(plan, layers=tuple(layers))


def with_bank(plan: npas.Plan, size: int) -> npas.Plan:
    return replace(plan, banks=(replace(plan.banks[0], size=size), *plan.banks[1:]))


# 1.


def test_budget_check_sees_a_parameter_too_many() -> None:
    _, ssn, plan = compiled()
    check_parameter_count(ssn, plan)
    ssn.get_submodule("head").register_parameter("own", nn.Parameter(torch.zeros(1)))
    with pytest.raises(AssertionError):
        check_parameter_count(ssn, plan)


def test_budget_check_sees_a_plan_above_its_budget() -> None:
    model, _, plan = compiled()
    check_plan_budget(plan, model, "50%")
    bank = plan.banks[0]
    with pytest.raises(AssertionError):
        check_plan_budget(with_bank(plan, bank.size + 2), model, "50%")
    with pytest.raises(AssertionError):
        check_plan_budget(plan, model, "49%")


def test_budget_check_sees_unused_parameters() -> None:
    model = Large((300, 400, 500, 400), False).make()
    plan = npas.plan(model, 200_000, groups="single")
    check_plan_budget(plan, model, 200_000)
    with pytest.raises(AssertionError):
        check_plan_budget(with_bank(plan, plan.banks[0].size - 300), model, 200_000)


@pytest.mark.parametrize("off", [-1, 1])
def test_honesty_check_sees_a_wrong_bound(off: int) -> None:
    model = CASE.make()
    with pytest.raises(npas.BudgetError) as caught:
        npas.plan(model, 1)
    error = caught.value
    check_honest(error, lambda budget: npas.plan(model, budget))
    assert error.smallest is not None
    error.smallest += off
    with pytest.raises((AssertionError, npas.BudgetError)):
        check_honest(error, lambda budget: npas.plan(model, budget))


# 2.


def test_dead_parameter_check_sees_one_element_that_no_window_covers() -> None:
    model, ssn, plan = compiled()
    check_no_dead_parameter(ssn, plan)
    longer = with_bank(plan, plan.banks[0].size + 1)
    broken = npas.compile(model, plan=longer)
    with pytest.raises(AssertionError, match="is dead"):
        check_no_dead_parameter(broken, longer)


# 3.


@pytest.mark.parametrize("off", [-1, 1])
def test_window_check_sees_a_window_out_of_bounds(off: int) -> None:
    _, _, plan = compiled()
    check_windows(plan)
    size = plan.banks[0].size
    index, layer = next((i, x) for i, x in enumerate(plan.layers) if x.k)
    beyond = size - (layer.k - 1) * layer.stride - layer.n + 1
    broken = with_layer(plan, index, base=beyond if off > 0 else -1)
    with pytest.raises(AssertionError):
        check_windows(broken)


def test_reader_check_sees_a_reader_that_trusts_its_input() -> None:
    _, _, plan = compiled()
    shifted = json.loads(plan.to_json())
    shifted["layers"][0]["base"] += 10_000

    def trusting(text: str) -> npas.Plan:
        return with_layer(plan, 0, base=json.loads(text)["layers"][0]["base"])

    check_reader(json.dumps(shifted), npas.Plan.from_json)
    with pytest.raises(AssertionError):
        check_reader(json.dumps(shifted), trusting)
    with pytest.raises(AssertionError, match="KeyError"):
        check_reader("{}", trusting)


# 4.


def test_identity_check_sees_one_changed_bit() -> None:
    model = CASE.make()
    ssn = npas.compile(model, "100%", groups="own")
    check_identity(model, ssn, INPUTS)
    ssn = npas.compile(model, "100%", groups="own")
    with torch.no_grad():
        bias = ssn.get_parameter("head.bias")
        bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    with pytest.raises(AssertionError):
        check_identity(model, ssn, INPUTS)


# 5.


@pytest.mark.parametrize("upsample", ["mask", "inter"])
def test_gradient_check_sees_a_wrong_gradient(upsample: str) -> None:
    inputs = CASE.inputs(torch.float64)
    model, ssn, plan = compiled("40%", dtype=torch.float64, upsample=upsample)
    check_gradients(model, ssn, plan, inputs)
    (bank,) = banks_of(ssn).values()
    bank.theta.register_hook(lambda grad: grad * (1 + 1e-6))
    with pytest.raises(AssertionError, match="theta"):
        check_gradients(model, ssn, plan, inputs)


def test_gradient_check_sees_a_wrong_weight() -> None:
    inputs = CASE.inputs(torch.float64)
    model, ssn, plan = compiled(dtype=torch.float64)
    index = next(i for i, layer in enumerate(plan.layers) if layer.k >= 2)
    broken = with_layer(plan, index, stride=plan.layers[index].stride - 1)
    with pytest.raises(AssertionError):
        check_gradients(model, ssn, broken, inputs)


def test_recompute_check_sees_one_changed_bit() -> None:
    _, ssn, _ = compiled()
    found = gradients(ssn, INPUTS)
    name, grad = next(iter(found.items()))
    changed: Mapping[str, torch.Tensor] = found | {name: torch.nextafter(grad, grad + 1)}
    with pytest.raises(AssertionError, match="differs"):
        assert_equal_bits(changed, found)


# 6.


def test_round_trip_check_sees_a_lost_field() -> None:
    _, _, plan = compiled()

    def forgetful(text: str) -> npas.Plan:
        return replace(npas.Plan.from_json(text), groups="")

    check_round_trip(plan, npas.Plan.from_json)
    with pytest.raises(AssertionError):
        check_round_trip(plan, forgetful)


def test_same_plan_check_sees_another_seed() -> None:
    model = CASE.make()
    plans = [npas.plan(model, "50%", groups="random", n_banks=2, seed=seed) for seed in range(4)]
    with pytest.raises(AssertionError):
        check_same_plan(iter(plans))


# 7.


def test_load_check_sees_other_values(tmp_path: Path) -> None:
    _, ssn, _ = compiled()
    npas.save(ssn, tmp_path)
    check_loads(tmp_path, ssn, CASE.make, INPUTS)
    with torch.no_grad():
        next(iter(banks_of(ssn).values())).theta[0] += 1e-6
    with pytest.raises(AssertionError):
        check_loads(tmp_path, ssn, CASE.make, INPUTS)


def test_refusal_check_sees_a_folder_that_loads(tmp_path: Path) -> None:
    _, ssn, _ = compiled()
    npas.save(ssn, tmp_path)
    with pytest.raises(AssertionError, match="was loaded"):
        check_refuses(tmp_path, CASE.make)


# 8.


def test_start_check_sees_a_wrong_scale() -> None:
    model, ssn, plan = compiled()
    check_start(model, ssn, plan)
    (bank,) = banks_of(ssn).values()
    first, second = bank.layer_names()[:2]
    bank.scale_gain(first, 1.1)
    with pytest.raises(AssertionError, match="gains of"):
        check_start(model, ssn, plan)
    bank.scale_gain(second, 1 / 1.1)  # the mean is 1 again
    with pytest.raises(AssertionError, match=first):
        check_start(model, ssn, plan)


# 9.


def test_materialize_check_sees_other_values_and_keys() -> None:
    model, ssn, _ = compiled()
    check_materialized(npas.materialize(ssn), ssn, model, INPUTS)
    dense = npas.materialize(ssn)
    with torch.no_grad():
        dense.get_parameter("head.weight").mul_(1.001)
    with pytest.raises(AssertionError):
        check_materialized(dense, ssn, model, INPUTS)
    dense = npas.materialize(ssn)
    dense.get_submodule("head").register_buffer("extra", torch.zeros(1))
    with pytest.raises(AssertionError):
        check_materialized(dense, ssn, model, INPUTS)


# The original.


def test_unchanged_check_sees_values_modes_and_gradients() -> None:
    for index in range(4):
        model = CASE.make()
        before = snapshot(model)
        check_unchanged(model, before)
        head = model.get_submodule("head")
        weight = model.get_parameter("head.weight")
        match index:
            case 0:
                with torch.no_grad():
                    weight[0, 0] += 1
            case 1:
                head.eval()
            case 2:
                weight.grad = torch.zeros_like(weight)
            case _:
                head.weight = nn.Parameter(weight.detach().clone())
        with pytest.raises(AssertionError):
            check_unchanged(model, before)
