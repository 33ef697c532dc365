"""Allocate: how large each bank is, at exact cost.

A bank's size decides how many templates its layers get, and those cost coefficients; so sizes are
found by trying them, on all banks at once:

1. Every bank gets the same share of its weights, the largest share that the budget allows.
2. Banks go one step further, one after another, while that is affordable.
3. What is left goes to a few banks, one at a time. A step that adds a template to many layers at
   once may cost more than is left: it is taken, and the smallest layers get one template less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npas.errors import BudgetError
from npas.passes.demand import BankCost, Block, Demand, bank_cost
from npas.passes.layout import Flags, Ints, Laid, Layers, masks_of, place

# From here bank sizes are multiples of 16 elements, so that blocks at its end are aligned.
_ROUND_FROM, _ROUND = 1024, 16
# A single-layer bank within 1% of its layer's size keeps exactly that: an ordinary parameter.
_NEAR = 100
# What may stay unspent: this many parameters, if they are less than 0.1% of the budget.
_SPARE, _SPARE_SHARE = 16, 1000
# Ordinary parameters are given up only to spend more than 0.05% of the budget.
_ORDINARY_SHARE = 2000
# Banks that are offered what is left, one at a time. Of 992 random cases with budgets of at least
# 100,000, 972 needed none, and 6 used all eight and still had 16 or more left.
_OFFERS = 8


@dataclass(frozen=True, slots=True)
class BankAllocation:
    """What one bank gets.

    Attributes:
        size: elements.
        blocks: one for each of the bank's demands, in their order.
        cost: trainable parameters.
    """

    size: int
    blocks: tuple[Block, ...]
    cost: BankCost


def smallest(demands: Sequence[Demand], floor: Sequence[int] | None = None) -> int:
    """Return the fewest parameters that can serve these demands.

    Args:
        demands: as for `allocate`.
        floor: as for `allocate`.
    """
    layers = Layers.of(demands)
    return _total(layers, _least(layers, floor), np.ones_like(layers.limit))


def largest(demands: Sequence[Demand]) -> int:
    """Return the most parameters that these demands can use: every template apart."""
    layers = Layers.of(demands)
    return _total(layers, layers.cap(layers.limit), layers.limit)


def choose_k(demands: Sequence[Demand], available: int, k_min: int = 4) -> int:
    """Return the fewest templates a layer with which the demands can use a budget.

    Args:
        demands: those with ``k == k_min`` may get more; another ``k`` was asked for and stays.
        available: parameters for banks and what goes with them.
        k_min: the least to return.

    Returns:
        The smallest K from ``k_min`` with ``largest() >= available``, or ``k_min`` where no K
        helps, as with ``rr``.
    """
    layers = Layers.of(demands)
    free = layers.many & (layers.limit == k_min)

    def most(k: int) -> int:
        limit = np.where(free, k, layers.limit)
        return _total(layers, layers.cap(limit), limit)

    if not free.any() or most(k_min) >= available:
        return k_min
    low, high = k_min, max(k_min + 1, -(-available // int(layers.n[free].sum())))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if most(middle) >= available else (middle, high)
    return high


def allocate(
    demands: Sequence[Demand], available: int, floor: Sequence[int] | None = None
) -> tuple[BankAllocation, ...]:
    """Decide every bank's size and where its layers' templates lie.

    Args:
        demands: the layers; every bank from 0 on has at least one.
        available: parameters that banks, coefficients, embeddings, masks and scales may cost.
        floor: [banks] elements that a bank has at least; by default what costs the fewest.

    Returns:
        One allocation a bank, which together cost at most ``available``.

    Raises:
        BudgetError: if ``available`` is below `smallest`, which it states.
    """
    layers = Layers.of(demands)
    sizes = _least(layers, floor)
    least = _total(layers, sizes, np.ones_like(layers.limit))
    if available < least:
        raise BudgetError(
            f"{available:,} parameters are available for the banks, but the smallest that these "
            f"{len(demands):,} layers in {len(layers.start):,} banks need is {least:,}; raise "
            "budget or use fewer banks",
            smallest=least,
        )
    laid = _search(layers, sizes, available)
    members: list[list[Demand]] = [[] for _ in layers.start]
    for demand in demands:
        members[demand.bank].append(demand)
    found = tuple(
        BankAllocation(size, tuple(blocks), bank_cost(inside, blocks, size))
        for size, blocks, inside in zip(laid.size.tolist(), laid.blocks(), members, strict=True)
    )
    assert sum(bank.cost.total for bank in found) <= available
    return found


def allocate_around(
    demands: Sequence[Demand], available: int, kept: Mapping[int, int]
) -> tuple[BankAllocation, ...]:
    """Decide as `allocate`, around banks whose sizes are given, if what is left can be used.

    Args:
        demands: as for `allocate`.
        available: as for `allocate`.
        kept: bank -> its elements.
    """
    found: dict[int, BankAllocation] = {}
    for bank, size in kept.items():
        inside = [demand for demand in demands if demand.bank == bank]
        blocks = place(inside, size)
        if blocks is not None:
            found[bank] = BankAllocation(size, tuple(blocks), bank_cost(inside, blocks, size))
    left = available - sum(bank.cost.total for bank in found.values())
    loose = [demand for demand in demands if demand.bank not in found]
    index = {bank: i for i, bank in enumerate(sorted({demand.bank for demand in loose}))}
    loose = [replace(demand, bank=index[demand.bank]) for demand in loose]
    if not found or not loose or not smallest(loose) <= left <= largest(loose):
        return allocate(demands, available)
    found |= dict(zip(index, allocate(loose, left), strict=True))
    return tuple(found[bank] for bank in sorted(found))


def _total(layers: Layers, size: Ints, limit: Ints) -> int:
    return int(layers.settle(size, limit).cost().sum())


def _least(layers: Layers, floor: Sequence[int] | None) -> Ints:
    """Return [banks] the size of fewest elements and masks together, but at least ``floor``.

    For T tiles that is ceil(n / T), and T is near sqrt(n) / 3: the sum n / T + 9 (T - 1) rises by
    9 (dT)^2 / T around it, and rounding hides at most 2 elements, hence the width. Windows of less
    than 9 elements cost n at any size.
    """
    n = layers.n_mask
    centre = np.sqrt(n).astype(np.int64) // 3
    width = int(np.sqrt(centre.max())) + 12
    tiles = np.maximum(1, centre[:, None] + np.arange(-width, width + 1))
    sizes = np.maximum(1, -(-n[:, None] // tiles))
    cost = sizes + masks_of(n[:, None], sizes)
    # A layer alone in its bank saves its scalar where it is an ordinary parameter.
    alone = (layers.single & layers.scale[layers.closing])[:, None]
    cost += alone & (sizes != layers.n_max[:, None])
    found = sizes[np.arange(len(n)), np.argmin(cost, axis=1)]
    return found if floor is None else np.maximum(found, np.asarray(floor, np.int64))


@dataclass(slots=True)
class _State:
    """Sizes and limits that are affordable, and what is left of the budget.

    Attributes:
        layers: what is allocated.
        limit: [layers] most templates.
        size: [banks] elements, each a size that `Layers.settle` leaves as it is.
        cost: [banks] parameters.
        left: parameters.
    """

    layers: Layers
    limit: Ints
    size: Ints
    cost: Ints
    left: int

    @property
    def ordinary(self) -> Flags:
        """[banks] whether the bank is an ordinary parameter."""
        return self.layers.single & (self.size == self.layers.n_max)


def _search(layers: Layers, least: Ints, available: int) -> Laid:
    """Spend a budget that is enough for the least sizes."""
    limit = layers.limit
    if _total(layers, least, limit) > available:
        # Not even the coefficients fit.
        limit = _lowered(layers, least, limit, available)
        laid = above = layers.settle(least, limit)
    else:
        laid, above = _largest_share(layers, least, available)
    cost = laid.cost()
    state = _State(layers, limit, laid.size.copy(), cost, available - int(cost.sum()))
    for ordinary_too in (False, True):
        if ordinary_too and state.left * _ORDINARY_SHARE <= available:
            break
        movable = state.ordinary == ordinary_too
        _step(state, above, movable)
        room = layers.cap(state.limit) - state.size
        # First the banks whose next step was too dear, then those with most room.
        order = np.lexsort((-room, above.size <= state.size))
        for bank in order[(movable & (room > 0))[order]][:_OFFERS].tolist():
            if state.left < _SPARE and state.left * _SPARE_SHARE <= available:
                break
            _offer(state, bank)
    return layers.settle(state.size, state.limit)


def _rounded(layers: Layers, target: Ints, least: Ints) -> Ints:
    """Return [banks] the sizes near ``target`` that keep blocks aligned and nothing dead."""
    cap, n_max = layers.cap(layers.limit), layers.n_max
    size = np.where(target >= _ROUND_FROM, target // _ROUND * _ROUND, target)
    size = np.maximum(np.maximum(size, least), np.where(target >= n_max, n_max, 0))
    return np.where(target >= cap, cap, size)


def _largest_share(layers: Layers, least: Ints, available: int) -> tuple[Laid, Laid]:
    """Return the banks at the largest affordable share of their weights, and just above it."""
    total, cap, n_max = layers.total, layers.cap(layers.limit), layers.n_max

    def at(share: float) -> Laid:
        target = np.minimum(share * total, cap).astype(np.int64)
        near = layers.single & (np.abs(target - n_max) * _NEAR <= n_max)
        size = np.where(near, n_max, _rounded(layers, target, least))
        return layers.settle(size, layers.limit)

    low, high = 0.0, 2 * float((cap / total).max())
    below, above = at(low), at(high)
    if above.cost().sum() <= available:
        return above, above
    share = 1.0
    while (high - low) * float(total.max()) > 0.5:
        laid = at(share)
        if laid.cost().sum() <= available:
            low, below = share, laid
        else:
            high, above = share, laid
        share = (low + high) / 2
    return below, above


def _step(state: _State, above: Laid, movable: Flags) -> None:
    """Take the banks to their next size, in order, as far as the budget goes."""
    movable = movable & (above.size > state.size)
    rise = np.where(movable, above.cost() - state.cost, 0)
    spent = np.cumsum(rise)
    affordable = np.flatnonzero(spent <= state.left)
    if len(affordable):
        taken = movable & (np.arange(len(rise)) <= affordable[-1])
        state.size = np.where(taken, above.size, state.size)
        state.cost = np.where(taken, above.cost(), state.cost)
        state.left -= int(spent[affordable[-1]])


def _offer(state: _State, bank: int) -> None:
    """Let one bank use what is left, as far as it can."""
    layers, inside = state.layers.only(bank), state.layers.layers_of(bank)
    limit, least = state.limit[inside], state.size[bank : bank + 1]
    allowance = int(state.cost[bank]) + state.left

    def at(target: int) -> Laid:
        return layers.settle(_rounded(layers, np.array([target]), least), limit)

    low, high = int(least[0]), int(min(layers.cap(limit)[0], allowance))
    best = next_size = at(high)
    if best.cost()[0] > allowance:
        best = layers.settle(least, limit)
        while high - low > 1:
            middle = (low + high) // 2
            laid = at(middle)
            if laid.cost()[0] <= allowance:
                low, best = middle, laid
            else:
                high, next_size = middle, laid
        fewer = _lowered(layers, next_size.size, limit, allowance)
        laid = layers.settle(next_size.size, fewer)
        if best.cost()[0] < laid.cost()[0] <= allowance:
            best, limit = laid, fewer
    cost = int(best.cost()[0])
    if state.cost[bank] < cost <= allowance:
        state.left -= cost - int(state.cost[bank])
        state.size[bank], state.cost[bank] = best.size[0], cost
        state.limit = state.limit.copy()
        state.limit[inside] = limit


def _lowered(layers: Layers, size: Ints, limit: Ints, available: int) -> Ints:
    """Return [layers] the highest limits at which these sizes are affordable.

    All layers get the same limit, and the largest of them one more: with ``q`` rising by one, one
    more layer may have one more template. If not even one template each is affordable, that is
    what is returned.
    """
    count = len(layers.n)
    rank = np.empty(count, np.int64)
    rank[np.argsort(layers.n, kind="stable")] = np.arange(count)
    low, high = count, count * int(limit.max())
    while high - low > 1:
        q = (low + high) // 2
        affordable = _total(layers, size, np.minimum(limit, (q + rank) // count)) <= available
        low, high = (q, high) if affordable else (low, q)
    return np.minimum(limit, (low + rank) // count)
