"""Other layouts than npas's own keep what a plan promises, but for what they are made to show."""

import pytest
import torch

import npas
from benchmarks.quality.networks import network
from benchmarks.quality.variants import VARIANTS, overlapping, room, twins
from npas.passes import mapping

pytestmark = pytest.mark.pure
BUDGETS = ("7%", "25%", "50%")


def plan(budget: str, name: str = "wrn-28-1", **how: str) -> npas.Plan:
    with torch.device("meta"):
        model = network(name).make()
    return npas.plan(model, budget, **how)  # type: ignore[arg-type]


def elements(made: npas.Plan) -> dict[str, list[bool]]:
    """Return bank -> whether each of its elements is read."""
    read = {bank.name: [False] * bank.size for bank in made.banks}
    for layer in made.layers:
        size = len(read[layer.bank])
        starts = [layer.base + t * layer.stride for t in range(layer.k)] or [0]
        for start in starts:
            stop = start + min(layer.n, size)
            assert start >= 0 and stop <= size, layer.name
            read[layer.bank][start:stop] = [True] * (stop - start)
    return read


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("groups", ["auto", "single"])
def test_windows_are_in_bounds_and_the_budget_holds(variant: str, budget: str, groups: str) -> None:
    own = plan(budget, groups=groups)
    made = VARIANTS[variant](own)
    elements(made)
    assert made.n_params <= own.n_params
    assert made.layers != own.layers


def test_overlapping_templates_leave_next_to_nothing_unread_and_tie_no_layers() -> None:
    own = plan("20%")
    made = overlapping(own)
    assert twins(own) > 0 == twins(made)
    sizes = {bank.name: bank.size for bank in made.banks}
    smaller = [x for x in made.layers if x.k and x.n + made.k - 1 <= sizes[x.bank]]
    assert smaller and all(layer.k == made.k for layer in smaller)
    unread = sum(not found for bank in elements(made).values() for found in bank)
    # A stride is a whole number: fewer than K elements of each bank are left over.
    assert unread < made.k * len(made.banks)


def test_disjoint_templates_stand_side_by_side_and_leave_a_rest() -> None:
    made = VARIANTS["disjoint"](plan("50%", groups="single"))
    shared = [layer for layer in made.layers if layer.k > 1]
    assert shared and all(x.base % x.n == 0 and x.stride == x.n for x in shared)
    assert sum(not found for bank in elements(made).values() for found in bank) > 0
    assert all(all(bank) for bank in elements(plan("50%", groups="single")).values())


@pytest.mark.parametrize(
    ("name", "budget", "n", "left"),
    [
        ("wrn-28-1", "15%", 22, 7),
        ("wrn-28-1", "20%", 21, 6),
        ("wrn-28-1", "35%", 18, 0),
        ("wrn-28-1", "50%", 16, 0),
        ("wrn-16-1-grey", "50%", 4, 0),
    ],
)
def test_the_layers_with_a_twin_that_the_findings_count(
    name: str, budget: str, n: int, left: int
) -> None:
    with room(1):
        assert twins(plan(budget, name)) == n
    assert twins(plan(budget, name)) == left
    with room(2):
        assert twins(plan(budget, name)) <= 7


def test_room_is_as_it_was_afterwards() -> None:
    before = mapping.ROOM
    with pytest.raises(RuntimeError, match="in between"), room(before + 3):
        assert before + 3 == mapping.ROOM
        raise RuntimeError("in between")
    assert before == mapping.ROOM
    with room(None):
        assert before == mapping.ROOM
