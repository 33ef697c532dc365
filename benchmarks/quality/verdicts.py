"""What an experiment's records say, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.quality.cells import points
from benchmarks.tables import Format

Record = Mapping[str, Any]
#: More arms than this are counted and not named: the table has them.
MOST_NAMES = 8


def verdicts(records: Sequence[Record]) -> list[str]:
    """Return sentences: differences that are resolved, then those that are not, then warnings."""
    found = []
    for name in dict.fromkeys(record["baseline"] for record in records):
        own = [record for record in records if record["baseline"] == name]
        found += _differences(own, "", name)
    if records[0].get("also") is not None:
        found += _differences(records, "also_", records[0]["also"])
    for record in records:
        if record["diverged"]:
            runs = f"{record['diverged']} of {record['seeds']} runs"
            found.append(f"{runs} of `{record['variant']}` diverged: each enters as 0.")
    short = [f"`{r['variant']}` {r['seeds']}" for r in records if r["seeds"] < r["asked"]]
    if short:
        found.append(
            f"Not all of the {records[0]['asked']} seeds are done, and nothing is said before: "
            f"{', '.join(short)}."
        )
    edge = [record for record in records if record["at_edge"]]
    if edge:
        found.append(f"At the edge of its grid is the learning rate of {_names(edge)}.")
    return found


def n_resolved(records: Sequence[Record]) -> tuple[int, int]:
    """Return how many comparisons are resolved, and how many there are."""
    found = [record.get(key) for record in records for key in ("resolved", "also_resolved")]
    return found.count(True), len(found) - found.count(None)


def _differences(records: Sequence[Record], prefix: str, reference: str) -> list[str]:
    compared = [record for record in records if record[f"{prefix}resolved"] is not None]
    alike: dict[str, list[Record]] = {}
    for record in compared:
        if record[f"{prefix}resolved"]:
            alike.setdefault(_outcome(record, prefix, reference), []).append(record)
    found = [f"{_list(group, prefix)} {outcome}" for outcome, group in alike.items()]
    rest = [record for record in compared if not record[f"{prefix}resolved"]]
    if rest:
        who = f" of {_names(rest)}" if found else ""
        n = _range(sorted(record[f"{prefix}pairs"] for record in rest), str)
        least = _range(sorted(record[f"{prefix}resolves"] for record in rest), points)
        found.append(
            f"No difference{who} to `{reference}` is resolved; {n} pairs resolve {least} points."
        )
    return found


def _outcome(record: Record, prefix: str, reference: str) -> str:
    """Return how a resolved difference ends, so that those that end alike are one sentence."""
    where = "above" if record[f"{prefix}difference"] > 0 else "below"
    return f"points {where} `{reference}`: resolved."


def _list(records: Sequence[Record], prefix: str) -> str:
    """Return ``"`a` is 1.20 ± 0.50, `b` 0.90 ± 0.40 and `c` 1.00 ± 0.50"``."""
    sizes = [abs(record[f"{prefix}difference"]) for record in records]
    if len(records) > MOST_NAMES:
        return f"{len(records)} arms are {_range(sorted(sizes), points)}"
    parts = [
        f"`{record['variant']}`{' is' * (index == 0)} "
        f"{points(size)} ± {points(record[f'{prefix}resolves'])}"
        for index, (record, size) in enumerate(zip(records, sizes, strict=True))
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _names(records: Sequence[Record]) -> str:
    if len(records) > MOST_NAMES:
        return f"{len(records)} arms"
    return ", ".join(f"`{record['variant']}`" for record in records)


def _range(values: Sequence[float], write: Format) -> str:
    """Return the first and the last of sorted values, once where they are written alike."""
    first, last = write(values[0]), write(values[-1])
    return first if first == last else f"{first} to {last}"
