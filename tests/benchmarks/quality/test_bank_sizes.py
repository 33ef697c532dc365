"""Banks of other sizes keep the budget, and are larger where they are asked to be."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import npas
from benchmarks.quality.bank_sizes import by_value, tilted, weighted
from benchmarks.quality.builds import Job, build
from benchmarks.quality.groups import PATTERNS
from benchmarks.quality.networks import network
from benchmarks.quality.quick import IMAGES
from benchmarks.quality.spec import npas_build
from benchmarks.quality.tasks import task
from benchmarks.sources import Sources

pytestmark = pytest.mark.pure


def plan(budget: str = "25%") -> npas.Plan:
    with torch.device("meta"):
        model = network("wrn-16-1").make()
    return npas.plan(model, budget, groups=dict(PATTERNS["stages"]))


def sizes(made: npas.Plan) -> dict[str, int]:
    return {bank.name: bank.size for bank in made.banks}


@pytest.mark.parametrize("budget", ["10%", "25%", "60%"])
@pytest.mark.parametrize("ratio", [1 / 3, 3.0])
def test_the_budget_holds_and_the_tilt_shows(budget: str, ratio: float) -> None:
    own, made = plan(budget), tilted(plan(budget), ratio)
    assert made.budget_params * 0.99 < made.n_params <= made.budget_params
    assert sum(p.numel() for p in npas.compile(network("wrn-16-1").make(), plan=made).parameters())
    before, after = sizes(own), sizes(made)
    rise = {name: after[name] / before[name] for name in before}
    assert (rise["stage1"] > 1 > rise["stage3"]) == (ratio < 1)
    assert (rise["stage1"] < 1 < rise["stage3"]) == (ratio > 1)


def test_equal_weights_change_next_to_nothing() -> None:
    own = plan()
    made = sizes(weighted(own, dict.fromkeys(sizes(own), 1.0)))
    assert all(abs(made[name] - size) < 16 for name, size in sizes(own).items())


def test_no_bank_is_larger_than_its_layers() -> None:
    made = tilted(plan("60%"), 1e-6)
    whole = sum(layer.n for layer in made.layers if layer.bank == "stage1")
    assert sizes(made)["stage1"] <= whole
    assert made.n_params <= made.budget_params


def test_value_is_the_root_of_the_mean_square() -> None:
    own = plan()
    # Four times the mean square in the first stage: twice the share of the others.
    squares = {x.name: x.n * (4.0 if x.bank == "stage1" else 1.0) for x in own.layers}
    twice = weighted(own, {"stage1": 2.0, "stage2": 1.0, "stage3": 1.0})
    assert sizes(by_value(own, squares)) == sizes(twice)
    assert sizes(twice)["stage1"] > 1.8 * sizes(own)["stage1"]


@pytest.mark.parametrize(
    "how",
    [
        {"groups": "stages", "tilt": 3.0},
        {"groups": "stages", "by_value": True},
        {"groups": "search-wavg", "n_banks": "auto"},
    ],
)
def test_a_build_takes_its_options(how: dict[str, Any]) -> None:
    recipe = replace(IMAGES, lr=0.1)
    data = task(recipe.task, Sources.of([]))
    job = Job(network(recipe.network), npas_build("90%", **how), recipe, data, 0)
    made = build(job)
    assert made.n_banks >= 1
    assert (made.search_s > 0) == ("tilt" not in how)
    assert (made.banks is not None) == (how["groups"] == "search-wavg")
