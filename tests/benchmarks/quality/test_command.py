"""The command: ``python -m benchmarks.quality list | run | report``."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality import __main__ as command, page, summary
from benchmarks.quality.experiments import EXPERIMENTS
from benchmarks.store import read_rows

pytestmark = pytest.mark.pure
NAME = "hypernetworks/wrn-40-1"


@pytest.fixture(scope="module", autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the rows of a quick experiment, done in two processes."""
    rows = tmp_path_factory.mktemp("quality") / "rows.jsonl"
    assert command.main(["run", NAME, "--quick", "--jobs", "2", "--rows", str(rows)]) == 0
    return rows


def test_run_does_all_runs_and_no_run_twice(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_rows(kept)
    assert len(rows) == 10 and {row["part"] for row in rows.values()} == {"test", "validation"}
    before = kept.read_bytes()
    assert command.main(["run", NAME, "--quick", "--rows", str(kept)]) == 0
    assert "about 0 runs to do" in capsys.readouterr().out
    assert kept.read_bytes() == before


def test_fresh_runs_are_the_same(kept: Path, tmp_path: Path) -> None:
    again = tmp_path / "rows.jsonl"
    again.write_bytes(kept.read_bytes())
    assert command.main(["run", NAME, "--quick", "--fresh", "--rows", str(again)]) == 0
    first, second = read_rows(kept), read_rows(again)
    assert {k: (r["score"], r["losses"]) for k, r in first.items()} == {
        k: (r["score"], r["losses"]) for k, r in second.items()
    }


def test_report_prints_tables_and_json(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["report", NAME, "--quick", "--rows", str(kept)]) == 0
    printed = capsys.readouterr().out
    assert "HyperNetworks and npas at equal parameters" in printed
    assert command.main(["report", NAME, "--quick", "--json", "--rows", str(kept)]) == 0
    found = json.loads(capsys.readouterr().out)["experiments"]
    assert [record["variant"] for record in found] == [
        "HyperNetworks",
        "npas",
        "reduced width",
        "dense",
    ]
    named = ("experiment", "task", "variant", "budget", "params", "seeds", "mean", "std")
    for record in found:
        assert set(named) <= set(record) and {"baseline", "difference", "interval"} <= set(record)
        assert record["seeds"] == 2 and 0 <= record["mean"] <= 1


def test_list_says_what_is_done(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list", NAME, "--quick", "--rows", str(kept)]) == 0
    assert "10 of 10 runs done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "curves"], "no experiment 'curves' (nearest: 'curve')"),
        (["run", NAME, "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["run", NAME, "--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["report", NAME, "--write"], "--write is of all experiments"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    assert command.main([*arguments, "--rows", str(rows)]) == 2
    assert message in capsys.readouterr().err
    assert not rows.exists()


def test_data_that_are_missing_are_named_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.Sources, "of", lambda paths: command.Sources((tmp_path,)))
    monkeypatch.setattr(command, "COMMITTED", tmp_path / "none.jsonl")  # as if nothing were run
    rows = tmp_path / "rows.jsonl"
    assert command.main(["run", NAME, "--rows", str(rows)]) == 2
    assert "CIFAR-10 is not at" in capsys.readouterr().err
    assert not rows.exists()


def test_the_page_is_made_of_the_committed_rows() -> None:
    rows = read_rows(summary.COMMITTED)
    assert rows, "no results are committed"
    asked = {run.key for e in EXPERIMENTS for run in e.known_runs(rows)}
    assert rows.keys() <= asked, "rows that no experiment asks for"
    assert page.PAGE.read_text(encoding="utf-8") == page.page(EXPERIMENTS, rows)
