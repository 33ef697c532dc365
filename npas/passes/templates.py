"""Whole templates: what shares gets some as large as a layer, what shares nothing keeps its size.

This is how soft parameter sharing (Savarese and Maire, 2019) and ALBERT (Lan et al., 2020) spend a
budget. They know only budgets that whole templates use up; of others the rest is spread as in
`npas.passes.allocate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from npas.passes.allocate import BankAllocation, allocate, largest, smallest
from npas.passes.demand import Block, Demand, bank_cost

# Whole templates may leave this share of a budget unused, one in a thousand.
_UNUSED = 1000


@dataclass(frozen=True, slots=True)
class _Bank:
    """What asks for one bank.

    Attributes:
        demands: of its layers; a layer that is alone asks for one template.
    """

    demands: tuple[Demand, ...]

    @property
    def n(self) -> int:
        """Elements of the largest layer, and of a template."""
        return max(demand.n for demand in self.demands)

    @property
    def even(self) -> bool:
        """Whether all layers are of one size."""
        return all(demand.n == self.n for demand in self.demands)

    @property
    def most(self) -> int:
        """Most templates: one a layer, and no more than each of the layers may have."""
        limits = (1 if d.downsample == "rr" else d.k for d in self.demands)
        return min(len(self.demands), *limits) if self.even else 1

    def hold(self, k: int) -> BankAllocation:
        """Return the bank with k whole templates, which all layers read."""
        block = Block(0, self.n if k > 1 else 0, k)
        blocks = (block,) * len(self.demands)
        return BankAllocation(k * self.n, blocks, bank_cost(self.demands, blocks, k * self.n))


def one_template(demands: Sequence[Demand]) -> int:
    """Return what banks cost that are each as large as their largest layer.

    Args:
        demands: as for `allocate_templates`.
    """
    return _total([bank.hold(1) for bank in _banks(demands)])


def largest_templates(demands: Sequence[Demand]) -> int:
    """Return the most parameters that `allocate_templates` can use: every template apart.

    Args:
        demands: as for `allocate_templates`.
    """
    return largest([demand for bank in _banks(demands) for demand in bank.demands])


def allocate_templates(
    demands: Sequence[Demand], available: int
) -> tuple[BankAllocation, ...] | None:
    """Decide every bank's size, in whole templates where the budget allows it.

    A bank of one layer has exactly that layer's size. A bank of several has k templates of their
    size, which all of them combine: the same k for all banks, or one for each layer where those are
    fewer; then one more for the banks of the largest layers that what is left is enough for. If
    0.1% of the budget is still left, these are the least sizes of the banks that are shared, and
    the rest is spread over them.

    Args:
        demands: as for `allocate`. Where layers of one bank differ in size, one template is what
            the bank has at least.
        available: as for `allocate`.

    Returns:
        One allocation a bank, or None if the budget does not reach to the largest layer of each, or
        to more than the banks that are shared can use.
    """
    banks = _banks(demands)
    held = [bank.hold(1) for bank in banks]
    if sum(bank.size for bank in held) > available:
        return None
    if _total(held) > available:
        # A weight that starts at zero needs a scalar, for which its bank makes room.
        least = [bank.size if bank.cost.total == bank.size else 1 for bank in held]
    else:
        held = _whole(banks, available)
        if (available - _total(held)) * _UNUSED <= available and all(bank.even for bank in banks):
            return tuple(held)
        least = [bank.size for bank in held]
    asked = [demand for bank in banks for demand in bank.demands]
    if not smallest(asked, least) <= available <= largest(asked):
        return None
    return allocate(asked, available, least)


def _banks(demands: Sequence[Demand]) -> list[_Bank]:
    inside: dict[int, list[Demand]] = {}
    for demand in demands:
        inside.setdefault(demand.bank, []).append(demand)
    return [
        _Bank(tuple(found) if len(found) > 1 else (replace(found[0], k=1),))
        for _, found in sorted(inside.items())
    ]


def _total(held: Sequence[BankAllocation]) -> int:
    return sum(bank.cost.total for bank in held)


def _whole(banks: Sequence[_Bank], available: int) -> list[BankAllocation]:
    """Return the banks with the most whole templates that a budget for one each allows."""

    def hold(k: int) -> list[BankAllocation]:
        return [bank.hold(min(k, bank.most)) for bank in banks]

    low, high = 1, max(bank.most for bank in banks) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _total(hold(middle)) <= available else (low, middle)
    held = hold(low)
    left = available - _total(held)
    for i in sorted(range(len(banks)), key=lambda i: -banks[i].n):
        more = banks[i].hold(min(low + 1, banks[i].most))
        rise = more.cost.total - held[i].cost.total
        if rise <= left:
            held[i], left = more, left - rise
    return held
