"""What npas costs, and saves, where models outgrow a machine.

``python -m benchmarks.scale`` plans models of 8B to 671B, measures bytes and memory of ranks, and
predicts step times. ``--json`` prints ``{"rows": [...]}`` with case, measure, value and unit;
``--write`` writes benchmarks/results/scale.json and docs/scale.md; ``--page`` writes the page from
the committed rows.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console

from benchmarks.runner import environment
from benchmarks.scale import planning, prediction
from benchmarks.scale.measured import RANKS, measure
from benchmarks.scale.report import PAGE, SUMMARY, page, sections
from benchmarks.tables import show

#: Key of a value -> its unit.
_UNITS = {"_s": "s", "_bytes": "bytes"}


def run() -> dict[str, Any]:
    """Measure and predict everything."""
    return {
        "made with": environment(torch.device("cpu")),
        "planning": [row for name in planning.NAMES for row in planning.measure(name)],
        "measured": [row for n in RANKS for row in measure(n)],
        "checked": prediction.checked(),
        "segments": prediction.segments(),
        "predicted": prediction.predicted(),
    }


def long(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row a value: case, measure, value, unit."""
    rows = [*summary["planning"], *summary["measured"]]
    for part in ("checked", "segments", "predicted"):
        for row in summary[part]:
            names = {k: v for k, v in row.items() if isinstance(v, str)} | {
                k: row[k] for k in ("contention", "gpus") if k in row
            }
            case = ", ".join([part, *(f"{k} {v}" for k, v in names.items())])
            rows += [
                {"case": case, "measure": key, "value": value, "unit": _unit(key)}
                for key, value in row.items()
                if key not in names
            ]
    return rows


def _unit(key: str) -> str:
    return next((unit for end, unit in _UNITS.items() if key.endswith(end)), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--write", action="store_true", help="write the summary and the page")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    options = parser.parse_args(arguments)
    summary = json.loads(SUMMARY.read_text(encoding="utf-8")) if options.page else run()
    if options.write:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if options.write or options.page:
        PAGE.write_text(page(summary), encoding="utf-8")
        print(f"wrote {PAGE}", file=sys.stderr)
    elif options.json:
        print(json.dumps({"rows": long(summary)}))
    else:
        show(Console(width=170), sections(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
