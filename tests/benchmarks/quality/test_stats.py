"""Statistics of paired runs, against hand counts and scipy."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks import stats

pytestmark = pytest.mark.pure


def test_the_interval_is_that_of_scipy() -> None:
    one = {seed: value for seed, value in enumerate([0.70, 0.72, 0.69, 0.74])}
    other = {seed: value for seed, value in enumerate([0.68, 0.69, 0.70, 0.71])}
    found = stats.paired_difference(one, other)
    expected = scipy_stats.ttest_rel(list(one.values()), list(other.values()))
    low, high = expected.confidence_interval(0.95)
    assert found is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)
    std = float(np.std([0.02, 0.03, -0.01, 0.03], ddof=1))
    assert found.half == pytest.approx(stats.half_width(std, 4))


def test_what_is_resolved_by_hand() -> None:
    # t of 3 degrees of freedom is 3.182.
    assert stats.half_width(0.02, 4) == pytest.approx(3.1824 * 0.02 / 2, rel=1e-4)
    assert stats.half_width(0.02, 1) == math.inf


def test_the_permutation_test_of_equal_signs() -> None:
    assert stats.permutation_p([0.01] * 5) == 2 / 32
    assert stats.permutation_p([0.01, 0.03, 0.02, 0.5, 0.04]) == 2 / 32
    assert stats.permutation_p([-0.01, -0.03, -0.02, -0.5, -0.04]) == 2 / 32


def test_the_permutation_test_counts_ties_by_hand() -> None:
    # Sums of ±1 ±2 ±3 at least as far from 0 as 1 + 2 - 3 = 0: all. As 1 - 2 + 3 = 2: all but the
    # two of 0. As -1 + 2 + 3 = 4: those of ±4 and ±6.
    assert stats.permutation_p([1, 2, -3]) == 1
    assert stats.permutation_p([1, -2, 3]) == 6 / 8
    assert stats.permutation_p([-1, 2, 3]) == 4 / 8
    # In floats the same differences have different last digits.
    assert stats.permutation_p([0.1 + 0.2, -0.3, 0.3]) == stats.permutation_p([0.3, 0.3, -0.3])
    assert stats.permutation_p([]) == stats.permutation_p([0.0, 0.0]) == 1


def test_the_permutation_test_is_that_of_scipy() -> None:
    found = np.random.default_rng(3).normal(0.4, 1, 9)
    expected = scipy_stats.permutation_test(
        (found,), np.sum, permutation_type="samples", n_resamples=2**9
    )
    assert stats.permutation_p(found.tolist()) == pytest.approx(expected.pvalue)


def test_many_pairs_draw_flips_always_alike() -> None:
    found = np.random.default_rng(0).normal(0.35, 1, stats.EXACT_PAIRS + 1).tolist()
    p = stats.permutation_p(found)
    assert p == stats.permutation_p(found)
    t_test = float(scipy_stats.ttest_rel(found, [0.0] * len(found)).pvalue)
    assert p == pytest.approx(t_test, abs=0.02) and 0.01 < p < 0.5


def test_a_diverged_run_hides_a_difference_from_the_t_test_alone() -> None:
    found = [0.02] * 7 + [0.7]
    t_test = stats.paired_difference(dict(enumerate(found)), dict.fromkeys(range(8), 0.0))
    assert t_test is not None and t_test.p > 0.2
    assert stats.permutation_p(found) == 2 / 256


def test_the_sign_test_leaves_ties_out() -> None:
    assert stats.sign_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    assert stats.sign_p([1, 2, 3, 4, 5, 0, 0]) == pytest.approx(2 / 32)
    assert stats.sign_p([1, 2, 3, 4, -5]) == pytest.approx(2 * (1 + 5) / 32)
    assert stats.sign_p([0, 0]) == stats.sign_p([]) == 1


def test_holm_by_hand_with_any_names() -> None:
    assert stats.holm({("a", 1): 0.01, ("b", 1): 0.04, ("c", 1): 0.03}) == pytest.approx(
        {("a", 1): 0.03, ("c", 1): 0.06, ("b", 1): 0.06}
    )


def test_ranks_share_ties_and_friedman_is_that_of_scipy() -> None:
    scores = {
        "one": {"a": 0.9, "b": 0.8, "c": 0.7},
        "two": {"c": 0.6, "b": 0.5, "a": 0.6},
        "three": {"a": 0.4, "b": 0.3, "c": 0.2},
    }
    found = stats.mean_ranks(scores)
    assert found.by_task["two"] == {"a": 1.5, "b": 3, "c": 1.5}
    assert found.means == pytest.approx({"a": 3.5 / 3, "b": 7 / 3, "c": 7.5 / 3})
    assert list(found.means) == ["a", "b", "c"]
    columns = [[task[arm] for task in scores.values()] for arm in "abc"]
    assert found.p == pytest.approx(scipy_stats.friedmanchisquare(*columns).pvalue)


def test_ranks_without_a_test_and_without_sense() -> None:
    assert stats.mean_ranks({"one": {"a": 1, "b": 2, "c": 3}}).p is None
    assert stats.mean_ranks({task: {"a": 1, "b": 2} for task in "xy"}).p is None
    alike = stats.mean_ranks({task: dict.fromkeys("abc", 0.5) for task in "xy"})
    assert alike.p == 1 and set(alike.means.values()) == {2}
    with pytest.raises(ValueError, match="the same arms"):
        stats.mean_ranks({"one": {"a": 1, "b": 2}, "two": {"a": 1}})
    with pytest.raises(ValueError, match="tasks"):
        stats.mean_ranks({})


def test_all_flips_are_counted() -> None:
    found = [0.3, -0.1, 0.7, 0.2, -0.4, 0.5]
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, found, strict=True)))
        for signs in product((-1, 1), repeat=len(found))
    ]
    share = sum(value >= abs(sum(found)) - 1e-12 for value in sums) / len(sums)
    assert stats.permutation_p(found) == share
