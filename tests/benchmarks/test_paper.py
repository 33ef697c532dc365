"""The paper's numbers are all there, each once, and agree with each other where they must."""

import math
from collections import Counter

import pytest

from benchmarks import paper
from benchmarks.paper import Budget, Row, budgets, claims, n_params, rows

pytestmark = pytest.mark.pure

# Numbers in the cells of each table, counted in the paper's text, and their sum with what stands
# behind a ±. Budgets and numbers of groups and templates are not among them.
COUNTS = {
    **{"1": (36, 2674.1), "2": (18, 1350.0), "3": (14, 381.80), "4": (15, 569.64)},
    **{"5": (9, 102.25), "6": (9, 142.08), "7": (15, 145.64), "8": (55, 2695.63)},
    **{"9": (60, 3048.74), "10": (55, 2722.58), "11": (6, 41.42), "12": (14, 298.93)},
    **{"13": (25, 1546.21), "14": (48, 2803.94), "15": (27, 723.50), "16": (28, 521.32)},
}
NETWORKS = {
    *("wrn-16-2", "wrn-28-10", "wrn-40-1", "wrn-40-2", "wrn-40-4", "wrn-40-10", "wrn-52-10"),
    *("wrn-76-12", "wrn-50-2", "resnet-10", "resnet-34", "resnet-56", "densenet-bc-190-40"),
    *("efficientnet-b0", "efficientnet-nd", "embnet", "adapt-t2i", "simnet"),
    *("albert-base", "albert-large", "albert-base-unshared", "albert-large-unshared"),
}
TASKS = {
    *("CIFAR-10", "CIFAR-100", "ImageNet", "Flickr30K", "COCO", "Flickr30K Entities", "ReferIt"),
    *("SQuAD v1.1", "SQuAD v2.0", ""),
}
METHODS = {
    *("dense", "reduced", "ssn", "ssn-rr", "ssn-avg", "ssn-wavg", "ssn-emb", "ssn-repeat"),
    *("ssn-inter", "ssn-mask", "ssn-single", "ssn-random", "ssn-manual", "ssn-auto", "hb-ssn"),
    *("albert", "swrn", "hypernetwork", "hrank", "ofd", "srr"),
}
# table, network, task, method, budget, measure -> printed
SPOTS = {
    ("1", "embnet", "COCO", "ssn", "13.9%", "recall"): "78.2",
    ("1", "adapt-t2i", "Flickr30K", "reduced", "34.7%", "recall"): "76.6",
    ("1", "simnet", "ReferIt", "dense", "100%", "accuracy"): "61.1",
    ("2", "albert-base", "SQuAD v1.1", "albert", "12M", "em"): "82.1",
    ("2", "albert-large-unshared", "SQuAD v2.0", "ssn", "18M", "f1"): "83.0",
    ("2", "albert-base-unshared", "", "ssn", "12M", "params"): "11",
    ("3", "wrn-40-4", "CIFAR-100", "dense", "100%", "error@1"): "20.50",
    ("3", "wrn-16-2", "CIFAR-100", "hb-ssn+srr", "4x", "error@1"): "23.42",
    ("3", "resnet-10", "CIFAR-100", "ofd", "100%", "error@1"): "31.06",
    ("4", "resnet-56", "CIFAR-10", "hb-ssn", "100.0%", "error@1"): "5.21",
    ("4", "resnet-56", "CIFAR-10", "hrank", "28.4%", "flops"): "20.3",
    ("4", "resnet-56", "CIFAR-10", "ssn", "12.2%", "flops"): "100.6",
    ("5", "wrn-28-10", "CIFAR-100", "ssn-wavg", "11.3%", "error@1"): "21.78",
    ("5", "wrn-50-2", "ImageNet", "reduced", "27.5%", "error@5"): "10.08",
    ("6", "wrn-28-10", "CIFAR-10", "ssn-mask", "1.4%", "error@1"): "5.07",
    ("6", "wrn-50-2", "ImageNet", "ssn-inter", "2.2%", "error@5"): "14.83",
    ("7", "wrn-28-10", "CIFAR-100", "ssn-auto", "100%", "error@1"): "19.24",
    ("7", "wrn-50-2", "ImageNet", "ssn-single", "100%", "error@5"): "6.18",
    ("8", "embnet", "", "dense", "100%", "original-params"): "7",
    ("8", "simnet", "ReferIt", "ssn-avg", "33.1%", "accuracy"): "60.2",
    ("8", "wrn-28-10", "CIFAR-10", "ssn-wavg", "11.3%", "error@1"): "4.00",
    ("9", "adapt-t2i", "COCO", "ssn-emb", "100%", "recall"): "87.0",
    ("9", "wrn-50-2", "ImageNet", "ssn-manual", "100%", "error@1"): "21.43",
    ("10", "embnet", "", "dense", "100%", "original-params"): "6",
    ("10", "embnet", "Flickr30K", "ssn-repeat", "6.9%", "recall"): "64.8",
    ("10", "wrn-50-2", "ImageNet", "ssn-inter", "2.2%", "error@1"): "36.60",
    ("11", "wrn-40-1", "CIFAR-10", "hypernetwork", "0.097M", "error@1"): "8.02",
    ("11", "wrn-40-2", "CIFAR-10", "dense", "2.236M", "error@1"): "5.66",
    ("14(a)", "wrn-76-12", "CIFAR-100", "dense", "164M", "params-of-wrn-28-10"): "449.6",
    ("14(b)", "wrn-76-12", "CIFAR-100", "ssn", "5M", "params"): "3.3",
    ("14(c)", "wrn-52-10", "CIFAR-100", "ssn", "15M", "error@1"): "19.50 ± 0.21",
    ("14(c)", "wrn-40-10", "CIFAR-100", "ssn", "7M", "original-params"): "56",
    ("15", "wrn-28-10", "CIFAR-100", "swrn", "32.8%", "error@1"): "20.48",
    ("15", "wrn-76-12", "CIFAR-100", "ssn", "5.5%", "error@1"): "19.16",
    ("15", "efficientnet-nd", "CIFAR-100", "reduced", "75.1%", "error@1"): "35.88",
    ("16", "wrn-50-2", "ImageNet", "ssn", "15.2%", "error@1"): "25.64",
    ("16", "efficientnet-b0", "ImageNet", "reduced", "4.2%", "error@5"): "10.84",
}


