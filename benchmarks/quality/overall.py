"""What a comparison comes to over the experiments of a family, corrected for their number."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks import stats
from benchmarks.quality.cells import p_value, part, signed, spread, yes
from benchmarks.tables import Column, Section

Record = Mapping[str, Any]
_COLUMNS = (
    Column("", "variant"),
    Column("compared with", "reference"),
    Column("experiment", "experiment"),
    Column("pairs", "pairs"),
    Column("difference (95%)", "found", spread(signed)),
    Column("p (exact)", "exact", p_value),
    Column("p (Holm, experiments)", "holm", p_value),
    Column("resolved", "resolved", yes),
)
_NOTE = (
    "Each comparison that two experiments or more have, with the p value of the paired t test "
    "adjusted for their number (Holm). The last line of a comparison is the mean of these "
    "experiments' differences, each with the same weight; its interval is theirs added in "
    "quadrature, so it is about these experiments and not about others."
)


def overall(family: str, records: Sequence[Record]) -> Section | None:
    """Return a table of the comparisons that several experiments of a family have, or None.

    Args:
        family: its name.
        records: of its experiments.
    """
    compared: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        for prefix, reference in (("", "baseline"), ("also_", "also")):
            if record.get(f"{prefix}resolves") is not None:
                pair = record["variant"], record[reference]
                own = {key: record[f"{prefix}{key}"] for key in _KEYS}
                compared.setdefault(pair, {})[part(record["experiment"])] = own
    rows = [row for pair, found in compared.items() if len(found) > 1 for row in _rows(pair, found)]
    return Section(f"Over experiments: {family}", _NOTE, _COLUMNS, rows) if rows else None


_KEYS = ("difference", "resolves", "pairs", "p", "p_permutation")


def _rows(pair: tuple[str, str], found: Mapping[str, Record]) -> list[Record]:
    names = {"variant": pair[0], "reference": pair[1]}
    adjusted = stats.holm({name: own["p"] for name, own in found.items()})
    rows: list[Record] = [
        names
        | {
            "experiment": name,
            "pairs": own["pairs"],
            "found": (own["difference"], own["resolves"]),
            "exact": own["p_permutation"],
            "holm": adjusted[name],
            "resolved": adjusted[name] < 1 - stats.CONFIDENCE,
        }
        for name, own in found.items()
    ]
    n = len(found)
    mean = fmean(own["difference"] for own in found.values())
    half = math.hypot(*(own["resolves"] for own in found.values())) / n
    together = {
        "experiment": f"mean of {n}",
        "pairs": sum(own["pairs"] for own in found.values()),
        "found": (mean, half),
        "resolved": abs(mean) > half,
    }
    return [*rows, names | together]
