"""Large plans are shown by what repeats in them, and nothing is lost or told twice."""

import io
from collections import OrderedDict

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import npas
from npas.plan_rows import MOST_ROWS, common_name, rows

pytestmark = pytest.mark.pure


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x))


def model(depth: int) -> nn.Sequential:
    with torch.device("meta"):
        blocks = [Block(8) for _ in range(depth)]
        return nn.Sequential(nn.Linear(5, 8), *blocks, nn.Linear(8, 3))


def text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_row_for_each_layer_of_a_small_plan() -> None:
    plan = npas.plan(model(MOST_ROWS // 2 - 1), "50%")
    assert len(plan.layers) == MOST_ROWS
    assert rows(plan) == [(layer,) for layer in plan.layers]


@pytest.mark.parametrize("groups", ["single", "auto", "own"])
def test_every_layer_is_in_one_row_with_what_is_like_it(groups: str) -> None:
    plan = npas.plan(model(40), "30%" if groups != "own" else "100%", groups=groups)
    found = rows(plan)
    assert len(found) < len(plan.layers)
    names = [layer.name for row in found for layer in row]
    assert sorted(names) == sorted(layer.name for layer in plan.layers)
    for row in found:
        assert len({(x.kind, x.shape, x.mode, x.macs) for x in row}) == 1
        assert groups == "own" or len({x.bank for x in row}) == 1
    order = [layer.name for layer in plan.layers]
    firsts = [order.index(row[0].name) for row in found]
    assert firsts == sorted(firsts)


def test_the_table_says_which_and_how_many() -> None:
    plan = npas.plan(model(40), "30%", groups="single")
    shown = text(plan.table())
    assert "{1-40}.up.weight" in shown and "{1-40}.down.weight" in shown
    assert "40 x 128" in shown and "0.weight" in shown and "41.weight" in shown
    assert shown.count(".up.weight") == 1
    whole = text(plan.table(full=True))
    assert all(layer.name in whole for layer in plan.layers)


def test_names_by_what_differs_in_them() -> None:
    assert common_name(["a.0.w", "a.1.w", "a.2.w", "a.5.w"]) == "a.{0-2,5}.w"
    assert common_name(["a.7.w"]) == "a.7.w"
    assert common_name(["x.0.e.1.w", "x.0.e.3.w", "x.2.e.1.w"]) == "x.{0,2}.e.{1,3}.w"
    assert common_name(["conv1.0.w", "conv1.1.w"]) == "conv1.{0-1}.w"


def test_numbers_inside_of_words_keep_layers_apart() -> None:
    with torch.device("meta"):
        layers = {f"conv{i}": nn.Linear(4, 4, bias=False) for i in range(MOST_ROWS + 1)}
    plan = npas.plan(nn.Sequential(OrderedDict(layers)), "50%", groups="single")
    assert len(rows(plan)) == MOST_ROWS + 1