def number(row: Row) -> str:
    return row.table.partition("(")[0]


def best(of: list[Row]) -> float:
    choose = {"lower": min, "higher": max}[of[0].better]
    return choose(row.value for row in of)


def ssns(table: str, like: Row) -> list[Row]:
    """The SSNs of a table that do what a row does, at its budget."""
    found = rows(table, network=like.network, task=like.task, measure=like.measure)
    return [r for r in found if r.method.startswith("ssn") and r.budget == like.budget]


@pytest.mark.parametrize("table", COUNTS)
def test_no_number_is_missing(table: str):
    n, total = COUNTS[table]
    found = rows(table)
    assert len(found) == n
    assert sum(row.value + (row.std or 0) for row in found) == pytest.approx(total, abs=1e-6)


def test_every_table_is_counted():
    assert {number(row) for row in rows()} == set(COUNTS)
    assert len(rows()) == sum(n for n, _ in COUNTS.values()) == 434


@pytest.mark.parametrize("key", SPOTS, ids=" ".join)
def test_spot(key: tuple[str, str, str, str, str, str]):
    table, network, task, method, budget, measure = key
    (found,) = rows(
        table, network=network, task=task, method=method, budget=budget, measure=measure
    )
    assert found.printed == SPOTS[key]


def test_groups_and_templates():
    errors = {(r.budget, r.groups): r.printed for r in rows("12")}
    assert errors["4M", 1] == "21.92 ± 0.30" and errors["36M", 14] == "19.24 ± 0.29"
    (found,) = [r for r in rows("13", task="COCO") if r.templates == 4]
    assert (found.value, found.std) == (81.9, 0.30)
    assert [r.groups for r in rows("9", task="ReferIt")] == [0, 1, 3, 3, 3, 3]
    masks = rows("10", task="CIFAR-10", method="ssn-mask")
    assert [(r.groups, r.printed) for r in masks] == [(0, "5.18"), (2, "5.07")]


def test_words_are_known():
    found = rows()
    assert {row.network for row in found} == NETWORKS
    assert {row.task for row in found} == TASKS
    assert {word for row in found for word in row.method.split("+")} == METHODS
    assert {row.better for row in found} == {"lower", "higher", ""}
    assert all(row.label and row.column and row.unit for row in found)


def test_nothing_occurs_twice():
    keys = Counter(
        (r.table, r.network, r.task, r.method, r.budget, r.groups, r.templates, r.measure)
        for r in rows()
    )
    assert [key for key, n in keys.items() if n > 1] == []


def test_values_are_what_is_printed():
    for row in rows():
        assert math.isfinite(row.value) and row.value > 0
        places = row.printed.partition(" ")[0].partition(".")[2]
        std = "" if row.std is None else f" ± {row.std:.2f}"
        assert f"{row.value:.{len(places)}f}{std}" == row.printed
        spread = row.table in ("12", "13") or (number(row) == "14" and row.measure == "error@1")
        assert (row.std is not None) == spread


def test_errors_are_printed_with_two_decimals_and_scores_with_one():
    for row in rows():
        places = len(row.printed.partition(" ")[0].partition(".")[2])
        if row.measure.startswith("error"):
            assert places == 2
        elif row.measure in ("recall", "accuracy", "f1", "em", "flops"):
            assert places == 1


@pytest.mark.parametrize("table", ["1", "5", "6", "8", "10", "11", "15", "16"])
def test_an_ssn_stands_beside_its_rival(table: str):
    # The same task, measure and budget, on the same network. At 100% the rival is the network.
    rivals = {
        (r.network, r.task, r.measure, r.budget)
        for method in ("reduced", "hypernetwork", "dense")
        for r in rows(table, method=method)
    }
    ours = [r for r in rows(table) if r.method.startswith("ssn")]
    lone = {r.label for r in ours if (r.network, r.task, r.measure, r.budget) not in rivals}
    assert ours and lone == ({"SSN-WRN-76-12-9M"} if table == "15" else set())


