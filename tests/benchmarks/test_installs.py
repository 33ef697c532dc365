"""Clean installs: the committed rows, the page that is made of them, and what counts as failed."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.installs import check
from benchmarks.installs.__main__ import RESULTS, interpreter, main, merged
from benchmarks.installs.environment import Built, measure
from benchmarks.installs.page import BEGIN, END, PAGE, table, write
from benchmarks.installs.rows import ROOT, ROWS, Row, lower_bounds

pytestmark = pytest.mark.pure

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_row_was_made_and_works() -> None:
    rows = merged([])
    assert [row["name"] for row in rows] == [row.name for row in ROWS]
    for row, asked in zip(rows, ROWS, strict=True):
        failed = {name: text for name, text in row["checks"].items() if text.startswith("failed")}
        assert row["works"] and not failed and row["note"] == asked.note, row["name"]
        assert row["python"].startswith(f"{asked.python}."), row["name"]
        assert list(asked.pins) == row["asked"][1:], row["name"]
        assert not set(asked.removed) & set(row["versions"]), row["name"]
        assert len(row["checks"]) == len(check.CHECKS) + len(asked.commands), row["name"]


def test_every_extra_and_every_python_has_a_row() -> None:
    tried = {extra for row in ROWS if row.name != "oldest" for extra in row.extras}
    assert tried == set(PROJECT["optional-dependencies"])
    label = "Programming Language :: Python :: 3."
    named = {text.removeprefix(label) for text in PROJECT["classifiers"] if text.startswith(label)}
    assert {f"3.{minor}" for minor in named} == {row.python for row in ROWS}


def test_an_extra_is_asked_for_where_it_is_missing() -> None:
    rows = {row["name"]: row["checks"] for row in merged([])}
    for row in ROWS:
        for extra in ("plot", "completion", "hf", "timm", "torchvision"):
            if extra in row.extras:
                assert rows[row.name][extra] == "ok", (row.name, extra)
            if not row.extras:
                assert rows[row.name][extra] == "asks for it", (row.name, extra)
        there = "triton" not in row.removed
        assert rows[row.name]["triton"] == ("ok" if there else "asks for it"), row.name
    assert rows["minimal"]["interop"] == "-" and rows["interop"]["interop"] == "ok"


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    assert {"numpy==1.26", "torch==2.13.0"} < set(lower_bounds())
    assert set(lower_bounds(("plot",))) - set(lower_bounds()) == {"matplotlib==3.8"}
    (versions,) = (row["versions"] for row in merged([]) if row["name"] == "oldest")
    (pins,) = (row.pins for row in ROWS if row.name == "oldest")
    for package, _, version in (pin.partition("==") for pin in pins):
        found = versions[package].partition("+")[0]
        assert found == version or found.startswith(f"{version}."), package


def test_the_page_has_the_rows() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(merged([])).strip()
    assert shown.count("\n") == len(ROWS) + 1


def test_a_page_is_changed_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}\nafter\n", encoding="utf-8")
    rows = [{"name": "one", "note": r"a \1 group", "works": False}]
    write(rows, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert r"**one**: a \1 group | - | - |" in text and "| no |" in text
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(AssertionError, match="marks"):
        write(rows, page)


def test_an_environment_that_cannot_be_made_is_a_row_that_does_not_work(tmp_path: Path) -> None:
    built = Built(tmp_path / "a.whl", tmp_path / "a.tar.gz", tmp_path)
    row = measure(Row("none", "no interpreter"), built, str(tmp_path / "python"))
    assert not row["works"] and "FileNotFoundError" in row["error"]


def test_checks_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def says(code: int, text: str) -> None:
        done = subprocess.CompletedProcess([], code, "", text)
        monkeypatch.setattr(check, "npas_command", lambda *_, **__: done)

    says(2, "npas plan: no_such needs an extra: pip install 'npas[plot]'")
    assert check.with_extra("no_such_module", "plot", "plan") == "asks for it"
    for code, text in ((2, "no_such_module is missing"), (1, "pip install 'npas[plot]'")):
        says(code, text)
        with pytest.raises(AssertionError):
            check.with_extra("no_such_module", "plot", "plan")
        with pytest.raises(AssertionError, match=f"exit code {code}"):
            check.with_extra("json", "plot", "plan")
    # Here npas is imported from the checkout, which no environment of a row may do.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(AssertionError, match="npas"):
        check.imported()


def test_training_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import npas

    monkeypatch.chdir(tmp_path)
    check.trained()
    monkeypatch.setattr(npas, "load", lambda _, make: make())
    with pytest.raises(AssertionError, match="another network"):
        check.trained()


def test_the_command_names_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [row.name for row in ROWS]
    with pytest.raises(SystemExit):
        main(["minimum"])
    assert "no row is named minimum" in capsys.readouterr().err
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert Path(interpreter(here)).is_file()


def test_rows_replace_those_of_their_name() -> None:
    before: list[dict[str, Any]] = merged([])
    after = merged([{"name": before[0]["name"], "works": False}, {"name": "unknown"}])
    assert not after[0]["works"] and after[1:] == before[1:]
    assert RESULTS.is_file()
