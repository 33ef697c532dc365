"""The mutants: what is changed, what is noticed, and that all that survive are explained."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.store import read_rows
from tests.mutants.__main__ import FILES
from tests.mutants.changes import mutants
from tests.mutants.run import keyed
from tests.mutants.summary import EXPLAINED, SUMMARY, summary

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("x = a < b", ["a < b -> a <= b", "a < b -> a >= b"]),
        ("x = a == b", ["a == b -> a != b"]),
        ("x = a < b == c", ["a < b == c -> a <= b == c", "a < b == c -> a >= b == c"]),
        ("x = a - b * c", ["a - b * c -> a + b * c", "b * c -> b // c"]),
        ("x = 5", ["5 -> 6", "5 -> 4"]),
        ("x = 0.5", ["0.5 -> 0.75"]),
        ("x = True", ["True -> False"]),
        ("x = -a", ["-a -> a"]),
        ("x = a and b", ["a and b -> a or b", "a and b -> b", "a and b -> a"]),
        ("x = min(a)", ["min(a) -> max(a)"]),
        ("x = np.maximum(a)", ["np.maximum(a) -> np.minimum(a)"]),
        ("x = f(a, b=c)", ["f(a, b=c) -> f(a)"]),
        ("x = a[b:]", ["b: -> :"]),
        ("x += y", ["x += y -> x -= y", "x += y -> pass"]),
        ("f(x)", ["f(x) -> pass"]),
        ("x[i] = y", ["x[i] = y -> pass"]),
        ("x = 'mask'", ["'mask' -> 'mask?'"]),
        ("if a:\n  f = b", ["a -> True", "a -> False"]),
        ("x = [a for a in b if c]", ["c -> True"]),
        ("for a in b:\n  continue", ["continue -> break"]),
        (
            "raise E(f'{a + b} said', n=c)",
            ["raise", "a + b -> a - b", "E(f'{a + b} said', n=c) -> "],
        ),
        ("'a docstring'", []),
        ("assert a < b", []),
        ("def f(a: 'x' = 1) -> 'y': ...", ["1 -> 2", "1 -> 0"]),
    ],
)
def test_what_is_changed(source: str, changes: list[str]) -> None:
    found = sorted(mutant.change for mutant in mutants(ast.parse(source)))
    assert len(found) == len(set(found)) >= len(changes)
    assert all(any(change.startswith(start) for change in found) for start in changes), found
    if not source.startswith(("x = a < b ==", "raise")):
        assert found == sorted(changes)


def test_a_change_is_made_and_undone() -> None:
    source = Path(ROOT, FILES[0]).read_text(encoding="utf-8")
    tree = ast.parse(source)
    before = ast.unparse(tree)
    texts: set[str] = set()
    found = keyed(FILES[0], source, tree).values()
    for mutant in found:
        with mutant.applied():
            changed = ast.unparse(ast.fix_missing_locations(tree))
        compile(changed, "", "exec")
        texts.add(changed)
    assert ast.unparse(tree) == before not in texts
    assert len(texts) == len(found) > 100


PLANNER = """
LIMIT = 3


class Box:
    def __init__(self, n, most=2):
        self.n, self.most = n, most

    @property
    def half(self):
        return self.n // 2


def climb(n):
    i = 0
    while i < n:
        i += 2
    return i


def unseen(a):
    return a > 7
"""
TESTS = """
from planner import LIMIT, Box, climb


def test_limit():
    assert Box(LIMIT).n == 3


def test_box():
    assert (Box(7).half, Box(7).most) == (3, 2)


def test_climb():
    assert (climb(LIMIT), climb(4)) == (4, 4)
"""
MORE = """

def test_unseen():
    from planner import unseen
    assert unseen(8)
"""


def test_a_run(tmp_path: Path) -> None:
    (tmp_path / "planner.py").write_text(PLANNER)
    (tmp_path / "test_planner.py").write_text(TESTS)
    kept = tmp_path / "rows.jsonl"

    def run(*options: str) -> dict[str, dict[str, Any]]:
        command = [
            sys.executable,
            "-m",
            "tests.mutants",
            "planner.py",
            "--tests",
            "test_planner.py",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, "--kept", str(kept), "--grace", "0.5", *options],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr  # some survive, and are not explained
        prefix = "planner.py | "
        return {key.removeprefix(prefix): row for key, row in read_rows(kept).items()}

    rows = run()
    outcomes = {key: row["outcome"] for key, row in rows.items()}
    assert len(rows) == 20
    assert rows[" | LIMIT = 3 | 3 -> 4"]["by"].startswith("test_planner.py::test_")
    assert outcomes["Box.__init__ | def __init__(self, n, most=2): | 2 -> 3"] == "killed"
    assert outcomes["Box.half | return self.n // 2 | self.n // 2 -> self.n * 2"] == "killed"
    assert outcomes["climb | i += 2 | i += 2 -> pass"] == "timed out"
    assert outcomes["climb | while i < n: | i < n -> i <= n"] == "killed"
    survived = {key for key, outcome in outcomes.items() if outcome == "survived"}
    assert survived == {key for key in rows if key.startswith("unseen")}
    assert run() == rows  # and nothing ran a second time
    (tmp_path / "test_planner.py").write_text(TESTS + MORE)
    again = {key: row["outcome"] for key, row in run("--again").items()}
    assert again["unseen | return a > 7 | a > 7 -> a <= 7"] == "killed"
    assert again["unseen | return a > 7 | a > 7 -> a >= 7"] == "survived"
    assert {key for key in again if again[key] != outcomes[key]} < survived
    explained = tmp_path / EXPLAINED
    explained.parent.mkdir(parents=True)
    left = [key for key, outcome in again.items() if outcome == "survived"]
    explained.write_text(json.dumps({f"planner.py | {key}": "only speed" for key in left[1:]}))
    lines = kept.read_text().splitlines()
    run("--again")
    assert [json.loads(line)["key"] for line in kept.read_text().splitlines()[len(lines) :]] == [
        f"planner.py | {left[0]}"
    ]


def test_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text("def f(a):\n    return a > 7\n")
    keys = list(keyed("f.py", Path("f.py").read_text(), ast.parse(Path("f.py").read_text())))
    outcomes = ["killed", "timed out", "survived", "survived"]
    rows = [{"key": key, "outcome": o, "tests": 2} for key, o in zip(keys, outcomes, strict=True)]
    Path("rows").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("why").write_text(json.dumps({keys[2]: "only speed"}))
    found = summary(["f.py"], Path("rows"), Path("why"))
    counts = {"mutants": 4, "killed": 1, "timed out": 1, "survived": 2}
    assert found["files"] == {"f.py": counts} and found["total"] == counts
    assert [survivor["why"] for survivor in found["survivors"]] == ["only speed", ""]
    assert found["survivors"][0]["line"] == 2


def test_what_is_explained_is_there_and_all_of_it() -> None:
    known = set[str]()
    for file in FILES:
        source = Path(ROOT, file).read_text(encoding="utf-8")
        known |= set(keyed(file, source, ast.parse(source)))
    explained: dict[str, str] = json.loads(Path(ROOT, EXPLAINED).read_text(encoding="utf-8"))
    assert set(explained) <= known, "a line changed: run its mutants, and explain them anew"
    written = json.loads(Path(ROOT, SUMMARY).read_text(encoding="utf-8"))
    assert written["survivors"] and all(survivor["why"] for survivor in written["survivors"])
    assert {survivor["why"] for survivor in written["survivors"]} <= set(explained.values())
