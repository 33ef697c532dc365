"""Means over seeds, and differences between runs that are paired by seed."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference.

    Attributes:
        mean: of the pairs' differences.
        half: half the width of its 95% t interval; infinite for one pair.
        p: two-sided probability of one as large if there were none (paired t test).
        n: pairs.
    """

    mean: float
    half: float
    p: float
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half


def mean_std(values: Mapping[int, float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation, which one value has none of."""
    found = list(values.values())
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None


def paired_difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Return the difference of two arms over the seeds that both have, None if there are none.

    Args:
        one: seed -> value.
        other: seed -> value, subtracted.
    """
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    n = len(differences)
    if n == 0:
        return None
    mean = statistics.fmean(differences)
    if n == 1:
        return Difference(mean, math.inf, 1.0, 1)
    error = statistics.stdev(differences) / math.sqrt(n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, half, p, n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values that hold for all comparisons of a table together (Holm, 1979)."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return adjusted
