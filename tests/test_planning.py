"""From an inventory to a plan: what the planner hands to its passes, and what it says."""

from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas import BudgetError, NpasError, PlanError
from npas.planning import PlanRequest

pytestmark = pytest.mark.pure


def blocks(n: int, *more: nn.Module) -> nn.Module:
    """Return n blocks of a 16x16 matrix each, and what comes behind them."""
    each = [nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU()) for _ in range(n)]
    return nn.Sequential(*each, *more)


def test_seeds() -> None:
    assert PlanRequest("10%").seed == 0
    for seed in (0, 65, 2**31, 2**32 - 1):
        assert PlanRequest("10%", seed=seed).check().share == 0.1
    for seed in (-1, 2**32):
        with pytest.raises(NpasError, match=r"must be from 0 to 2\*\*32 - 1"):
            PlanRequest("10%", seed=seed).check()


def test_numbers_of_templates() -> None:
    for k in (1, 2, 2**20):
        assert PlanRequest("10%", k=k).check().share == 0.1
    for k in (0, 2**20 + 1):
        with pytest.raises(NpasError, match=rf"k={k} must be a whole number of templates"):
            PlanRequest("10%", k=k).check()


def test_the_options_that_an_override_may_have_are_named() -> None:
    with pytest.raises(NpasError, match=r"some of bank, k, downsample, upsample, scale$"):
        PlanRequest("10%", overrides={"*": {"z": 1}}).check()


def test_the_largest_layers_of_banks_of_several_sizes() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 4))
    plan = npas.plan(model, "largest", groups="single")
    assert plan.budget_params == 8 * 32 + 8 + 32 + 4
    plan = npas.plan(model, "largest", groups={"[01]": "one", "2": "two"})
    assert plan.budget_params == 8 * 32 + 32 * 4 + 8 + 32 + 4


@pytest.mark.parametrize(("downsample", "says"), [("rr", "use another downsample"), ("avg", "k")])
def test_a_budget_that_cannot_be_used_says_what_changes_that(downsample: str, says: str) -> None:
    with pytest.raises(BudgetError, match=rf"at most .*; lower budget, .*{says}") as caught:
        npas.plan(blocks(2), "50x", groups="single", downsample=downsample, k=2)
    assert ("raise k" in str(caught.value)) == (downsample == "avg")
    assert caught.value.largest == 2 * 256 * (1 if downsample == "rr" else 2)


@pytest.mark.parametrize("budget", [1e-6, "0.0001%", "1e-9x", 1])
def test_less_than_one_parameter_states_the_smallest(budget: Any) -> None:
    with pytest.raises(BudgetError, match="the smallest usable one is") as caught:
        npas.plan(blocks(3, nn.Linear(16, 4)), budget, groups="own")
    assert caught.value.smallest is not None and caught.value.smallest > 4
    assert f"({caught.value.smallest / (3 * 256 + 68):.2%} of the model)" in str(caught.value)


def test_bytes_are_of_the_widest_weight() -> None:
    model = blocks(4)
    wide = model.get_submodule("1")
    wide.double()
    assert npas.plan(model, "4KiB", groups="own").budget_params == 4096 // 8
    wide.half()
    assert npas.plan(model, "2KiB", groups="own").budget_params == 2048 // 4


@pytest.mark.parametrize("groups", ["auto", "random"])
def test_a_strategy_that_chooses_takes_one_bank_where_no_more_fit(groups: str) -> None:
    model = blocks(12)
    with pytest.raises(BudgetError) as caught:
        npas.plan(model, 1, groups="single")
    least = caught.value.smallest
    assert least is not None
    plan = npas.plan(model, least, groups=groups)
    assert len(plan.banks) == 1 and plan.n_params == least
    with pytest.raises(BudgetError):
        npas.plan(model, least, groups=groups, n_banks=4)


