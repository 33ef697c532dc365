"""docs/trust.md: what was mutated, drawn and killed, and what came of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import Column, Section, markdown

SUMMARY = Path("benchmarks/results/soak.json")
PAGE = Path("docs/trust.md")
COMMAND = "make soak SOAK_FLAGS=--write"

_READ = (
    "Valid files and arguments are changed: values, steps of numbers, parts of other files, keys "
    "twice, depth, cut or flipped bytes; a number decides each case. Plans and mappings are "
    "refused with an `NpasError`, or read, sound (windows in their banks, every element used, "
    "totals right) and written again as they were read. Tensor files, most with hashes that are "
    "made right again, are refused or loaded exactly as the file has them. A command ends with an "
    "exit status that it documents and no traceback. A reference to a model is refused or "
    "built without memory. A case that takes 10 seconds, or kills its process, counts as wrong; "
    "a process may hold 4 GiB. Most memory is what PyTorch takes when it is imported. "
    "`python -m tests.soak.guided plans` goes on from there with atheris, guided by the branches "
    "that a case reaches."
)
_DRAWN = (
    "Networks of many kinds (convolutions, recurrent cells, tied, frozen and raw parameters) or "
    "stacks of 200,000 to a million parameters, budgets from the smallest possible to 400%, and "
    "options. Plans: never above the budget, of large ones at least 99.9% used; a budget that is "
    "refused names one that can be met, and one parameter less cannot; no dead element; the same "
    "from the meta device; written and read again. Compiled in fp64: three steps of AdamW; "
    "gradients as autograd has them through the definitions; weights start with the "
    "original's spread; no parameter without gradient; saved, loaded and materialized to the same "
    "outputs; the original untouched."
)
_KILLED = (
    "`python -m benchmarks.kills 100`: a process that saves two modules in turn into one folder is "
    "killed by SIGKILL at a random moment, and the folder loaded."
)
_DRAWN_TARGETS = ("networks", "stacks", "compiles")


def page(summary: Mapping[str, Any]) -> str:
    """Return the page of a summary."""
    drawn = [row for row in summary["rows"] if row["target"] in _DRAWN_TARGETS]
    read = [row for row in summary["rows"] if row["target"] not in _DRAWN_TARGETS]
    columns = [
        Column("target", "target"),
        Column("cases", "cases", "{:,}".format),
        Column("outcomes", "outcomes", _outcomes),
        Column("ms a case", "ms a case", "{:.2f}".format),
        Column("slowest s", "slowest s", "{:.2f}".format),
        Column("most memory MB", "peak MB", "{:,.0f}".format),
    ]
    kills = [
        Column("kills", "kills", str),
        Column("the first module", "first", str),
        Column("the second", "second", str),
        Column("with files left over", "with files left over", str),
    ]
    made = summary["made with"]
    where = f"Python {made['python']}, PyTorch {made['torch']}, {made['machine']}"
    return markdown(
        "What was tried against npas",
        COMMAND,
        where,
        [
            Section("Mutated input", _READ, columns, read),
            Section("Random plans and compiled modules", _DRAWN, columns, drawn),
            Section("Saves that are killed", _KILLED, kills, [summary["kills"]]),
        ],
    )


def _outcomes(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in sorted(outcomes.items(), key=lambda x: -x[1]))


def read_summary() -> dict[str, Any]:
    """Return the committed summary."""
    return json.loads(SUMMARY.read_text(encoding="utf-8"))


def write(summary: Mapping[str, Any]) -> None:
    """Write the summary and the page."""
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(summary), encoding="utf-8")
