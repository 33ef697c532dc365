"""Numbers of docs/findings.md are those of the committed runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.leave_out import main
from benchmarks.quality.summary import COMMITTED
from benchmarks.store import read_rows

pytestmark = pytest.mark.pure


def test_means_with_and_without_some_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("docs/findings.md").read_text(encoding="utf-8")
    for left_out in (
        (),
        ("recipe/cifar10 50%",),
        ("recipe/cifar10 50%", "recipe/efficientnet 50%"),
    ):
        main(left_out)
        *_, mean = capsys.readouterr().out.splitlines()
        assert mean.partition(": ")[2].partition(",")[0] in text, mean


def test_an_experiment_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="recipe/no such: is no whole experiment"):
        main(["recipe/no such"])


def test_runs_of_encoders_by_their_banks() -> None:
    text = " ".join(Path("docs/findings.md").read_text(encoding="utf-8").split())
    rows = [row for row in read_rows(COMMITTED).values() if row["part"] == "test"]

    def scores(task: str, seeds: range, how: dict[str, Any] | None) -> list[tuple[int, float]]:
        return [
            (row["n_banks"], 100 * row["score"])
            for row in rows
            if row["recipe"]["task"] == task
            and row["seed"] in seeds
            and row["build"]["method"] == "npas"
            and row["build"].get("how") == how
        ]

    by_banks = {1: "62.4", 2: "66.6"}
    found = scores("gloss", range(100, 108), None)
    assert [sum(n == banks for n, _ in found) for banks in by_banks] == [3, 5]
    for banks, said in by_banks.items():
        mean = np.mean([score for n, score in found if n == banks])
        assert f"{mean:.1f}" == said and said in text
    assert "on tweets four of eight runs stay at the share of the larger class, one of" in text
    share = min(score for _, score in scores("vader-tweets", range(100, 108), None))
    for seeds, how, stay in (
        (range(100, 108), None, 4),
        (range(100, 108), {"room": 1}, 1),
        (range(6), None, 3),
        (range(6), {"groups": "tables"}, 0),
    ):
        found = scores("vader-tweets", seeds, how)
        assert len(found) == len(seeds) and sum(score == share for _, score in found) == stay
