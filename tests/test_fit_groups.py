"""`groups="fit"`: the mapping that weights suggest."""

from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.errors import NpasError
from npas.plan import Plan

pytestmark = pytest.mark.pure


def net(seed: int = 0, copies: int = 4) -> nn.Sequential:
    """Layers of three sizes; ``copies`` of the middle one are alike up to scale and noise."""
    torch.manual_seed(seed)
    layers = [nn.Linear(32, 64, bias=False)]
    layers += [nn.Linear(64, 64, bias=False) for _ in range(6)]
    layers += [nn.Linear(64, 256, bias=False), nn.Linear(256, 64, bias=False)]
    with torch.no_grad():
        for index in range(2, 1 + copies):
            noise = 0.1 * layers[index].weight
            layers[index].weight.copy_(index * layers[1].weight + noise)
    return nn.Sequential(*layers)


def shared(plan: Plan) -> list[tuple[str, ...]]:
    return [bank.layers for bank in plan.banks if len(bank.layers) > 1]


def test_layers_that_are_alike_share_a_bank_of_their_size() -> None:
    plan = npas.plan(net(), "75%", groups="fit")
    alike = tuple(f"{i}.weight" for i in range(1, 5))
    assert alike in shared(plan)
    bank = plan.layer("1").bank
    assert plan.bank_by_name[bank].size == 64 * 64
    assert {plan.layer(name).base for name in alike} == {0}
    assert "alike" in plan.bank_by_name[bank].reason


def test_alike_layers_lose_nothing_and_others_keep_their_weights() -> None:
    model = net(copies=6)
    kept = 64 * 32 + 2 * 64 * 256
    ssn = npas.fit(model, kept + 64 * 64 + 12, groups="fit")
    fit = npas.report(ssn).fit
    assert fit is not None
    assert all(fit.layers[f"{i}.weight"].relative < 0.11 for i in range(1, 7))
    assert all(fit.layers[f"{i}.weight"].relative == 0 for i in (0, 7, 8))
    auto = npas.report(npas.fit(model, kept + 64 * 64 + 12)).fit
    assert auto is not None and fit.total.relative < 0.3 * auto.total.relative


def test_without_likeness_the_largest_layers_make_room() -> None:
    model = net(copies=0)
    plan = npas.plan(model, "75%", groups="fit")
    assert shared(plan) == [("7.weight", "8.weight")]
    assert all(plan.is_ordinary(plan.layer(str(i)).bank) for i in range(7))
    assert plan.n_params <= plan.budget_params
    assert plan.n_params >= 0.999 * plan.budget_params


def test_of_layers_of_one_size_those_of_the_least_energy_share() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(8)))
    with torch.no_grad():
        for index in (2, 5, 6):
            model.get_parameter(f"{index}.weight").mul_(0.5)
    (members,) = shared(npas.plan(model, "76%", groups="fit"))
    assert members == ("2.weight", "5.weight", "6.weight")
    # What they are multiplied with may make up for it.
    given = [torch.randn(16, 64)]
    found = npas.fit(model, "76%", groups="fit", batches=given)
    last = nn.Sequential(*list(model)[:5])(given[0]).square().mean()
    assert last < 1
    (members,) = shared(found._npas.plan)
    assert "7.weight" in members  # the signal fades, so that the last carry least


@pytest.mark.parametrize("budget", ["20%", "35%", "50%", "65%", "80%", "95%", "100%", "150%"])
@pytest.mark.parametrize("copies", [0, 4])
def test_every_budget_is_used_and_kept(budget: str, copies: int) -> None:
    plan = npas.plan(net(copies=copies), budget, groups="fit")
    assert plan.n_params <= plan.budget_params
    assert plan.n_params >= 0.999 * plan.budget_params - 16
    assert plan.groups == "fit"
    ssn = npas.compile(net(copies=copies), plan=plan)
    assert sum(p.numel() for p in ssn.parameters()) == plan.n_params


def test_it_beats_the_mappings_that_do_not_look() -> None:
    model = net(copies=0)
    errors = {}
    for groups in ("fit", "auto", "own", "single"):
        fit = npas.report(npas.fit(model, "75%", groups=groups)).fit
        assert fit is not None
        errors[groups] = fit.total.relative
    # One bank, which is what "auto" makes here, comes near: the fit itself gives up the largest
    # layers, but keeps none exactly.
    assert errors["fit"] < min(errors["single"], errors["auto"], 0.8 * errors["own"])


def test_the_same_weights_give_the_same_plan_and_other_weights_another() -> None:
    first = npas.plan(net(), "60%", groups="fit")
    assert npas.plan(net(), "60%", groups="fit").to_json() == first.to_json()
    assert npas.plan(net(copies=0), "60%", groups="fit") != first


def test_the_mapping_can_be_used_again_at_another_budget() -> None:
    model = net(copies=0)
    plan = npas.plan(model, "70%", groups="fit")
    mapping = npas.Mapping({bank.name: bank.layers for bank in plan.banks}, "fit")
    again = npas.plan(model, "70%", groups=mapping)
    assert [bank.size for bank in again.banks] == [bank.size for bank in plan.banks]
    lower = npas.plan(model, "20%", groups=mapping)
    assert lower.n_params <= lower.budget_params


def test_what_cannot_be_read_is_refused() -> None:
    with torch.device("meta"):
        hollow = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(NpasError, match=r"groups='fit' reads the weights.*groups='auto'"):
        npas.plan(hollow, "80%", groups="fit")
    model = net()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = float("inf")
    with pytest.raises(NpasError, match=r"groups='fit': 3\.weight holds NaN or infinite"):
        npas.plan(model, "60%", groups="fit")
    with pytest.raises(NpasError, match="n_banks=2 goes with"):
        npas.plan(net(), "60%", groups="fit", n_banks=2)


@pytest.mark.parametrize("options", [{"budget": "largest"}, {"budget": 1}], ids=str)
def test_budgets_without_a_share(options: dict[str, Any]) -> None:
    if options["budget"] == "largest":
        plan = npas.plan(net(), groups="fit", **options)
        assert plan.n_params <= plan.budget_params
    else:
        with pytest.raises(npas.BudgetError, match="smallest usable"):
            npas.plan(net(), groups="fit", **options)