@pytest.mark.parametrize("groups", ["auto", "random"])
def test_two_large_layers_among_many_small_ones(groups: str) -> None:
    """Shares of elements allow three banks; the smallest sizes of two large layers do not."""
    with torch.device("meta"):
        small = (nn.Linear(3, 3, bias=False) for _ in range(400))
        large = nn.Linear(1, 10_000, bias=False), nn.Linear(10_000, 1, bias=False)
        model = nn.Sequential(*large, *small)
    plan = npas.plan(model, 708, groups=groups)
    assert len(plan.banks) == 1 and plan.n_params == 708
    with pytest.raises(BudgetError) as caught:
        npas.plan(model, 708, groups=groups, n_banks=5)
    least = caught.value.smallest
    assert least is not None
    assert [len(npas.plan(model, least - less, groups=groups).banks) for less in (1, 0)] == [1, 5]


def test_the_number_of_banks_that_follows_from_no_budget() -> None:
    """Table 12 of the paper: four groups."""
    model = nn.Sequential(*(nn.Linear(4 + i, 9 - i // 2) for i in range(12)))
    assert len(npas.plan(model, "largest").banks) == 4


def test_largest_is_of_the_banks_that_were_chosen() -> None:
    """Weights that start at zero have a scalar each, for which banks of four have no room."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(6)))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(BudgetError, match="budget largest is 16 parameters") as caught:
        npas.compile(model, "largest")
    assert caught.value.smallest == 20


def test_a_bank_that_an_override_makes() -> None:
    plan = npas.plan(blocks(3), "80%", groups="own", overrides={"1": {"bank": "mine"}})
    assert plan.bank_by_name["mine"].layers == ("1.0.weight",)
    assert plan.bank_by_name["mine"].reason == "put together by overrides"


def test_templates_by_default() -> None:
    assert npas.plan(blocks(6), "150%", groups="single").k == 4
    assert npas.plan(blocks(6), "6x", groups="single").k == 6


def test_k_is_that_of_the_layer_with_most() -> None:
    options = {"1": {"k": 2}, "2": {"k": 7}}
    plan = npas.plan(blocks(6), "300%", groups="single", k=3, overrides=options)
    assert [layer.k for layer in plan.layers] == [3, 2, 7, 3, 3, 3] and plan.k == 7


def test_blocks_repeat_as_they_do_in_training() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x) if self.training else self.blocks.get_submodule("0")(x)

    plan = npas.plan(Skips(), "50%", groups="repeated")
    assert [len(bank.layers) for bank in plan.banks] == [4]


def test_soft_sharing_has_a_coefficient_for_a_single_template() -> None:
    model = blocks(2, nn.Linear(16, 3, bias=False))
    for downsample in ("wavg", "emb", "avg"):
        plan = npas.plan(model, 256 + 48 + 2, groups="soft_sharing", downsample=downsample)
        assert [(layer.k, layer.scale) for layer in plan.layers] == [
            (1, downsample != "avg"),
            (1, downsample != "avg"),
            (1, False),  # it shares nothing
        ]


def test_whole_templates_are_no_more_than_was_asked_for() -> None:
    plan = npas.plan(blocks(6), 2 * 256 + 2 * 6, groups="soft_sharing", k=2)
    assert plan.k == 2 and {(layer.k, layer.stride) for layer in plan.layers} == {(2, 256)}


def test_less_than_a_layer_each_is_allocated_as_elsewhere() -> None:
    assert npas.plan(blocks(6), 200, groups="soft_sharing").k == 4
    assert npas.plan(blocks(6), 6 * 256 + 6 * 6, groups="soft_sharing").k == 6


class Scaled(nn.Module):
    """A matrix, and a vector that is kept."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8, bias=False)
        self.scale = nn.Parameter(torch.ones(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale


def test_what_is_kept_has_the_size_that_was_planned() -> None:
    plan = npas.plan(Scaled(8), "80%")
    with pytest.raises(PlanError, match=r"scale is not in the model with 8 elements"):
        npas.compile(Scaled(1), plan=plan)


def test_a_tied_vector_that_is_kept_is_no_other_model() -> None:
    def model() -> nn.Module:
        found = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        found.get_submodule("1").bias = found.get_parameter("0.bias")
        return found

    plan = npas.plan(model(), "50%")
    assert npas.compile(model(), plan=plan).get_parameter("1.bias").numel() == 8
