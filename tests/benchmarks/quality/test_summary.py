"""Records of finished runs: means, pairs, tunings, and the paper's numbers."""

import json
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
from scipy import stats as scipy_stats

from benchmarks.quality import summary, tables
from benchmarks.quality.spec import (
    Build,
    Case,
    Printed,
    npas_build,
)
from benchmarks.quality.verdicts import verdicts
from tests.benchmarks.quality.made_up import (
    RECIPE,
    SCORES,
    by_arm,
    experiment,
    row,
    rows_of,
    text,
    tuned,
)

pytestmark = pytest.mark.pure


def test_a_record_has_the_means_and_the_interval_of_scipy() -> None:
    made = experiment()
    arms = by_arm(summary.records([made], rows_of(made, SCORES)))
    emb, reduced = arms["Emb"], arms["reduced"]
    assert list(arms) == ["reduced", "Emb", "WAvg"]
    assert emb["mean"] == pytest.approx(fmean(SCORES["Emb"]))
    assert emb["std"] == pytest.approx(stdev(SCORES["Emb"]))
    expected = scipy_stats.ttest_rel(SCORES["Emb"], SCORES["reduced"])
    assert emb["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert emb["p"] == pytest.approx(expected.pvalue)
    own = scipy_stats.ttest_1samp(SCORES["Emb"], 0).confidence_interval(0.95)
    assert emb["mean_interval"] == pytest.approx(list(own))
    assert emb["difference"] == pytest.approx(0.018) and emb["resolved"] is True
    assert arms["WAvg"]["resolved"] is False
    assert emb["baseline"] == reduced["baseline"] == "reduced"
    assert reduced["difference"] is reduced["interval"] is reduced["resolved"] is None
    assert (emb["params"], emb["banks"], emb["seeds"], emb["pairs"]) == (17_500, 2, 5, 5)
    assert emb["minutes"] == pytest.approx(5 * 72 / 60)


def test_five_equal_signs_and_holm() -> None:
    made = experiment()
    arms = by_arm(summary.records([made], rows_of(made, SCORES)))
    assert arms["Emb"]["p_permutation"] == 2 / 32
    p_emb, p_wavg = arms["Emb"]["p"], arms["WAvg"]["p"]
    assert p_emb < p_wavg
    assert arms["Emb"]["p_holm"] == pytest.approx(2 * p_emb)
    assert arms["WAvg"]["p_holm"] == pytest.approx(max(2 * p_emb, p_wavg))


def test_a_second_reference_counts_for_holm_and_no_pair_twice() -> None:
    made = experiment(also="WAvg")
    arms = by_arm(summary.records([made], rows_of(made, SCORES)))
    expected = scipy_stats.ttest_rel(SCORES["Emb"], SCORES["WAvg"])
    assert arms["Emb"]["also"] == "WAvg"
    assert arms["Emb"]["also_interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert arms["reduced"]["also_difference"] is arms["WAvg"]["also_difference"] is None
    p_values = [arms["Emb"]["p"], arms["Emb"]["also_p"], arms["WAvg"]["p"]]
    assert min(p_values) == p_values[0]
    assert arms["Emb"]["p_holm"] == pytest.approx(3 * p_values[0])


def test_an_arm_that_is_another_one_is_compared_with_nothing() -> None:
    made = experiment(also="WAvg")
    arms = by_arm(summary.records([made], rows_of(made, SCORES | {"WAvg": SCORES["Emb"]})))
    assert arms["WAvg"]["same_as"] == "Emb" and arms["Emb"]["same_as"] is None
    assert arms["WAvg"]["difference"] is None and arms["Emb"]["also_difference"] is None
    assert arms["Emb"]["p_holm"] == arms["Emb"]["p"]  # the only comparison that is left
    section = tables.sections([made], rows_of(made, SCORES | {"WAvg": SCORES["Emb"]}))[made.name]
    assert "| WAvg (the same as Emb) |" in text(section)


def test_pairs_are_seeds_that_both_have_and_what_is_missing_is_said() -> None:
    made = experiment()
    rows = rows_of(made, SCORES)
    emb, reduced = made.cases[1], made.cases[0]
    for case, seed in ((emb, 0), (emb, 1), (reduced, 4)):
        run = case.run(seed, rows)
        assert run is not None
        del rows[run.key]
    arms = by_arm(summary.records([made], rows))
    found = arms["Emb"]
    assert found["seeds"] == 3 and found["asked"] == 5 and found["pairs"] == 2
    assert found["difference"] == pytest.approx((0.71 - 0.69 + 0.75 - 0.74) / 2)
    assert list(found["scores"]) == ["2", "3", "4"]
    lines = text(tables.sections([made], rows)[made.name])
    assert "| seeds |" in lines and "| 3 of 5 |" in lines


def test_one_pair_has_no_interval_and_no_baseline_no_difference() -> None:
    made = experiment()
    first = {arm: scores[:1] for arm, scores in SCORES.items()}
    found = by_arm(summary.records([made], rows_of(made, first)))["Emb"]
    assert found["difference"] == pytest.approx(0.01) and found["resolved"] is None
    assert found["interval"] is found["p"] is found["p_holm"] is found["std"] is None
    without = rows_of(made, SCORES | {"reduced": (), "WAvg": ()})
    (record,) = summary.records([made], without)
    assert record["variant"] == "Emb" and record["difference"] is None and record["seeds"] == 5
    assert summary.records([made], {}) == [] and tables.sections([made], {}) == {}


def test_a_diverged_run_is_counted_with_its_0() -> None:
    made = experiment()
    rows = rows_of(made, SCORES)
    run = made.cases[2].run(3, rows)
    assert run is not None
    rows[run.key] = row(run, 0.0, diverged=True)
    found = by_arm(summary.records([made], rows))["WAvg"]
    assert found["diverged"] == 1 and found["seeds"] == 5
    assert found["mean"] == pytest.approx((0.70 + 0.71 + 0.70 + 0.72) / 5)
    section = tables.sections([made], rows)[made.name]
    assert "diverged" in [column.head for column in section.columns]
    clean = tables.sections([made], rows_of(made, SCORES))[made.name]
    assert "diverged" not in [column.head for column in clean.columns]


@pytest.mark.parametrize(("best", "edge"), [(0.1, True), (0.3, False), (1.0, True)])
def test_the_chosen_rate_and_whether_it_is_at_the_edge(best: float, edge: bool) -> None:
    made, rows = tuned(best)
    arms = by_arm(summary.records([made], rows))
    assert (arms["tuned"]["lr"], arms["tuned"]["at_edge"]) == (best, edge)
    assert (arms["fixed"]["lr"], arms["fixed"]["at_edge"]) == (0.1, None)
    (found,) = summary.tunings([made], rows)
    assert (found["chosen"], found["at_edge"]) == (best, edge)
    assert [rate["lr"] for rate in found["rates"]] == [0.1, 0.3, 1.0]
    assert {rate["lr"]: rate["score"] for rate in found["rates"]}[best] == pytest.approx(0.6)
    assert found["experiments"] == ["tuning/10%"] and found["arms"] == ["tuned"]
    lines = text(tables.sections([made], rows)[tables.TUNINGS])
    assert f"| {best:g} | {'yes' if edge else 'no'} |" in lines and "(2 diverged)" in lines
    assert ("(edge)" in text(tables.sections([made], rows)[made.name])) is edge


def test_a_tuning_that_is_not_done_chooses_nothing() -> None:
    made, rows = tuned(0.3)
    last = made.tunings[0].known_runs({})[-1]
    del rows[last.key]
    assert list(by_arm(summary.records([made], rows))) == ["fixed"]
    (found,) = summary.tunings([made], rows)
    assert found["chosen"] is found["at_edge"] is None
    assert [rate["score"] is None for rate in found["rates"]] == [False, False, True]


def test_records_are_json() -> None:
    made, rows = tuned(0.1)
    other = experiment(paper=(Printed("8", "wrn-28-10", "CIFAR-10"),), also="WAvg")
    rows |= rows_of(other, SCORES | {"WAvg": (0.7,)})
    found = [*summary.records([made, other], rows), *summary.tunings([made], rows)]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_papers_number_is_that_of_the_budget_the_groups_or_the_templates() -> None:
    def paper(case: Case, printed: Printed, *others: Case) -> list[float]:
        made = experiment(cases=(case, *others), paper=(printed,), baseline=case.arm)
        rows = rows_of(made, {case.arm: (0.5,), **{other.arm: (0.5,) for other in others}})
        return by_arm(summary.records([made], rows))[case.arm]["paper"]

    curve = Printed("15", "wrn-28-10", "CIFAR-100")
    arms = [Case(b, npas_build(b), RECIPE, paper="ssn") for b in ("5.5%", "20%", "1.4%")]
    assert paper(arms[0], curve, *arms[1:]) == [22.19]
    assert paper(arms[1], curve, arms[0]) == []
    once = Printed("15", "wrn-76-12", "CIFAR-100")
    assert paper(arms[0], once, arms[1]) == paper(arms[1], once) == [19.16]
    assert paper(arms[1], once, arms[0]) == []
    other = Printed("15", "densenet-bc-190-40", "CIFAR-100", "3.8%")
    assert paper(arms[0], other, *arms[1:]) == [21.03]
    groups = Printed("12", "wrn-28-10", "CIFAR-100", "4M")
    emb = {n: Case("a", npas_build("11%", n_banks=n), RECIPE, paper="ssn-emb") for n in (1, 4, 5)}
    assert [paper(case, groups) for case in emb.values()] == [[21.92], [21.31], []]
    single = Case("a", npas_build("11%", groups="single"), RECIPE, paper="ssn-emb")
    assert paper(single, groups) == [21.92]
    templates = Printed("13", "wrn-28-10", "CIFAR-100")
    assert paper(Case("a", npas_build("100%", k=8), RECIPE, paper="ssn"), templates) == [19.24]
    assert paper(replace(single, paper=""), groups) == []


def test_arms_that_differ_in_budget_alone_are_one_method() -> None:
    def case(arm: str, budget: str | None, **how: Any) -> Case:
        return Case(arm, npas_build(budget, **how) if budget else Build(), RECIPE)

    cases = (
        case("dense", None),
        case("Emb, 5%", "5%"),
        case("Emb, 14%", "14%"),
        case("one bank, a tenth", "10%", groups="single"),
        case("one bank, a fifth", "20%", groups="single"),
        case("Emb, orthogonal", "5%", start="orthogonal"),
    )
    made = experiment(cases=cases, baseline="dense")
    arms = by_arm(summary.records([made], rows_of(made, {c.arm: (0.5,) for c in cases})))
    assert [arm["method"] for arm in arms.values()] == [
        "dense", "Emb", "Emb", "one bank, a", "one bank, a", "Emb, orthogonal",
    ]  # fmt: skip


def test_an_arm_may_be_compared_with_another_than_the_baseline() -> None:
    made = experiment(also="reduced")
    cases = tuple(replace(c, against="WAvg" if c.arm == "Emb" else "") for c in made.cases)
    made = replace(made, cases=cases)
    rows = rows_of(made, SCORES)
    found = by_arm(summary.records([made], rows))
    assert (found["Emb"]["baseline"], found["WAvg"]["baseline"]) == ("WAvg", "reduced")
    pairs = [a - b for a, b in zip(SCORES["Emb"], SCORES["WAvg"], strict=True)]
    assert found["Emb"]["difference"] == pytest.approx(fmean(pairs))
    # Emb is compared with the reduced network besides, WAvg only once.
    also = [a - b for a, b in zip(SCORES["Emb"], SCORES["reduced"], strict=True)]
    assert found["Emb"]["also_difference"] == pytest.approx(fmean(also))
    assert found["WAvg"]["also_difference"] is None
    table = text(tables.sections([made], rows)[made.name])
    assert "compared with" in table and "to that (95%)" in table
    said = "\n".join(verdicts(summary.records([made], rows)))
    assert "`WAvg`" in said and "`reduced`" in said
