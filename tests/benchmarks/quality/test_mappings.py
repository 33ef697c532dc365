"""Learned mappings: agreement between seeds, and where layers share with none."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quality import mappings, page, plots, summary
from benchmarks.quality.networks import network
from tests.benchmarks.quality.made_up import RECIPE, SCORES, by_arm, experiment, rows_of

pytestmark = pytest.mark.pure

LAYERS = ("a", "b", "c", "d")
ONE = {"b0": ("a", "b"), "b1": ("c",), "b2": ("d",)}
SAME = {"x": ["c"], "y": ["b", "a"], "z": ["d"]}
OTHER = {"b0": ("a", "c"), "b1": ("b", "d")}


def test_agreement_does_not_depend_on_the_names_of_banks() -> None:
    assert mappings.agreement([ONE, SAME]) == 1
    found = mappings.agreement([ONE, OTHER])
    assert found is not None and found < 0.1
    assert mappings.agreement([ONE]) is None


def test_layers_that_share_with_none_are_counted_by_depth() -> None:
    assert mappings.alone([ONE, ONE], LAYERS) == (0, 1)
    assert mappings.alone([ONE, OTHER], LAYERS) == (0, 0.5)


def test_the_page_shows_the_mappings_that_rows_have(tmp_path: Path) -> None:
    names = [n for n, p in network("wrn-16-1").make().named_parameters() if p.dim() > 1]
    recipe = replace(RECIPE, network="wrn-16-1")
    made = experiment()
    made = replace(made, cases=tuple(replace(case, recipe=recipe) for case in made.cases))
    rows = rows_of(made, SCORES)
    banks = {"b0": names[:-1], "b1": names[-1:]}
    for row in rows.values():
        row["banks"] = banks if row["build"].get("how") == {"made": "Emb"} else None
    found = by_arm(summary.records([made], rows))
    assert found["Emb"]["agreement"] == 1 and found["WAvg"]["agreement"] is None
    text = page.page([made], rows)
    assert "`Emb`: 0% of the first half of the layers share with none" in text
    plots.draw([made], rows, tmp_path)
    name = plots.picture(f"{made.name} mappings")
    assert name in text and (tmp_path / name).exists()
    assert mappings.layers_of(made, [banks]) == names
