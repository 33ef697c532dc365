"""The ledger's runner: what is kept, what goes on, what is told."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.ledger import registry, runs
from benchmarks.ledger.page import PAGE, page
from benchmarks.ledger.registry import SUITES
from benchmarks.ledger.suite import Case, Suite
from benchmarks.ledger.summary import MADE_WITH, read, summarise, write
from benchmarks.store import append_row, read_rows
from benchmarks.tables import Column, Row, Section

pytestmark = pytest.mark.pure


def sections(rows: Sequence[Row]) -> list[Section]:
    return [Section("Made up", "", [Column("n", "n")], rows)]


def suite(**cases: Any) -> Suite:
    made = [Case(name, call) for name, call in cases.items()]
    return Suite("made_up", "Made up", lambda: made, sections)


def hungry() -> list[dict[str, Any]]:
    return [{"n": torch.ones(1 << 45).numel()}]


def broken() -> list[dict[str, Any]]:
    raise RuntimeError("the sizes do not match")


def test_rows_say_what_they_were_made_with() -> None:
    found = runs.run_here(Case("a", lambda: [{"n": 1}]), memory=None, threads=1)
    assert found["rows"] == [{"n": 1}] and found["threads"] == 1
    assert set(MADE_WITH) <= set(found)


def test_a_case_that_runs_out_of_memory_is_recorded_as_such() -> None:
    found = runs.run_here(Case("a", hungry), memory=None, threads=1)
    assert found["error"] == runs.OUT_OF_MEMORY and found["rows"] == []


def test_another_error_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="sizes"):
        runs.run_here(Case("a", broken), memory=None, threads=1)


def test_the_rest_goes_on_after_a_case_without_memory_and_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own, as the command runs them."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import benchmarks.ledger.registry as r\n"
        "from tests.benchmarks.ledger.test_runs import suite, hungry, broken\n"
        "def good(): return [{'n': 7}]\n"
        "def killed():\n"
        "    import os, signal\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "made = suite(hungry=hungry, killed=killed, broken=broken, good=good)\n"
        "r.SUITES = {'made_up': made}\n"
    )
    root = Path(__file__).resolve().parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root)]))
    kept, said = tmp_path / "rows.jsonl", []
    made = suite(hungry=hungry, killed=hungry, broken=broken, good=hungry)
    failed = runs.run_missing([made], kept, memory=None, threads=1, say=said.append)
    assert failed == 1
    found = read_rows(kept)
    assert {key: row.get("error") for key, row in found.items()} == {
        "made_up/hungry": runs.OUT_OF_MEMORY,
        "made_up/killed": runs.OUT_OF_MEMORY,
        "made_up/good": None,
    }
    assert found["made_up/good"]["rows"] == [{"n": 7}]
    assert any("broken" in line and "the sizes do not match" in line for line in said)
    # What failed is run again, what is kept is not.
    assert runs.missing([made], kept) == ["made_up/broken"]


def test_memory_can_be_limited() -> None:
    program = (
        "from benchmarks.ledger import runs\n"
        "from benchmarks.ledger.suite import Case\n"
        "import torch, json\n"
        "case = Case('a', lambda: [{'n': torch.ones(1 << 28).numel()}])\n"
        "print(json.dumps(runs.run_here(case, memory=1 << 29, threads=1)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["error"] == runs.OUT_OF_MEMORY


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "rows.jsonl"
    arguments = [sys.executable, "-m", "benchmarks", "run", "networks", "--rows", str(kept)]
    # A shell lets what it starts in the background ignore the signal, and all that starts in turn.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, preexec_fn=listen
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "done" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130 and "goes on from here" in err
    done = len(read_rows(kept))
    assert 1 <= done < len(SUITES["networks"].cases())
    left = runs.missing([SUITES["networks"]], kept)
    assert len(left) == len(SUITES["networks"].cases()) - done


def test_what_a_killed_run_left_of_a_row_is_no_row(tmp_path: Path) -> None:
    kept = tmp_path / "rows.jsonl"
    append_row(kept, {"key": "made_up/a", "rows": []})
    with kept.open("a") as file:
        file.write('{"key": "made_up/b", "ro')
    assert runs.missing([suite(a=hungry, b=hungry)], kept) == ["made_up/b"]


def test_summaries_keep_rows_errors_and_what_made_them(tmp_path: Path) -> None:
    made = suite(a=hungry, b=hungry, c=hungry)
    kept = {
        "made_up/a": {"rows": [{"n": 1}, {"n": 2}], "torch": "2", "threads": 2},
        "made_up/b": {"rows": [], "error": runs.OUT_OF_MEMORY, "torch": "3", "threads": 2},
    }
    summary = summarise(made, kept, "a command")
    assert summary["rows"] == [{"n": 1}, {"n": 2}]
    assert summary["errors"] == {"b": runs.OUT_OF_MEMORY}
    assert summary["made with"]["torch"] == ["2", "3"]
    path = tmp_path / "results" / "made_up.json"
    write(path, summary)
    assert read(path) == summary
    assert sum(line.lstrip().startswith('{"n"') for line in path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "flop"], "nearest: 'flops'"),
        (["run", "memroy"], "nearest: 'memory'"),
        (["case", "networks/wrn-16"], "nearest: 'wrn-16-"),
        (["case", "nothing/wrn-16-1"], "no suite 'nothing'"),
    ],
)
def test_unknown_names(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.out == ""


def test_list_names_every_case_and_the_other_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["list", "--rows", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    for one in SUITES.values():
        for case in one.cases():
            assert f"{one.name}/{case.name}  (to run)" in out
    assert all(text in out for text in registry.OTHERS)


def test_other_benchmarks_can_be_run_and_have_their_pages() -> None:
    for text, what in registry.OTHERS.items():
        module = text.split()[-1]
        path = Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
        assert Path(what.rpartition("(")[2].rstrip(")")).exists(), what


def test_fresh_forgets_the_rows_of_its_suites_alone(tmp_path: Path) -> None:
    kept = tmp_path / "rows.jsonl"
    for key in ("flops/a", "memory/a"):
        append_row(kept, {"key": key, "rows": []})
    command._forget([SUITES["flops"]], kept)
    assert list(read_rows(kept)) == ["memory/a"]


def test_report_prints_json_of_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "rows.jsonl"
    append_row(kept, {"key": "networks/wrn-16-1", "rows": [{"network": "wrn-16-1", "n": 3}]})
    assert command.main(["report", "networks", "--json", "--rows", str(kept)]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": [{"network": "wrn-16-1", "n": 3}]}


def test_the_page_is_what_the_committed_summaries_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(list(SUITES.values()))


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_a_summary_of_all_its_cases(name: str) -> None:
    one = SUITES[name]
    summary = read(one.committed)
    assert summary is not None and summary["rows"]
    assert summary["command"] == f"python -m benchmarks run {name}"
    assert one.sections(summary["rows"])
    for plot in one.plots:
        assert plot.draw(summary["rows"]).axes
