"""`combine` with PyTorch's own operators: the CPU path, and the fallback on other devices.

Nothing as large as K * n is made, as ``(T * alpha[:, None]).sum(0)`` does: templates are added one
after the other to the weight, which stays in the cache, or are the matrix of a matrix-vector
product where that costs fewer calls.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from npas.kernels.accumulate import autocast_off, sum_dtype
from npas.kernels.combine.table import AVERAGE, ROW, Row, output_size, rows_of, starts

# Columns that are added up at a time: 16 MB of float32 stay in a last-level cache.
COLUMNS = 1 << 22
# Columns at a time where they are cast to float32: the copy of 1 MB stays in the second level.
CAST_COLUMNS = 1 << 18
# Elements of the bank that are gone over at a time backward: with its gradient 8 MB of float32. Of
# 12M elements under 72 layers, 114 ms; in tiles of 262,144, more calls, 133 ms.
TILE = 1 << 20
# Weights up to this size are matrix-vector products: 16 templates of 16,384 take 0.03 ms instead of
# 0.12. Beyond it BLAS is slower: 4 templates of 2.4M take 2.1 ms instead of 1.4.
SMALL = 1 << 17
# Elements of a dot product for the coefficients' gradient. BLAS adds them up in a few running sums:
# over 2.4M elements the error is 10 times that of pieces of 65,536, which take as long.
DOT = 1 << 16

# A weight of the table, and where it starts in the output.
_Placed = tuple[Row, int]


# A table is a constant of its layer, and called with at every step.
@functools.lru_cache(maxsize=4096)
def _placed(table: tuple[int, ...]) -> tuple[_Placed, ...]:
    return tuple(zip(rows_of(table), starts(table[3::ROW])[0], strict=True))


def is_disjoint(row: Row) -> bool:
    """Tell whether no element of the bank is in two of a weight's templates.

    Only then is the view of its templates one that BLAS takes as it is (it copies another one: 9
    times slower) and that can be changed in place.
    """
    return row.k == 1 or row.stride >= row.n


def _matrix(bank: torch.Tensor, row: Row) -> torch.Tensor:
    """Return the templates as a [k, n] view of a contiguous bank."""
    stride = row.stride if row.k > 1 else row.n
    return bank.as_strided((row.k, row.n), (stride, 1), bank.storage_offset() + row.base)


def _templates(bank: torch.Tensor, row: Row) -> Iterator[torch.Tensor]:
    """Yield the templates as views of the bank: [n] each."""
    for t in range(row.k):
        first = row.base + t * row.stride
        yield bank[first : first + row.n]


def factors_of(
    row: Row, coef: torch.Tensor, gain: torch.Tensor | None, kept: torch.dtype
) -> torch.Tensor:
    """Return what a weight's templates are multiplied by: [k], its gain included."""
    if row.offset == AVERAGE:
        factors = coef.new_full((row.k,), 1 / row.k, dtype=kept)
    else:
        factors = coef[row.offset : row.offset + row.k].to(kept)
    return factors if gain is None else factors * gain.to(kept)


def _numbers(factors: torch.Tensor) -> Sequence[Any]:
    """Return factors one by one: as numbers on the CPU, where that costs nothing."""
    return factors.tolist() if factors.device.type == "cpu" else factors.unbind()


def _add(total: torch.Tensor, part: torch.Tensor, factor: Any) -> None:
    """Add ``part`` times ``factor``; by a number it takes 0.26 ms where a tensor takes 0.33."""
    if isinstance(factor, torch.Tensor):
        total.addcmul_(part, factor)
    else:
        total.add_(part, alpha=factor)


