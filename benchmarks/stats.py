"""Means over seeds, differences between runs that are paired by seed, and ranks over tasks."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
#: Up to so many pairs all flips of signs are counted: 2^20 sums are 8 MB.
EXACT_PAIRS = 20
#: Flips that are drawn where there are more pairs.
_DRAWN_FLIPS = 100_000
Name = TypeVar("Name", bound=Hashable)


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


def half_width(std: float, n: int) -> float:
    """Return half the width of the 95% t interval of the mean of n values; infinite for one."""
    if n < 2:
        return math.inf
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)


def differences(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Return the differences over the seeds that both have, in the order of the seeds.

    Args:
        one: seed -> value.
        other: seed -> value, subtracted.
    """
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def paired_difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Return the difference of two arms over the seeds that both have, None if there are none.

    Args:
        one: seed -> value.
        other: seed -> value, subtracted.
    """
    found = differences(one, other)
    n = len(found)
    if n == 0:
        return None
    mean = statistics.fmean(found)
    if n == 1:
        return Difference(mean, math.inf, 1.0, 1)
    std = statistics.stdev(found)
    if std == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, n)
    p = float(2 * stats.t.sf(abs(mean) / std * math.sqrt(n), n - 1))
    return Difference(mean, half_width(std, n), p, n)


def permutation_p(found: Sequence[float]) -> float:
    """Return the two-sided p value of the sign-flip test of paired differences.

    If the arms of a pair could be swapped, each difference could as well have the other sign. The
    p value is the share of all 2^n choices of signs whose sum is at least as far from 0 as the one
    found. It assumes no distribution, so a diverged run, which is far from all others, is no harm.
    Its smallest value is 2 / 2^n: fewer than 6 pairs cannot be below 0.05. Above `EXACT_PAIRS`
    pairs, `_DRAWN_FLIPS` choices are drawn, always the same ones.

    Args:
        found: the pairs' differences; an empty one has p = 1.
    """
    size = np.abs(np.asarray(found, dtype=np.float64))
    # Sums of the same terms in another order differ in their last digits: they are ties.
    least = abs(math.fsum(found)) - 1e-9 * float(size.sum())
    if len(size) <= EXACT_PAIRS:
        sums = np.zeros(1)
        for value in size:
            sums = np.concatenate((sums + value, sums - value))
        return float(np.mean(np.abs(sums) >= least))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWN_FLIPS, len(size)))
    # What was found is one of the choices: without it, p could be 0.
    return float((1 + np.sum(np.abs(signs @ size) >= least)) / (1 + _DRAWN_FLIPS))


def sign_p(found: Sequence[float]) -> float:
    """Return the two-sided p value of the sign test of paired differences; those of 0 are left out.

    Args:
        found: the pairs' differences.
    """
    above, below = sum(value > 0 for value in found), sum(value < 0 for value in found)
    return float(stats.binomtest(above, above + below).pvalue) if above + below else 1.0


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return p values that hold for all comparisons of a table together (Holm, 1979)."""
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return adjusted


@dataclass(frozen=True, slots=True)
class Ranks:
    """Arms ranked on each of several tasks: 1 is best, equals share their mean rank.

    Attributes:
        by_task: task -> arm -> rank.
        means: arm -> mean of its ranks, best first.
        p: of the Friedman test that all arms are alike; its chi-square distribution is rough for
            few tasks. None for fewer than 3 arms or 2 tasks.
    """

    by_task: dict[str, dict[str, float]]
    means: dict[str, float]
    p: float | None


def mean_ranks(scores: Mapping[str, Mapping[str, float]]) -> Ranks:
    """Return how arms rank on tasks (Friedman, 1937; Demšar, 2006).

    Args:
        scores: task -> arm -> score, higher is better; the same arms for every task.

    Raises:
        ValueError: if there are no tasks, or their arms differ.
    """
    arms = list(next(iter(scores.values()), ()))
    if not arms or any(set(found) != set(arms) for found in scores.values()):
        raise ValueError("ranks need tasks, and the same arms on each of them")
    table = np.array([[found[arm] for arm in arms] for found in scores.values()])
    table = table.round(12)  # means of the same values in another order are equals
    ranks = stats.rankdata(-table, axis=1)
    by_task = [dict(zip(arms, row.tolist(), strict=True)) for row in ranks]
    means = dict(zip(arms, ranks.mean(0).tolist(), strict=True))
    return Ranks(
        dict(zip(scores, by_task, strict=True)),
        dict(sorted(means.items(), key=lambda item: item[1])),
        _friedman(table),
    )


def _friedman(table: np.ndarray) -> float | None:
    """Return the p value of the Friedman test; table: [tasks, arms]."""
    n_tasks, n_arms = table.shape
    if n_tasks < 2 or n_arms < 3:
        return None
    if (table == table[:, :1]).all():  # scipy divides 0 by 0
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)
