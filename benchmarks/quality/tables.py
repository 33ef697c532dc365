"""Tables of the quality suite, in percent points.

A column whose cells are all empty is left out. What is the same for all arms is said in the note
instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality import summary
from benchmarks.quality.cells import family, p_value, points, signed, spread, yes
from benchmarks.quality.overall import overall
from benchmarks.quality.ranks import ranks
from benchmarks.quality.spec import Experiment, Rows
from benchmarks.tables import Column, Section, count

Record = Mapping[str, Any]
#: Name of the table of all tunings.
TUNINGS = "tunings"


def sections(experiments: Sequence[Experiment], rows: Rows) -> dict[str, Section]:
    """Return the tables by name: those of a family's experiments, then its own; last, tunings.

    What has no finished run has no table.
    """
    records = summary.records(experiments, rows)
    found: dict[str, Section] = {}
    for name in dict.fromkeys(family(e.name) for e in experiments):
        for experiment in (e for e in experiments if family(e.name) == name):
            own = [r for r in records if r["experiment"] == experiment.name]
            if own:
                found[experiment.name] = table(experiment, own)
        together = [r for r in records if family(r["experiment"]) == name]
        for title, section in (
            (ranks_of(name), ranks(name, together)),
            (overall_of(name), overall(name, together)),
        ):
            if section is not None:
                found[title] = section
    tunings = summary.tunings(experiments, rows)
    if tunings:
        found[TUNINGS] = _tunings(tunings)
    return found


def ranks_of(name: str) -> str:
    """Return the name of a family's table of ranks."""
    return f"{name}: ranks"


def overall_of(name: str) -> str:
    """Return the name of a family's table of comparisons over its experiments."""
    return f"{name}: over experiments"


#: Said in the note where all arms have the same.
_COMMON = (
    Column("data", "data"),
    Column("network", "network"),
    Column("parameters", "params", lambda value: count(round(value))),
    Column("parameters tested", "params_left", lambda value: count(round(value))),
    Column("MACs tested, M", "macs", lambda value: f"{value / 1e6:.2f}"),
    Column("teacher, %", "teacher_score", points),
    Column("banks", "banks", lambda value: f"{value:.3g}"),
    Column("learning rate", "rate"),
    Column("seeds", "runs"),
)
_MEASURED = (
    Column("{measure}, % ± std", "score", spread(points)),
    Column("compared with", "reference"),
    Column("to {baseline} (95%)", "to_baseline", spread(signed)),
    Column("resolved", "resolved", yes),
    Column("p (exact)", "p_permutation", p_value),
    Column("p (Holm)", "p_holm", p_value),
    Column("to {also} (95%)", "to_also", spread(signed)),
    Column("to {also}: resolved", "also_resolved", yes),
    Column("to {also}: p (Holm)", "also_p_holm", p_value),
)
_LAST = (
    Column("agreement", "agreement", lambda value: f"{value:.2f}"),
    Column("diverged", "diverged"),
    Column("minutes", "minutes", lambda value: f"{value:.1f}"),
)


def table(experiment: Experiment, records: Sequence[Record]) -> Section:
    """Return the table of an experiment from its records."""
    printed = [number for record in records for number in record["printed"]]
    heads = list(dict.fromkeys(_head(number) for number in printed))
    rows = [_row(record, heads) for record in records]
    references = {row["reference"] for row in rows} - {None}
    words = {
        "measure": records[0]["measure"],
        "baseline": "that" if len(references) > 1 else experiment.baseline,
        "also": experiment.also,
    }
    same = [column for column in _COMMON if _constant(column, rows)]
    columns = [
        Column("", "variant"),
        *(column for column in _COMMON if column not in same),
        *(
            replace(column, head=column.head.format(**words))
            for column in _MEASURED
            if column.key != "reference" or len(references) > 1
        ),
        *(Column(f"paper: {head}", head) for head in heads),
        *_LAST,
    ]
    shown = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    note = [experiment.note]
    if same:
        note.append(f"Same for all: {', '.join(f'{c.head} {c.text(rows[0])}' for c in same)}.")
    where = list(dict.fromkeys(number["table"] for number in printed))
    if where:
        note.append(f"Of the paper: Table{'s' * (len(where) > 1)} {', '.join(where)}.")
    return Section(experiment.title, " ".join(note), shown, rows)


def _constant(column: Column, rows: Sequence[Record]) -> bool:
    texts = {column.text(row) for row in rows}
    return len(texts) == 1 and texts != {"-"}


def _head(number: Record) -> str:
    """Return what a printed number is."""
    return f"{number['task']} {number['measure']}, {number['network']} at {number['budget']}"


def _row(record: Record, heads: Sequence[str]) -> Record:
    """Return a record with what several of its values are together in a cell."""
    printed = {
        head: "; ".join(n["printed"] for n in record["printed"] if _head(n) == head) or None
        for head in heads
    }
    edge = " (edge)" if record["at_edge"] else ""
    short = record["seeds"] < record["asked"]
    same = record["same_as"]
    return {
        **record,
        **printed,
        "variant": record["variant"] + (f" (the same as {same})" if same else ""),
        "banks": record["banks"] or None,
        "rate": None if record["lr"] is None else f"{record['lr']:g}{edge}",
        "runs": f"{record['seeds']} of {record['asked']}" if short else str(record["seeds"]),
        "score": (record["mean"], record["std"]),
        "reference": None if record["difference"] is None else record["baseline"],
        "to_baseline": _compared(record, ""),
        "to_also": _compared(record, "also_"),
        "diverged": record["diverged"] or None,
    }


def _compared(record: Record, prefix: str) -> tuple[float, float | None] | None:
    difference = record.get(f"{prefix}difference")
    return None if difference is None else (difference, record[f"{prefix}resolves"])


_TUNING = (
    Column("data", "data"),
    Column("network", "network"),
    Column("method", "method"),
    Column("budget", "budget"),
    Column("chosen", "chosen", lambda value: f"{value:g}"),
    Column("at edge", "at_edge", yes),
    Column("rate: validation score, %", "tried"),
    Column("used in", "users"),
    Column("minutes", "minutes", lambda value: f"{value:.1f}"),
)


def _tunings(tunings: Sequence[Record]) -> Section:
    rows = [
        {
            **tuning,
            "method": " ".join((tuning["method"], *(f"{k}={v}" for k, v in tuning["how"].items()))),
            "tried": ", ".join(_tried(rate) for rate in tuning["rates"]),
            "users": ", ".join(tuning["experiments"]),
        }
        for tuning in tunings
    ]
    note = (
        "Each rate's mean score on validation data, over seeds that no compared run has. The best "
        "rate is used, the lower one of equals; while it is at an edge, the grid grows. At edge: "
        "it may not grow further."
    )
    return Section("Learning rates", note, _TUNING, rows)


def _tried(rate: Record) -> str:
    score = "-" if rate["score"] is None else points(rate["score"])
    lost = f" ({rate['diverged']} diverged)" if rate["diverged"] else ""
    return f"{rate['lr']:g}: {score}{lost}"
