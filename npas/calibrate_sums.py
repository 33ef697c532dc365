"""Calibrate: the scale of a branch, so that what it is added to fits."""

import math

import torch

# Log-factors: a sum that is off by the first weighs as much as a branch that is off by the second,
# and to the fourth power, so that less of it hardly counts; no branch goes beyond the third.
_SUM_OFF, _BRANCH_OFF, _FARTHEST = 0.08, 0.5, 2.5


def branch_factor(
    value: torch.Tensor, branch: torch.Tensor, target: float, moved: float, signs: tuple[int, ...]
) -> tuple[int, float]:
    """Return the sign and log-factor of a branch with which value + branch comes to the target.

    A branch that is small against what it is added to hardly moves the sum: scaled until that fits
    exactly, some branches of a deep network end at a thousandth. So the sum's distance from the
    target and the branch's from its own scale are weighed against each other.

    Args:
        value: what the branch is added to.
        branch: at its present scale.
        target: standard deviation that the sum is to have.
        moved: log-factor between the branch's present and its own scale.
        signs: to choose from.
    """
    value, branch = value - value.mean(), branch - branch.mean()
    a, b, c = (float(x.mean()) for x in (value.square(), value * branch, branch.square()))
    shifts = torch.linspace(-_FARTHEST, _FARTHEST, 401, dtype=torch.float64) - moved
    costs = []
    for sign in signs:
        variances = a + 2 * sign * b * shifts.exp() + c * (2 * shifts).exp()
        off = 0.5 * variances.clamp_min(1e-30).log() - math.log(target)
        costs.append((off / _SUM_OFF) ** 4 + ((shifts + moved) / _BRANCH_OFF) ** 2)
    best = int(torch.cat(costs).argmin())
    return signs[best // len(shifts)], float(shifts[best % len(shifts)])