def test_labels_name_their_network():
    named = {(row.label.lower().removeprefix("ssn-"), row.network) for row in rows()}
    named = {(label, network) for label, network in named if label in NETWORKS}
    assert len(named) == 15
    assert all(label == network for label, network in named)


@pytest.mark.parametrize(("part", "whole"), [("5", "8"), ("7", "9")])
def test_a_shorter_table_repeats_the_longer(part: str, whole: str):
    for row in rows(part):
        if row.method == "ssn-auto":
            assert row.value in [r.value for r in ssns(whole, row)]
            continue
        (same,) = rows(
            whole, network=row.network, task=row.task, method=row.method, measure=row.measure
        )
        assert (same.printed, same.budget) == (row.printed, row.budget)


def test_table_6_has_the_better_mask_of_table_10():
    for row in rows("6"):
        same = rows(
            "10", network=row.network, task=row.task, method=row.method, measure=row.measure
        )
        assert row.value == best(same)


def test_table_1_has_the_best_ssn_of_tables_8_to_10():
    repeated = [(row, found) for row in rows("1", method="ssn") for found in ["8", "9", "10"]]
    repeated = [(row, same) for row, found in repeated if (same := ssns(found, row))]
    assert len(repeated) == 6 + 6 + 2
    for row, same in repeated:
        assert row.value == best(same)


def test_tables_12_and_13_repeat_table_9():
    (at_14,) = [r for r in rows("12", budget="36M") if r.groups == 14]
    assert [at_14.printed] == [
        r.printed for r in rows("13", network="wrn-28-10") if r.templates == 8
    ]
    assert [at_14.value] == [r.value for r in rows("9", task="CIFAR-100", method="ssn-emb")]


def test_shares_of_table_14_fit_its_parameters():
    # A budget printed as 4M is between 3.5M and 4.5M, and so on; a percentage has one decimal.
    original = {r.network: r.value for r in rows("14(a)", measure="original-params")}
    for row in rows("14", measure="params"):
        used = float(row.budget.removesuffix("M"))
        (of_wrn,) = rows(
            row.table, network=row.network, budget=row.budget, measure="params-of-wrn-28-10"
        )
        for share, n in ((row.value, original[row.network]), (of_wrn.value, original["wrn-28-10"])):
            low, high = (used - 0.5) / (n + 0.5), (used + 0.5) / (n - 0.5)
            assert low - 0.0005 <= share / 100 <= high + 0.0005, row


def test_budgets():
    found = {(b.network, b.budget): b for b in budgets()}
    assert len(found) == len(budgets()) == 47
    assert found["wrn-28-10", "1.4%"] == Budget("wrn-28-10", "1.4%", ("6", "10", "15"))
    assert found["wrn-28-10", "4M"].tables == ("14(b)", "14(c)")
    summed = [b.budget for b in budgets() if "14(c)" in b.tables]
    assert summed == ["4M", "7M", "15M", "21M"]
    # Not an SSN's, or of a table that is not listed.
    missing = [("wrn-28-10", "32.8%"), ("wrn-40-1", "0.563M"), ("wrn-28-10", "36M")]
    assert not found.keys() & set(missing)
    assert {b.network for b in budgets()} < NETWORKS
    for budget in budgets():
        assert n_params(budget.budget, 10**8) > 0


def test_n_params():
    assert n_params("11.3%", 36_479_194) == 4_122_149
    assert n_params("0.097M", 1) == 97_000
    assert n_params("4x", 25) == 100
    for wrong in ("largest", ""):
        with pytest.raises(ValueError, match="is no budget"):
            n_params(wrong, 1)


def test_claims():
    found = claims()
    assert len(found) == 39
    assert all(claim.unit and claim.section for claim in found.values())
    value = {key: claim.value for key, claim in found.items()}
    for method in ("hypernetwork", "ssn"):
        whole = value["flops-dense"] + value[f"flops-{method}-generation"]
        assert whole == pytest.approx(value[f"flops-{method}-total"])
    one, many = found["overhead-batch-1"], found["overhead-batch-64"]
    assert (one.value, one.high, many.value, many.high) == (0.5, 2, 0.008, 0.03)
    # Weights are generated once for a batch.
    assert one.value / 64 == pytest.approx(many.value, abs=5e-4)
    assert (value["memory-saved"], value["speedup-wrn-50-2"]) == (5, 1.04)
    step = found["mapping-step"]
    assert (step.value, step.high, step.section) == (10, 15, "3.2, 4.2")
    share = 100 * value["speedup-wrn-50-2-params"] / value["wrn-50-2-original"]
    assert round(share) == value["speedup-wrn-50-2-share"]


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        paper._cells({"value": ["1", "2"], "budget": ["1%", "2%", "3%"]})
