"""What a comparison comes to over the experiments of a family, corrected for their number."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks import stats
from benchmarks.quality.cells import p_value, part, signed, spread, yes
from benchmarks.quality.summary import LEVEL
from benchmarks.tables import Column, Section

Record = Mapping[str, Any]
_COLUMNS = (
    Column("", "variant"),
    Column("compared with", "reference"),
    Column("experiment", "experiment"),
    Column("pairs", "pairs"),
    Column("difference (95%)", "found", spread(signed)),
    Column("p (exact)", "exact", p_value),
    Column("p (Holm)", "holm", p_value),
    Column("resolved", "resolved", yes),
    Column("worse", "worse", yes),
)
_NOTE = (
    "Each comparison that two whole experiments or more have. `p (Holm)` is that of the paired t "
    "test, adjusted for all lines of this table about single experiments, or for all means; "
    "resolved where it is below 0.05. Worse: the whole interval is below 0, unadjusted. A mean is "
    "that of the experiments' differences seed by seed, since runs of a seed have the same initial "
    "weights and batches in all experiments of a network."
)


def overall(family: str, records: Sequence[Record]) -> Section | None:
    """Return a table of the comparisons that several experiments of a family have, or None.

    Args:
        family: its name.
        records: of its experiments.
    """
    # (arm, reference) -> experiment -> seed -> difference
    compared: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    arms = {(r["experiment"], r["variant"]): r for r in records}
    for record in records:
        for prefix, reference in (("", "baseline"), ("also_", "also")):
            if record.get(f"{prefix}p") is not None:
                other = arms[record["experiment"], record[reference]]
                pair = record["variant"], record[reference]
                own = {s: v - other["scores"][s] for s, v in record["scores"].items()}
                compared.setdefault(pair, {})[part(record["experiment"])] = own
    several = {pair: found for pair, found in compared.items() if len(found) > 1}
    single = [_line(pair, *one) for pair, found in several.items() for one in found.items()]
    means = [_line(pair, f"mean of {len(f)}", mean_by_seed(f)) for pair, f in several.items()]
    rows = _adjusted(single) + _adjusted(means)
    order = {pair: i for i, pair in enumerate(several)}
    rows.sort(key=lambda row: order[row["variant"], row["reference"]])
    return Section(f"Over experiments: {family}", _NOTE, _COLUMNS, rows) if rows else None


def mean_by_seed(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return seed -> mean over the experiments that have it."""
    seeds = dict.fromkeys(seed for own in found.values() for seed in own)
    return {s: fmean(own[s] for own in found.values() if s in own) for s in seeds}


def _line(pair: tuple[str, str], experiment: str, by_seed: Mapping[str, float]) -> Record:
    own = {int(seed): value for seed, value in by_seed.items()}
    difference = stats.paired_difference(own, dict.fromkeys(own, 0.0))
    assert difference is not None
    return {
        "variant": pair[0],
        "reference": pair[1],
        "experiment": experiment,
        "pairs": difference.n,
        "found": (difference.mean, difference.half),
        "exact": stats.permutation_p(list(own.values())),
        "p": difference.p,
        "worse": difference.mean < -difference.half,
    }


def _adjusted(lines: Sequence[Record]) -> list[Record]:
    adjusted = stats.holm({i: line["p"] for i, line in enumerate(lines)})
    return [
        {**line, "holm": adjusted[i], "resolved": adjusted[i] < LEVEL}
        for i, line in enumerate(lines)
    ]
