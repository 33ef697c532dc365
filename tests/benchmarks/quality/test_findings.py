"""Means of docs/findings.md are those that their command prints."""

from pathlib import Path

import pytest

from benchmarks.quality.leave_out import main

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
