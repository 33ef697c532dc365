"""The rows of `benchmarks.fit` as tables of Markdown."""

import statistics
from collections.abc import Iterable
from pathlib import Path

from benchmarks.fit_log import Row, read
from benchmarks.tables import Column, Section, count, markdown, percent

_COMMAND = "python -m benchmarks.fit"


def show(folder: Path) -> None:
    """Print the tables of all rows in a folder."""
    sections = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = read(path)
        kind = path.stem.partition("-")[0]
        sections += _KINDS[kind](rows)
    print(markdown("Fits, measured", _COMMAND, "one thread", sections))


def _agreement(rows: list[Row]) -> Iterable[Section]:
    """A table a network and measure: methods against budgets."""
    network = rows[0]["case"]["network"]
    budgets = sorted({row["case"]["budget"] for row in rows}, key=lambda text: float(text[:-1]))
    cases = sorted({(r["case"]["method"], r["case"]["weighted"]) for r in rows})
    measures = [
        name
        for name in ("cosine", "rank correlation", "same top class", "weight error", "output error")
        if name in rows[0]
    ]
    for measure in measures:
        table = []
        for method, weighted in cases:
            row: Row = {"method": method + (", weighted" if weighted else "")}
            for found in rows:
                if (found["case"]["method"], found["case"]["weighted"]) == (method, weighted):
                    row[found["case"]["budget"]] = found[measure]
            table.append(row)
        columns = [Column("method", "method")]
        columns += [Column(budget, budget, lambda value: f"{value:.3f}") for budget in budgets]
        yield Section(f"{network}: {measure}", "", columns, table)


def _tuning(rows: list[Row]) -> Iterable[Section]:
    """Accuracy of each method after training, and its difference to SVD's, paired by seed."""
    network = rows[0]["case"]["network"]
    runs = [row for row in rows if "seed" in row["case"]]
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    for row in runs:
        key = row["case"]["budget"], row["case"]["method"]
        groups.setdefault(key, {})[row["case"]["seed"]] = row
    table = []
    for (budget, method), found in groups.items():
        values = [row["accuracy"] for row in found.values()]
        paired = groups.get((budget, "SVD"), {})
        differences = [found[s]["accuracy"] - paired[s]["accuracy"] for s in found if s in paired]
        rate = next(iter(found.values()))["rate"]
        table.append(
            {
                "budget": budget,
                "method": method,
                "rate": rate,
                "accuracy": statistics.mean(values),
                "spread": max(values) - min(values),
                "seeds": len(values),
                "difference": statistics.mean(differences) if differences else None,
            }
        )
    columns = [
        Column("budget", "budget"),
        Column("method", "method"),
        Column("learning rate", "rate", lambda value: f"{value:g}"),
        Column("accuracy", "accuracy", percent),
        Column("largest less smallest", "spread", percent),
        Column("seeds", "seeds"),
        Column("less SVD's", "difference", lambda value: f"{value:+.1%}"),
    ]
    yield Section(f"{network}: accuracy after a short training", "", columns, table)


def _scale(rows: list[Row]) -> Iterable[Section]:
    columns = [
        Column("network and mapping", "name"),
        Column("parameters", "parameters", count),
        Column("banks", "banks"),
        Column("largest bank, MB", "largest bank", lambda value: f"{value / 1e6:.0f}"),
        Column("extra memory, MB", "extra bytes", lambda value: f"{value / 1e6:.0f}"),
        Column("processor time, s", "seconds", lambda value: f"{value:.0f}"),
        Column("most rounds", "rounds"),
    ]
    named = [{"name": row["case"]["case"], **row} for row in rows]
    yield Section("Time and memory of a fit at 50%", "", columns, named)


_KINDS = {"agreement": _agreement, "tuning": _tuning, "scale": _scale}
