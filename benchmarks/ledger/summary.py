"""Committed summaries: the rows of a suite, and what they were made with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ledger.runs import key_of
from benchmarks.ledger.suite import Suite

#: What rows were made with; of each, a summary lists every value that occurs.
MADE_WITH = ("python", "torch", "triton", "machine", "threads", "revision")


def summarise(suite: Suite, kept: Mapping[str, Mapping[str, Any]], command: str) -> dict[str, Any]:
    """Return the summary of a suite from kept rows, as JSON values."""
    found = {c.name: kept[key] for c in suite.cases() if (key := key_of(suite, c)) in kept}
    return {
        "command": command,
        "made with": {
            name: sorted({str(case.get(name)) for case in found.values()}) for name in MADE_WITH
        },
        "errors": {name: case["error"] for name, case in found.items() if "error" in case},
        "rows": [row for case in found.values() for row in case["rows"]],
    }


def write(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a summary with a line a row, so that a change of one is a line's change."""
    head = {key: value for key, value in summary.items() if key != "rows"}
    lines = ",\n  ".join(json.dumps(row) for row in summary["rows"])
    text = json.dumps(head, indent=1).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text},\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """Return a committed summary, None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows_of(summary: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a summary, if there is one."""
    return () if summary is None else summary["rows"]
