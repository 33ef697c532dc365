"""What is made of records: tables, words, the page and its pictures."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks.quality import page, plots, summary, tables
from benchmarks.quality.spec import (
    Case,
    Printed,
    npas_build,
)
from benchmarks.quality.verdicts import MOST_NAMES, verdicts
from benchmarks.tables import table_lines
from tests.benchmarks.quality.made_up import (
    RECIPE,
    SCORES,
    by_arm,
    experiment,
    on_task,
    row,
    rows_of,
    several,
    text,
    tuned,
)

pytestmark = pytest.mark.pure


def test_the_papers_numbers_stand_in_columns_of_their_own() -> None:
    wanted = (Printed("8", "wrn-28-10", "CIFAR-10"), Printed("8", "wrn-28-10", "CIFAR-100"))
    made = experiment(paper=wanted)
    rows = rows_of(made, SCORES)
    arms = by_arm(summary.records([made], rows))
    assert arms["Emb"]["paper"] == [3.84, 21.92] and arms["reduced"]["paper"] == [4.22, 22.34]
    section = tables.sections([made], rows)[made.name]
    heads = [column.head for column in section.columns]
    assert "paper: CIFAR-10 error@1, wrn-28-10 at 11.3%" in heads
    assert "Of the paper: Table 8." in section.note
    assert "| 3.84 | 21.92 |" in text(section)


def test_what_is_the_same_is_said_once_and_what_is_empty_is_left_out() -> None:
    made = experiment()
    section = tables.sections([made], rows_of(made, SCORES))[made.name]
    heads = [column.head for column in section.columns]
    assert heads == [
        "",
        "banks",
        "accuracy, % ± std",
        "to reduced (95%)",
        "resolved",
        "p (exact)",
        "p (Holm)",
        "minutes",
    ]
    assert (
        "Same for all: data data of tiny, network wrn, parameters 17,500, learning rate 0.1, "
        "seeds 5."
    ) in section.note
    lines = table_lines(section)
    assert lines[2].startswith("| reduced | - | 71.20 ± 1.92 | - | - | - | - |")
    assert lines[3].startswith("| Emb | 2 | 73.00 ± 1.87 | +1.80 ± ")


def test_what_pruning_leaves_and_what_a_teacher_knows_have_columns() -> None:
    made = experiment()
    rows = rows_of(made, SCORES)
    for one in rows.values():
        if one["build"]["method"] == "reduced":
            one |= {"params_left": 5_000 + one["seed"], "macs": 2_500_000, "teacher_score": 0.75}
    section = tables.sections([made], rows)[made.name]
    heads = [column.head for column in section.columns]
    assert heads[1:4] == ["parameters tested", "MACs tested, M", "teacher, %"]
    lines = table_lines(section)
    assert lines[2].startswith("| reduced | 5,002 | 2.50 | 75.00 |")
    assert lines[3].startswith("| Emb | - | - | - |")


def test_ranks_over_the_tasks_of_a_family() -> None:
    one, rows = on_task("one", SCORES)
    low = {arm: [1 - score for score in scores] for arm, scores in SCORES.items()}
    two, more = on_task("two", SCORES | {"more": (0.9, 0.9)})
    three, most = on_task("three", low)
    found = tables.sections([one, two, three], rows | more | most)
    assert list(found) == [
        *("family/one", "family/two", "family/three"),
        *("family: ranks", "family: over experiments"),
    ]
    ranked = {r["variant"]: r for r in found["family: ranks"].rows}
    assert ranked["Emb"] == {
        "variant": "Emb",
        "mean": pytest.approx(5 / 3),
        "one": 1,
        "two": 1,
        "three": 3,
    }
    assert "p 0." in found["family: ranks"].note and "more" not in ranked
    assert "family: ranks" not in tables.sections([one], rows)
    assert "family: ranks" not in tables.sections([one, replace(one, name="family/again")], rows)


def test_ranks_are_over_the_seeds_that_all_have() -> None:
    one, rows = on_task("one", {"a": (0.5, 0.5, 0.9), "b": (0.6, 0.6)})
    two, more = on_task("two", {"a": (0.5,), "b": (0.6,)})
    ranked = tables.sections([one, two], rows | more)["family: ranks"].rows
    assert [(r["variant"], r["mean"]) for r in ranked] == [("b", 1), ("a", 2)]


def test_comparisons_over_experiments_are_corrected_for_their_number() -> None:
    one, rows = on_task("one", SCORES)
    two, more = on_task("two", SCORES | {"Emb": (0.70, 0.72, 0.70, 0.74, 0.72)})
    section = tables.sections([one, two], rows | more)["family: over experiments"]
    emb = [r for r in section.rows if r["variant"] == "Emb"]
    assert [r["experiment"] for r in emb] == ["one", "two", "mean of 2"]
    alone = by_arm(summary.records([one], rows))["Emb"]
    assert emb[0]["found"] == pytest.approx((alone["difference"], alone["resolves"]))
    # Four lines are about single experiments, Emb in the first has the smallest p value.
    assert emb[0]["holm"] == pytest.approx(4 * alone["p"])
    assert alone["p"] < 0.05 and emb[0]["resolved"] and not emb[0]["worse"]
    assert emb[2]["pairs"] == 5
    by_seed = [
        ((a - c) + (b - c)) / 2
        for a, b, c in zip(
            SCORES["Emb"], (0.70, 0.72, 0.70, 0.74, 0.72), SCORES["reduced"], strict=True
        )
    ]
    expected: Any = stats.ttest_1samp(by_seed, 0)
    assert emb[2]["p"] == pytest.approx(expected.pvalue)
    assert "family: over experiments" not in tables.sections([one], rows)


def test_the_page_has_every_experiment_and_number() -> None:
    experiments, rows = several()
    text_of = page.page(experiments, rows)
    assert text_of == page.page(experiments, dict(reversed(rows.items())))
    assert text_of.endswith("|\n") and not text_of.endswith("\n\n")
    for section in tables.sections(experiments, rows).values():
        assert f"### {section.title}\n" in text_of and section.note in text_of
        assert "\n".join(table_lines(section)) in text_of
    for made in experiments[:3]:
        assert f"[{made.title}](#{page.anchor(made.name)})" in text_of
        assert f'<a id="{page.anchor(made.name)}"></a>' in text_of
        command = shlex.join(["python", "-m", "benchmarks.quality", "run", made.name])
        assert f"`{command}`" in text_of
        assert f"](quality/{plots.picture(made.name)})" in text_of
    assert (
        "## Not run yet" in text_of and "| `later/10%` |" in text_of and "run later" not in text_of
    )
    assert "(15 of 15 runs, 18 minutes in all; python 3.11.7; torch 2.13.0;" in text_of
    # A family's experiments stand together, whatever is between them.
    places = [text_of.index(f'id="{page.anchor(e.name)}"') for e in experiments[:3]]
    assert places[0] < places[2] < places[1]


def test_a_page_of_nothing_says_so() -> None:
    text_of = page.page([experiment()], {})
    assert "| `generation/10%` |" in text_of and "| reduced |" not in text_of


def test_what_is_said_in_words() -> None:
    made = experiment()
    assert verdicts(summary.records([made], rows_of(made, SCORES))) == [
        "`Emb` is 1.80 ± 1.04 points above `reduced`: resolved.",
        "No difference of `WAvg` to `reduced` is resolved; 5 pairs resolve 1.04 points.",
    ]
    # The same numbers, but one of many comparisons: the interval leaves 0 out, and says less.
    many = [Case(f"a{i}", npas_build("10%", i=i), RECIPE, paper="") for i in range(MOST_NAMES)]
    made = replace(made, cases=(*made.cases, *many))
    shifted = {
        case.arm: [score + 1e-4 * (i + 1) for score in SCORES["WAvg"]]
        for i, case in enumerate(many)
    }
    rows = rows_of(made, SCORES | shifted)
    assert verdicts(summary.records([made], rows)) == [
        "No difference to `reduced` is resolved; 5 pairs resolve 1.04 points.",
    ]


def test_words_for_two_references_and_for_what_went_wrong() -> None:
    made = experiment(also="WAvg", seeds=3)
    scores = {"reduced": (0.7, 0.71, 0.72), "Emb": (0.6, 0.612, 0.62), "WAvg": (0.65, 0.66, 0.672)}
    rows = rows_of(made, scores)
    said = verdicts(summary.records([made], rows))
    assert said[0].startswith("`Emb` is 9.93 ± 0.29 and `WAvg` 4.93 ± 0.29 points below `reduced`")
    assert said[1].startswith("`Emb` is 5.00 ± 0.50 points below `WAvg`: resolved.")
    assert verdicts(summary.records([replace(made, seeds=4)], rows)) == [
        "Not all of the 4 seeds are done, and nothing is said before: `reduced` 3, `Emb` 3, "
        "`WAvg` 3."
    ]
    lost = made.cases[1].run(0, rows)
    assert lost is not None
    rows[lost.key] = row(lost, 0.0, diverged=True)
    said = verdicts(summary.records([made], rows))
    assert "1 of 3 runs of `Emb` diverged: each enters as 0." in said
    made, rows = tuned(1.0)
    assert "At the edge of its grid is the learning rate of `tuned`." in verdicts(
        summary.records([made], rows)
    )


def test_pictures_are_the_same_bytes_and_those_the_page_shows(tmp_path: Path) -> None:
    experiments, rows = several()
    for folder in ("one", "two"):
        plots.draw(experiments, rows, tmp_path / folder)
    found = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(found) == {"family-one.svg", "family-two.svg", "budgets-tiny-50pct.svg"}
    for name, content in found.items():
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"<svg" in content and b"dc:date" not in content
        assert f"(quality/{name})" in page.page(experiments, rows)


def test_what_a_picture_of_arms_shows() -> None:
    experiments, rows = several()
    records = [r for r in summary.records(experiments, rows) if r["experiment"] == "family/one"]
    (axes,) = plots.figure_of(records).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(SCORES)
    drawn = {bars.get_label(): bars for bars in axes.containers}
    assert list(drawn) == ["baseline", "difference resolved", "not resolved"]
    emb = by_arm(records)["Emb"]
    line, _, (interval,) = drawn["difference resolved"].lines
    assert line.get_xydata().tolist() == [[pytest.approx(73), 1]]
    ends = interval.get_segments()[0][:, 0].tolist()
    assert ends == pytest.approx([100 * end for end in emb["mean_interval"]])
    low, high = axes.get_xlim()
    assert all(low < 100 * end < high for r in records for end in r["mean_interval"])


def test_what_a_picture_of_budgets_shows() -> None:
    experiments, rows = several()
    records = [
        r for r in summary.records(experiments, rows) if r["experiment"] == "budgets/tiny 50%"
    ]
    (axes,) = plots.figure_of(records).axes
    assert axes.get_xscale() == "log"
    drawn = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    assert {name: len(places) for name, places in drawn.items()} == {
        "dense": 1, "reduced": 2, "Emb": 2, "WAvg": 2,
    }  # fmt: skip
    arms = by_arm(records)
    assert drawn["Emb"][:, 0] == pytest.approx([8_750, 43_760], rel=0.05)
    assert drawn["Emb"][:, 1] == pytest.approx(
        [100 * arms["Emb, 5%"]["mean"], 100 * arms["Emb, 25%"]["mean"]]
    )
    # A diverged run does not press the others together: its arm is at the edge and says so.
    low, high = axes.get_ylim()
    assert arms["WAvg, 5%"]["mean"] < 0.5 and low > 60
    assert low < drawn["WAvg"][0, 1] < low + 0.1 * (high - low)
    assert [text.get_text() for text in axes.texts] == ["1 of 2 diverged"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["8.75k", "43.8k", "175k"]
