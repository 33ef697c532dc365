"""Whole templates: the budgets of soft sharing and ALBERT, and what lies between them."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import npas
from benchmarks.networks import NETWORKS
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from npas.passes.allocate import largest
from npas.passes.demand import Block, Demand
from npas.passes.templates import allocate_templates, one_template
from tests.passes.fuzz_allocate import bank_problems

pytestmark = pytest.mark.pure


def demands(*banks: tuple[int, ...], k: int = 6, scale: bool = False) -> list[Demand]:
    """Return layers of these sizes in these banks."""
    found = [(n, bank) for bank, sizes in enumerate(banks) for n in sizes]
    return [Demand(n, bank, "wavg", "mask", k, scale) for n, bank in found]


# A layer that shares nothing, two groups of four and of two layers.
NET = demands((5_000,), (2_000,) * 4, (1_000,) * 2)


@pytest.mark.parametrize(
    ("available", "sizes"),
    [
        (8_000, (5_000, 2_000, 1_000)),
        (11_012, (5_000, 4_000, 2_000)),  # and 2 coefficients for each of 6 layers
        (13_016, (5_000, 6_000, 2_000)),  # the other has as many as layers
        (15_020, (5_000, 8_000, 2_000)),
        (10_008, (5_000, 4_000, 1_000)),  # one more for the larger layers
        (11_020, (5_000, 4_000, 2_000)),  # 8 are left, less than 0.1%
    ],
)
def test_whole_templates(available: int, sizes: tuple[int, ...]) -> None:
    found = allocate_templates(NET, available)
    assert found is not None and tuple(bank.size for bank in found) == sizes
    for bank, n in zip(found, (5_000, 2_000, 1_000), strict=True):
        k = bank.size // n
        assert set(bank.blocks) == {Block(0, n if k > 1 else 0, k)}
    assert not bank_problems(NET, found, available)


def test_the_rest_is_spread_over_what_is_shared() -> None:
    found = allocate_templates(NET, 12_000)
    assert found is not None
    alone, first, second = (bank.size for bank in found)
    assert alone == 5_000 and 4_000 < first < 6_000 and second >= 2_000
    assert sum(bank.cost.total for bank in found) >= 11_988


def test_strides_are_whole_where_they_are_not_aligned() -> None:
    found = allocate_templates(demands((2_001, 2_001)), 4_006)
    assert found is not None and found[0].blocks == (Block(0, 2_001, 2),) * 2


def test_all_that_is_shared_has_as_many_templates() -> None:
    """Shares of the weights would give the first bank 19,000 elements, and this one 5,000."""
    found = allocate_templates(demands((3_000,) * 12, (1_000,) * 6), 24_108)
    assert found is not None and [bank.size for bank in found] == [18_000, 6_000]
    net = demands((5_000,), (2_000,) * 4, (1_000,) * 12)
    found = allocate_templates(net, 14_048)
    assert found is not None and [bank.size for bank in found] == [5_000, 6_000, 3_000]


def test_what_is_left_goes_to_the_banks_of_the_largest_layers() -> None:
    found = allocate_templates(demands((1_000,) * 2, (2_000,) * 4), 5_008)
    assert found is not None and [bank.size for bank in found] == [1_000, 4_000]
    found = allocate_templates(demands((1_000,) * 6, (2_000,) * 6), 11_042)
    assert found is not None and [bank.size for bank in found] == [3_000, 8_000]


def test_layers_of_several_sizes_take_no_whole_templates_from_others() -> None:
    net = demands((3_000, 100), (1_000,) * 4)
    found = allocate_templates(net, 8_516)
    assert found is not None and found[0].size >= 3_000 and found[1].size >= 4_000
    assert not bank_problems(net, found, 8_516)


def test_round_robin_has_one_template_a_layer() -> None:
    asked = [replace(demand, downsample="rr") for demand in demands((1_000,) * 3, (500,))]
    for available in (1_500, 2_500, 3_000, 3_500):
        found = allocate_templates(asked, available)
        assert found is not None and found[1].size == 500
        assert not bank_problems(asked, found, available)
        assert {block.k for bank in found for block in bank.blocks} == {1}


def test_what_may_be_left_is_one_in_a_thousand() -> None:
    # A layer that shares nothing cannot use more than its size.
    assert allocate_templates(demands((999,)), 1_000) is not None
    assert allocate_templates(demands((998,)), 999) is None


def test_all_templates_apart_are_the_most() -> None:
    net = demands((1_000,) * 2)
    most = largest(net)
    found = allocate_templates(net, most)
    assert found is not None and found[0].size == 12_000
    assert allocate_templates(net, most + 1) is None


def test_what_it_leaves_to_the_general_allocation() -> None:
    assert allocate_templates(demands((2_000, 2_000), scale=True), 1_999) is None
    assert allocate_templates(NET, 7_999) is None
    assert allocate_templates(NET, 10**6) is None
    assert allocate_templates(demands((10,), (20,)), 31) is None


def test_templates_asked_for_are_the_most() -> None:
    two = [replace(demand, k=2) for demand in NET]
    found = allocate_templates(two, 15_020)
    assert found is not None and found[0].size == 5_000
    assert {block.k for bank in found for block in bank.blocks} <= {1, 2}
    assert sum(bank.cost.total for bank in found) >= 15_005


def test_a_bank_makes_room_for_its_scalars() -> None:
    """A shared weight that starts at zero needs one; the others do not pay for it."""
    asked = [replace(d, scale=d.bank == 1) for d in NET]
    assert one_template(asked) == 8_004
    found = allocate_templates(asked, 8_000)
    assert found is not None and [bank.size for bank in found][::2] == [5_000, 1_000]
    assert 1_980 <= found[1].size < 2_000 and found[1].cost.scales == 4
    assert not bank_problems(asked, found, 8_000)


def test_a_bank_of_several_sizes_holds_the_largest() -> None:
    asked = demands((3_000,), (2_000, 500, 700), (1_000, 1_000))
    found = allocate_templates(asked, 6_000)
    assert found is not None and [bank.size for bank in found] == [3_000, 2_000, 1_000]
    assert len({block.base for block in found[1].blocks}) > 1  # not all at one place
    more = allocate_templates(asked, 7_000)
    assert more is not None and more[0].size == 3_000 and min(b.size for b in more) >= 1_000
    assert not bank_problems(asked, more, 7_000)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 300_000), st.integers(1, 12)), min_size=1, max_size=8),
    st.sampled_from(["wavg", "emb", "avg", "rr"]),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.floats(0, 1),
)
def test_nothing_is_dead_stretched_or_over(
    groups: list[tuple[int, int]], downsample: str, k: int, scaled: float, share: float
) -> None:
    asked = [
        Demand(n, bank, downsample, "mask", k, (i + 1) * scaled >= count)
        for bank, (n, count) in enumerate(groups)
        for i in range(count)
    ]
    least, total = one_template(asked), sum(demand.n for demand in asked)
    available = least + int(share * (total - least)) if total > least else least
    found = allocate_templates(asked, available)
    alone = [replace(d, k=1) if groups[d.bank][1] == 1 else d for d in asked]
    assert (found is None) == (available > largest(alone))
    if found is None:
        return
    assert not bank_problems(asked, found, available)
    for bank, (n, count) in zip(found, groups, strict=True):
        assert bank.size >= n and (count > 1 or bank.size == n)
        assert all(block.k for block in bank.blocks)
    assert available < 100_000 or sum(b.cost.total for b in found) >= 0.999 * available


# And as `npas.plan` uses it.


def windows(plan: npas.Plan) -> set[tuple[int, int, int]]:
    """Return the windows of all layers of banks that are no ordinary parameters."""
    layers = [layer for layer in plan.layers if not plan.is_ordinary(layer.bank)]
    return {(layer.base, layer.stride, layer.k) for layer in layers}


@pytest.mark.parametrize("groups", ["albert", "repeated", "soft_sharing"])
@pytest.mark.parametrize(
    "make",
    [
        NETWORKS["bert-base"].make,
        NETWORKS["albert-base-unshared"].make,
        partial(transformer, vocab=50, dim=34, depth=4, heads=2, max_len=8),
        partial(wrn, 16, 4),
    ],
    ids=["bert-base", "albert-base-unshared", "transformer", "wrn-16-4"],
)
def test_largest_is_one_weight_for_all_that_share(make: Any, groups: str) -> None:
    with torch.device("meta"):
        model = make()
    plan = npas.plan(model, "largest", groups=groups)
    assert plan.n_params == plan.budget_params
    assert windows(plan) == {(0, 0, 1)} and not any(layer.scale for layer in plan.layers)
    for bank in plan.banks:
        assert bank.size == plan.layers_of(bank.name)[0].n
        assert plan.is_ordinary(bank.name) == (len(bank.layers) == 1)
    assert npas.Plan.from_json(plan.to_json()) == plan


def net(depth: int = 4) -> nn.Module:
    blocks = [nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(nn.Linear(6, 8), *blocks, nn.Linear(8, 5))


def test_the_largest_budget_that_an_error_states_is_used_to_the_last_parameter() -> None:
    """Coefficients of single templates are a part of it."""
    model = nn.LSTM(2, 10, 2)
    how: dict[str, Any] = {"groups": "soft_sharing", "k": 1, "overrides": {"*": {"bank": "one"}}}
    with pytest.raises(npas.BudgetError) as caught:
        npas.plan(model, "400%", **how)
    dense = sum(p.numel() for p in model.parameters())
    assert caught.value.largest == dense + 4
    assert npas.plan(model, dense + 4, **how).n_params == dense + 4


def test_a_coefficient_for_a_single_template_is_soft_sharings_alone() -> None:
    largest_budget = npas.plan(net(), "largest", groups="soft_sharing").n_params
    soft = npas.plan(net(), largest_budget + 4, groups="soft_sharing")
    assert windows(soft) == {(0, 0, 1)} and soft.n_params == largest_budget + 4
    # With less, as with another wish, the bank gets it.
    for options in (
        {"budget": largest_budget + 3, "groups": "soft_sharing"},
        {"budget": largest_budget + 4, "groups": "albert"},
        {"budget": largest_budget + 4, "groups": "soft_sharing", "downsample": "avg"},
        {"groups": "soft_sharing", "overrides": {"*": {"scale": False}}},
    ):
        plan = npas.plan(net(), **{"budget": largest_budget + 4, **options})
        assert plan.bank_by_name["b0"].size > 64
        assert not any(layer.scale for layer in plan.layers)


def test_below_largest_all_banks_get_the_same_share() -> None:
    budget = npas.plan(net(), "largest", groups="albert").n_params
    mapping = npas.plan(net(), "largest", groups="albert")
    banks = npas.Mapping({bank.name: bank.layers for bank in mapping.banks})
    for groups in ("albert", "soft_sharing"):
        below = npas.plan(net(), budget - 1, groups=groups)
        general = npas.plan(net(), budget - 1, groups=banks)
        assert [bank.size for bank in below.banks] == [bank.size for bank in general.banks]


def test_a_mapping_that_was_kept_is_allocated_alike() -> None:
    plan = npas.plan(net(), "90%", groups="soft_sharing")
    banks = {bank.name: bank.layers for bank in plan.banks}
    again = npas.plan(net(), "90%", groups=npas.Mapping(banks, "soft_sharing"))
    assert again.layers == plan.layers and again.n_params == plan.n_params
    general = npas.plan(net(), "90%", groups=npas.Mapping(banks))
    assert general.layers != plan.layers


def test_a_weight_of_zero_starts_at_zero_beside_whole_templates() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("2.0.weight").zero_()
    ssn = npas.compile(model, "largest", groups="albert")
    plan = npas.plan(model, "largest", groups="albert")
    assert sum(p.numel() for p in ssn.parameters()) <= plan.n_params
    x = torch.randn(4, 6)
    assert torch.equal(ssn(x), model(x))
