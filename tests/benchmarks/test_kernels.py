"""The kernels' code keeps its promises for every target, and each check of it can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import kernel_naive, kernel_times, kernels
from benchmarks.ahead import TARGETS
from benchmarks.kernel_ahead import problems
from benchmarks.kernel_cases import BACKWARD, BF16, CASES, FORWARD, FP32, NAMES, combine_sample
from benchmarks.kernel_floors import floor_bytes
from benchmarks.runner import Times, paired
from benchmarks.tables import read_markdown
from benchmarks.traffic import bytes_moved, peak_temporaries

pytestmark = pytest.mark.interpret

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
AHEAD_KEYS = {
    "op",
    "target",
    "dtype",
    "registers",
    "spills",
    "shared_bytes",
    "load_bits",
    "store_bits",
    "launches",
    "bytes",
    "floor_bytes",
}
TIMES_KEYS = {
    "op",
    "shape",
    "dtype",
    "backend",
    "ms",
    "spread",
    "bytes",
    "floor_bytes",
    "ratio_copy",
    "ratio_naive",
    "ratio_reference",
}
Row = dict[str, Any]


def run(*command: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    """Run Python, with Triton's interpreter or with its compiler: one process has only one."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    if not interpret:
        del environment["TRITON_INTERPRET"]
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def ahead() -> list[Row]:
    done = run("-m", "benchmarks.kernels", "--aot", "--json", interpret=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["rows"]


@pytest.fixture(scope="module")
def bad() -> dict[tuple[str, str], Row]:
    script = (
        "import json; from benchmarks.kernel_ahead import rows;"
        "print(json.dumps(rows('tests.benchmarks.bad_kernels', targets=['sm_90'])))"
    )
    done = run("-c", script, interpret=False)
    assert done.stdout, done.stderr
    return {(row["shape"], row["direction"]): row for row in json.loads(done.stdout)}


def test_every_kernel_is_compiled_for_every_target(ahead: list[Row]):
    folders = {path.parent.name for path in (ROOT / "npas" / "kernels").glob("*/triton.py")}
    wanted = {
        (case.op, direction, NAMES[dtype], target)
        for case in CASES
        for direction in (FORWARD, BACKWARD)
        for dtype in case.dtypes
        for target in TARGETS
    }
    assert {case.op for case in CASES} == folders
    assert {
        tuple(row[k] for k in ("op", "direction", "dtype", "target")) for row in ahead
    } == wanted
    assert all(set(row) >= AHEAD_KEYS for row in ahead)


def test_no_spills_wide_accesses_few_launches_and_no_byte_too_many(ahead: list[Row]):
    assert [problem for row in ahead for problem in problems(row)] == []


def test_nothing_is_worse_than_in_the_committed_table(ahead: list[Row]):
    columns = {"spills": 1, "launches": 1, "bytes": 1, "load bits": -1, "store bits": -1}
    names = ("op", "direction", "dtype", "target", "shape")
    committed = {
        tuple(row[name] for name in names): row
        for row in read_markdown(ROOT / "docs" / "kernels_aot.md")
    }
    found = {tuple(row[name] for name in names): row for row in ahead}
    assert found.keys() == committed.keys(), "make docs/kernels_aot.md again"
    for key, row in found.items():
        for column, sign in columns.items():
            before = int(committed[key][column].replace(",", ""))
            assert sign * row[column.replace(" ", "_")] <= sign * before, (key, column)


@pytest.mark.parametrize(
    ("label", "direction", "problem"),
    [
        ("one more launch", FORWARD, "launches 2, must be 1"),
        ("reads twice", FORWARD, "moves 1.5 of the floor"),
        ("spills", FORWARD, "spills "),
        ("not aligned", BACKWARD, "load_bits 32, must be 128"),
    ],
)
def test_a_broken_promise_is_found(
    bad: dict[tuple[str, str], Row], label: str, direction: str, problem: str
):
    (found,) = problems(bad[label, direction])
    assert problem in found


def test_the_other_direction_of_a_broken_case_is_whole(bad: dict[tuple[str, str], Row]):
    assert problems(bad["one more launch", BACKWARD]) == []
    assert problems(bad["not aligned", FORWARD]) == []


@pytest.mark.parametrize(
    ("kernel", "message"),
    [("adds_atomically", "uses an atomic"), ("reads_beyond", "beyond the end of theta_ptr")],
)
def test_what_cannot_be_counted_is_an_error(kernel: str, message: str):
    done = run("-m", "tests.benchmarks.bad_kernels", kernel, interpret=True)
    assert done.returncode and message in done.stderr


def test_floors_of_combine():
    sample = combine_sample("", (0, 10, 3, 16), (20, 0, 1, 30))
    assert floor_bytes("combine", sample, FORWARD, FP32) == 4 * (4 * 16 + 2 * 30)
    # The windows cover elements 0 to 35, and 20 to 49.
    assert floor_bytes("combine", sample, BACKWARD, BF16) == 2 * (3 * 16 + 30 + 50) + 8 * 50


def test_bytes_of_operators():
    a, b = torch.ones(100, 4), torch.ones(100, 1)
    assert bytes_moved(lambda: a + b) == 4 * (400 + 100 + 400)
    assert bytes_moved(lambda: a.add_(b.expand(100, 4))) == 4 * (2 * 400 + 100)
    assert bytes_moved(lambda: a.t().view(4, 100)[1:]) == 0
    assert bytes_moved(lambda: torch.addmv(b[:, 0], a, b[:4, 0], beta=0)) == 4 * (400 + 4 + 100)
    assert bytes_moved(lambda: a.index_select(0, torch.tensor([1, 2]))) > 0


def test_temporaries_leave_the_result_out():
    a = torch.ones(1000)
    assert peak_temporaries(lambda: a + 1) < 100
    assert 4000 <= peak_temporaries(lambda: (a + 1).mul(2)) < 4100


def test_ratios_are_medians_of_the_rounds():
    times = Times({"a": [1.0, 2.0, 30.0], "b": [1.0, 4.0, 10.0]})
    assert times.ms("a") == 2.0
    assert times.ratio("a", "b") == 1.0
    assert times.ratio("a", "absent") is None


def test_variants_take_turns():
    seen: list[str] = []
    variants = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    paired(variants, CPU, 2)
    assert "".join(seen) == "ab" + "ab" + "ba"


def test_timed_rows_are_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        sys, "argv", ["kernels", "--quick", "--json", "--op", "tile_mask", "--rounds", "2"]
    )
    kernels.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows and all(set(row) >= TIMES_KEYS for row in rows)
    assert {row["backend"] for row in rows} == {"eager"}


@pytest.mark.parametrize("case", [c for c in kernel_times.CASES if c.quick], ids=lambda c: c.op)
def test_the_naive_form_is_the_same(case: Any):
    kernel_times.check(case, FP32, CPU)


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    case = next(case for case in kernel_times.CASES if case.quick)
    naive = kernel_naive.combine

    def wrong(tensors: Any, others: Any) -> list[torch.Tensor]:
        return [weight * 1.001 for weight in naive(tensors, others)]

    monkeypatch.setitem(kernel_times.NAIVE, case.op, wrong)
    with pytest.raises(AssertionError, match="off by"):
        kernel_times.check(case, FP32, CPU)