def combine_into(
    weight: torch.Tensor, theta: torch.Tensor, factors: torch.Tensor, row: Row
) -> None:
    """Write the weight of one row.

    Args:
        weight: [n], written.
        theta: [N] the contiguous bank.
        factors: [k] from `factors_of`, in the dtype of the sum.
        row: of the table.
    """
    kept = factors.dtype
    cast = theta.dtype != kept or weight.dtype != kept
    if row.k > 1 and row.n <= SMALL and is_disjoint(row) and not cast:
        torch.addmv(weight, _matrix(theta, row).t(), factors, beta=0, out=weight)
        return
    columns = CAST_COLUMNS if cast else COLUMNS
    first, *others = _numbers(factors)
    pieces = zip(*(template.split(columns) for template in _templates(theta, row)), strict=True)
    for target, parts in zip(weight.split(columns), pieces, strict=True):
        total = torch.empty_like(target, dtype=kept) if cast else target
        torch.mul(parts[0].to(kept), first, out=total)
        for part, factor in zip(parts[1:], others, strict=True):
            _add(total, part.to(kept), factor)
        if cast:
            target.copy_(total)


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate the weights of a table; see `npas.kernels.combine.reference.combine`."""
    theta, kept = theta.contiguous(), sum_dtype(theta, coef)
    out = theta.new_empty(output_size(table), dtype=dtype)
    end = 0
    with autocast_off(theta):
        rows = _placed(tuple(table))
        if len(rows) == 1:  # a layer's own call, where every view costs as much as the work
            row = rows[0][0]
            combine_into(out, theta, factors_of(row, coef, gain, kept), row)
            return out
        for index, (row, start) in enumerate(rows):
            if end < start:
                out[end:start].zero_()
            end = start + row.n
            factors = factors_of(row, coef, None if gain is None else gain[index], kept)
            combine_into(out[start:end], theta, factors, row)
    return out


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of bank and coefficients to buffers, of no elements where not wanted."""
    theta, grad, key = theta.contiguous(), grad.contiguous(), tuple(table)
    rows = _placed(key)
    with autocast_off(theta):
        if len(rows) == 1 and _is_small(rows[0][0]):
            _accumulate_row(grad, theta, coef, gain, rows[0][0], d_theta, d_coef)
            return
        gains = [None] * len(rows) if gain is None else list(gain.unbind())
        for (row, start), own_gain in zip(rows, gains, strict=True):
            if _is_small(row):
                part = grad[start : start + row.n]
                _accumulate_row(part, theta, coef, own_gain, row, d_theta, d_coef)
        if _pieces(key):
            _accumulate_tiles(grad, theta, coef, gains, key, d_theta, d_coef)


def _accumulate_row(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    row: Row,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of a small weight: one matrix operation for each buffer."""
    kept = d_theta.dtype
    grad = grad.to(kept)
    if d_theta.numel():
        _matrix(d_theta, row).addr_(factors_of(row, coef, gain, kept), grad)
    if d_coef.numel() and row.offset != AVERAGE:
        _add_coefficients(d_coef, torch.mv(_matrix(theta, row).to(kept), grad), row, gain)


def _accumulate_tiles(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gains: Sequence[torch.Tensor | None],
    table: tuple[int, ...],
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of the large weights, tile after tile of the bank."""
    rows, pieces, kept = _placed(table), _pieces(table), d_theta.dtype
    numbers: dict[int, Sequence[Any]] = {}
    sums: dict[int, list[list[torch.Tensor]]] = {}
    for index in dict.fromkeys(piece.row for piece in pieces):
        row = rows[index][0]
        if d_theta.numel():
            numbers[index] = _numbers(factors_of(row, coef, gains[index], kept))
        if d_coef.numel() and row.offset != AVERAGE:
            sums[index] = [[] for _ in range(row.k)]
    for piece in pieces:
        part = grad[piece.place : piece.place + piece.n].to(kept)
        span = slice(piece.first, piece.first + piece.n)
        if piece.row in numbers:
            _add(d_theta[span], part, numbers[piece.row][piece.t])
        if piece.row in sums:
            pairs = zip(theta[span].split(DOT), part.split(DOT), strict=True)
            sums[piece.row][piece.t] += (torch.dot(a.to(kept), b) for a, b in pairs)
    for index, found in sums.items():
        totals = torch.stack([torch.stack(each).sum() for each in found])
        _add_coefficients(d_coef, totals, rows[index][0], gains[index])


def _add_coefficients(
    d_coef: torch.Tensor, found: torch.Tensor, row: Row, gain: torch.Tensor | None
) -> None:
    target = d_coef[row.offset : row.offset + row.k]
    target.add_(found if gain is None else found * gain.to(found.dtype))


def _is_small(row: Row) -> bool:
    """Tell whether one matrix operation for all templates takes the place of a call for each.

    4 templates of 50,000 take 38 us and not 103. Longer ones would too, but each coefficient's sum
    is then longer than `DOT`.
    """
    return row.n <= max(DOT, SMALL // row.k) and is_disjoint(row)


class _Piece(NamedTuple):
    """What a tile of the bank and a window have in common."""

    tile: int
    row: int
    t: int
    first: int  # in the bank
    place: int  # in grad
    n: int


@functools.lru_cache(maxsize=4096)
def _pieces(table: tuple[int, ...]) -> tuple[_Piece, ...]:
    """Cut the windows of all large weights at the tiles of the bank, tile after tile.

    So the bank and its gradient pass through the cache once, not once a layer: for the 72 layers of
    12 transformer blocks on one bank of 12M that is 1.5 GB instead of 4.4.
    """
    found: list[_Piece] = []
    for index, (row, start) in enumerate(_placed(table)):
        for t in range(0 if _is_small(row) else row.k):
            window = row.base + t * row.stride
            first, end = window, window + row.n
            while first < end:
                stop = min(first - first % TILE + TILE, end)
                place = start + first - window
                found.append(_Piece(first // TILE, index, t, first, place, stop - first))
                first = stop
    return tuple(sorted(found))
