"""How much of a bank each layer uses, and how many layers use each part of it."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from npas.plan import LayerPlan

Span = tuple[int, int]


def span(layer: LayerPlan, n_bank: int) -> Span:
    """Return the first element of a bank that a layer uses, and the one after its last.

    Its templates leave no gap (`npas.passes.demand.covered`), so this is all that it uses.
    """
    if layer.k == 0:
        return 0, n_bank
    return layer.base, layer.base + (layer.k - 1) * layer.stride + layer.n


def edges(n_bank: int, most: int) -> list[int]:
    """Return where the bins of a bank begin, and its end: at most ``most`` bins, none empty."""
    n_bins = min(n_bank, most)
    return [i * n_bank // n_bins for i in range(n_bins + 1)]


def covered_elements(spans: Sequence[Span], bounds: Sequence[int]) -> list[int]:
    """Return, for each bin, the elements in it times the layers that use each.

    Args:
        spans: one a layer.
        bounds: where bins begin, and the end.
    """
    starts, ends = (sorted(side) for side in zip(*spans, strict=True))
    before_start, before_end = ([0, *accumulate(side)] for side in (starts, ends))

    def used_before(x: int) -> int:
        n, m = bisect_left(starts, x), bisect_left(ends, x)
        return (n * x - before_start[n]) - (m * x - before_end[m])

    used = [used_before(x) for x in bounds]
    return [after - before for before, after in pairwise(used)]


def fewest_and_most(spans: Sequence[Span], n_bank: int) -> tuple[int, int]:
    """Return the fewest and the most layers that use one element."""
    starts, ends = (sorted(side) for side in zip(*spans, strict=True))
    places = {x for pair in spans for x in pair if x < n_bank}
    counts = [bisect_right(starts, x) - bisect_right(ends, x) for x in places | {0}]
    return min(counts), max(counts)


def sharers(spans: Sequence[Span]) -> list[int]:
    """Return, for each layer of a bank, how many others use some of its elements."""
    starts, ends = (sorted(side) for side in zip(*spans, strict=True))
    return [bisect_left(starts, end) - bisect_right(ends, start) - 1 for start, end in spans]
