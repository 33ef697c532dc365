"""Rows of multiply-accumulates: what they say, and that they are right."""

import json
from functools import cache
from typing import Any

import pytest
import torch

import npas
from benchmarks import flops as command, paper
from benchmarks.ledger import budgets, counts, flops
from benchmarks.ledger.flops_tables import EXAMPLE, HIGH, sections
from benchmarks.networks import network

pytestmark = pytest.mark.pure

FIELDS = {
    "network",
    "budget",
    "method",
    "batch",
    "mode",
    "params",
    "macs",
    "generation_macs",
    "total_macs",
    "overhead",
}


@cache
def rows() -> list[dict[str, Any]]:
    return flops.rows_of(EXAMPLE)


def chosen(**wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows() if all(row[key] == value for key, value in wanted.items())]


def test_every_method_is_counted_at_every_budget_batch_and_mode() -> None:
    for budget in flops.budgets_of(EXAMPLE):
        for method in flops.METHODS[1:]:
            found = chosen(budget=budget, method=method)
            seen = {(row["batch"], row["mode"]) for row in found}
            expected = {(batch, mode) for batch in (1, 64) for mode in ("train", "eval")}
            assert seen - {(1, "step")} == expected, (budget, method)
    assert {row["mode"] for row in chosen(method="npas")} == {"train", "eval", "step"}


def test_what_is_counted_adds_up() -> None:
    for row in rows():
        if row.get("params") is None:
            assert row["note"]
            continue
        assert set(row) >= FIELDS
        if row["method"] != "lcnn":
            assert row["total_macs"] == pytest.approx(row["macs"] + row["generation_macs"])
        expected = row["total_macs"] / row["macs"] - 1
        assert row["overhead"] == pytest.approx(expected, abs=1e-9), row


def test_the_plan_and_flop_counter_mode_agree() -> None:
    agree = [row["agrees"] for row in rows() if "agrees" in row]
    assert len(agree) >= 20 and all(agree)
    for row in rows():
        # What is compared has an analytic count: npas's always, a peer's where it generates.
        peer = row["method"] in flops.PEER_NAMES and bool(row["generation_macs"])
        ours = row["method"] == "npas" and row["mode"] != "step"
        assert ("agrees" in row) == (peer or ours), row


def test_a_peer_as_published_has_rows_only_where_it_applies() -> None:
    found = flops.rows_of("simnet", methods=["hypernetwork"])
    assert found and all(row["params"] is None for row in found)
    assert not any(row["budget"] == "as published" for row in found)


def test_npas_is_within_the_papers_figures() -> None:
    most = paper.claims()["flops-ssn-total"].value * 1e6
    for method in ("npas", "npas-single"):
        for row in chosen(method=method, batch=1, mode="train"):
            assert row["params"] <= row["asked"]
            assert row["total_macs"] <= most and row["overhead"] <= HIGH
            assert row["overhead"] == pytest.approx(row["formula_overhead"])
        for row in chosen(method=method, batch=64, mode="train"):
            assert row["overhead"] <= 0.0005
        for row in chosen(method=method, mode="eval"):
            assert row["overhead"] == 0 and row["total_macs"] == row["macs"]


def test_the_published_hypernetwork_is_counted() -> None:
    (row,) = chosen(budget="as published", batch=1, mode="train")
    # 74 units of 16 rows: 64 x 64 for a row, and 64 x 144 from it.
    assert row["generation_macs"] == 74 * 16 * (64 * 64 + 64 * 144)


def test_a_budget_that_a_peer_cannot_meet_names_its_minimum() -> None:
    found = chosen(budget="10%", method="soft_sharing", batch=1, mode="train")
    assert len(found) == 1 and found[0]["minimum"] > found[0]["asked"]
    assert f"{found[0]['minimum']:,}" in found[0]["note"]


def test_tables_have_a_line_a_budget() -> None:
    example, ours, hidden, theirs = sections(rows())
    assert not hidden.rows  # it has convolutions
    n = len(flops.budgets_of(EXAMPLE))
    assert len(ours.rows) == n and len(theirs.rows) == 3 * n + 1
    assert {row["what"] for row in example.rows} == {"dense", "npas", "npas-single", "hypernetwork"}
    assert all(column.text(row) for column in ours.columns for row in ours.rows)


def test_networks_whose_layers_look_at_the_batch_are_counted_at_each_size() -> None:
    found = flops.rows_of("efficientnet-nd", methods=["dense"])
    macs = {(row["batch"], row["mode"]): row["macs"] for row in found}
    # Deconvolution whitens once a batch: the more samples, the less of it for each.
    assert macs[1, "train"] > macs[64, "train"] > macs[64, "eval"]
    assert macs[1, "eval"] > macs[64, "eval"]


def test_networks_without_budgets_in_the_paper_have_others() -> None:
    assert flops.budgets_of("wrn-40-4") == flops.OTHER_BUDGETS
    assert "1.4%" in flops.budgets_of("wrn-28-10")


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--network", EXAMPLE, "--method", "npas", "--batch", "2", "--json"]
    assert command.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert {row["method"] for row in found} == {"npas"} and {r["batch"] for r in found} == {2}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--network", "wrn-16"], "nearest: 'wrn-16-"),
        (["--method", "hypernet"], "nearest: 'hypernetwork'"),
        (["--batch", "1,none"], "--batch"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_bad_input(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""


def test_counts_stand_beside_what_is_published() -> None:
    (row,) = counts.rows_of("wrn-28-10")
    assert row["published"] == "36.5M" and row["met"] and row["params"] == 36_479_194
    assert row["macs"] == 5_243_328_768


def test_budgets_of_the_paper_are_planned_without_a_dead_parameter() -> None:
    found = budgets.rows_of("simnet")
    assert {row["budget"] for row in found} >= {"7.8%", "15.6%", "largest (33.1%)"}
    for row in found:
        assert row["got"] <= row["asked"] and row["dead"] == 0
        assert row["used"] >= 0.999 or row["budget"].startswith("largest")


def test_every_network_of_the_papers_budgets_is_a_case() -> None:
    assert {case.name for case in budgets.cases()} == {b.network for b in paper.budgets()}
    assert {case.name for case in budgets.cases()} <= set(flops.names())


def test_a_fused_product_moves_no_weight() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    x = torch.empty(1, 64, device="meta")
    plan = npas.plan(model, "60%", groups="single", example_inputs=(x,))
    n, ks = 64 * 64, [max(1, layer.k) for layer in plan.layers]
    assert flops.weight_bytes(plan, 1) == {
        "dense_bytes": 4 * 2 * n,
        "written_bytes": 4 * sum((k + 2) * n for k in ks),
        "fused_bytes": 4 * sum(k * n for k in ks),
    }
    many = flops.weight_bytes(plan, 100_000)
    assert many["fused_bytes"] == many["written_bytes"]


def test_steps_of_grouped_convolutions_are_left_out() -> None:
    """FlopCounterMode's formula of their gradients would count one group."""
    with torch.device("meta"):
        assert flops.has_grouped(network("efficientnet-b0").make())
        assert not flops.has_grouped(network("densenet-bc-100-12").make())


def test_counted_sees_a_forward_pass() -> None:
    layer = torch.nn.Linear(3, 5, device="meta")
    assert flops.counted(layer, (torch.empty(7, 3, device="meta"),)) == 7 * 15
