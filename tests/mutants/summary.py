"""What came of the mutants of a source as it is now, and why some are not noticed."""

import ast
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import read_rows
from tests.mutants.run import keyed

SUMMARY = Path("benchmarks/results/mutants.json")
#: Key of a mutant -> why no test notices it.
EXPLAINED = Path("tests/mutants/explained.json")
_OUTCOMES = ("killed", "timed out", "survived")


def reasons(explained: Path = EXPLAINED) -> dict[str, str]:
    """Return why mutants survive, by key."""
    return json.loads(explained.read_text(encoding="utf-8")) if explained.exists() else {}


def summary(files: Sequence[str], kept: Path, explained: Path = EXPLAINED) -> dict[str, Any]:
    """Return counts a file, and the mutants that survived.

    Args:
        files: paths from the root.
        kept: rows of `tests.mutants.run.run`.
        explained: JSON, key of a mutant -> why it survives.
    """
    rows = read_rows(kept)
    why = reasons(explained)
    counts: dict[str, dict[str, int]] = {}
    survivors: list[dict[str, Any]] = []
    for file in files:
        source = Path(file).read_text(encoding="utf-8")
        found = keyed(file, source, ast.parse(source))
        outcomes = Counter(rows[key]["outcome"] if key in rows else "not run" for key in found)
        counts[file] = {"mutants": len(found)} | {name: outcomes[name] for name in _OUTCOMES}
        if outcomes["not run"]:
            counts[file]["not run"] = outcomes["not run"]
        for key, mutant in found.items():
            if key in rows and rows[key]["outcome"] == "survived":
                place = {"file": file, "line": mutant.line, "change": mutant.change}
                survivors.append({**place, "tests": rows[key]["tests"], "why": why.get(key, "")})
    total = {name: sum(row[name] for row in counts.values()) for name in ("mutants", *_OUTCOMES)}
    command = "python -m tests.mutants; python -m tests.mutants --again --most 90 --write"
    return {"command": command, "files": counts, "total": total} | {"survivors": survivors}


def write(found: dict[str, Any], path: Path = SUMMARY) -> None:
    """Write a summary as JSON."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
