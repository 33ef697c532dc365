"""The long runs, for a few cases each; and that they find what they look for."""

import os
import random
import signal
from pathlib import Path

import pytest

import npas
from tests.compiling import plan_or_nearest
from tests.soak import run as runs
from tests.soak.__main__ import CASES
from tests.soak.report import PAGE, page, read_summary
from tests.soak.run import run, summary
from tests.soak.targets import TARGETS

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("name", "n"), [("plans", 400), ("tensors", 100), ("commands", 60), ("references", 60)]
)
def test_nothing_is_read_that_is_not_sound(name: str, n: int) -> None:
    found = {TARGETS[name](random.Random(f"{name} {i}"))[0] for i in range(n)}
    assert len(found) > 1  # refused, and not


def test_mappings() -> None:
    for i in range(100):
        TARGETS["mappings"](random.Random(i))


@pytest.mark.parametrize(("name", "n"), [("networks", 10), ("stacks", 4), ("compiles", 6)])
def test_what_is_drawn_is_sound(name: str, n: int) -> None:
    found = [TARGETS[name](random.Random(f"{name} {i}")) for i in range(n)]
    assert {outcome.partition(",")[0] for outcome, _ in found} <= {"sound", "not enough bytes"}
    assert len({data for _, data in found}) == n


def test_a_case_is_decided_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    check = plan_or_nearest
    monkeypatch.setattr("tests.soak.drawn.plan_or_nearest", lambda *a: drawn.append(a) or check(*a))
    for _ in range(2):
        TARGETS["stacks"](random.Random("stacks 1"))
    first, second = (npas.plan(model, 0.5, **options).to_json() for model, _, options in drawn)
    assert first == second


def test_the_page_is_of_the_summary() -> None:
    found = read_summary()
    assert PAGE.read_text(encoding="utf-8") == page(found)
    assert not any(name[0].isupper() for row in found["rows"] for name in row["outcomes"])
    for row in found["rows"]:
        assert row["cases"] >= CASES[row["target"]]
    assert found["kills"]["first"] + found["kills"]["second"] == found["kills"]["kills"]


def test_a_run_is_resumed_and_counts_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.getpid()

    def target(random: random.Random) -> tuple[str, bytes]:
        if os.getpid() != own and random.random() < 0.5:
            raise ValueError("found")
        return "refused", b""

    monkeypatch.setattr(runs, "CHUNK", 8)
    monkeypatch.setattr(runs, "FAILURES", tmp_path / "failures")
    monkeypatch.setattr(runs, "TARGETS", {"plans": target})
    said: list[str] = []
    kept = tmp_path / "rows.jsonl"
    run("plans", 16, 0, kept, said.append)
    run("plans", 24, 0, kept, said.append)
    assert len(said) == 3
    (row,) = summary(kept)
    outcomes: dict[str, int] = row["outcomes"]
    assert sum(outcomes.values()) == row["cases"] == 24
    assert outcomes["WRONG: ValueError"] == len(list((tmp_path / "failures").iterdir())) > 0


def test_what_kills_a_process_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()

    def target(random: random.Random) -> tuple[str, bytes]:
        if os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return "", b""

    monkeypatch.setattr(runs, "TARGETS", {"plans": target})
    run("plans", 3, 0, tmp_path / "rows.jsonl", lambda text: None)
    (row,) = summary(tmp_path / "rows.jsonl")
    assert row["outcomes"] == {"CRASH, status 9": 1}
