"""`combine` with PyTorch's own operators: the CPU path, and the fallback on other devices.

A weight is a matrix-vector product on a strided view of the bank, which BLAS runs at about the
speed of a copy; `(T * alpha[:, None]).sum(0)` writes and reads K * n elements more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from npas.kernels.accumulate import autocast_off, sum_dtype
from npas.kernels.combine.table import AVERAGE, ROW, Row, output_size, rows_of, starts

# Elements of the bank that are cast to float32 at a time: 1 MB stays in the second-level cache.
CAST_ELEMENTS = 1 << 18
# Columns that BLAS sums at a time for the coefficients' gradient. It adds them up one after the
# other: over 1M columns the error is 5 times that of blocks of 16,384, which take 0.5 ms longer.
SUM_COLUMNS = 1 << 14


@dataclass(frozen=True, slots=True)
class _Block:
    """``k`` templates from the ``t``-th on, columns ``lo`` to ``hi``: a view without overlap."""

    t: int
    k: int
    lo: int
    hi: int

    def view(self, theta: torch.Tensor, row: Row) -> torch.Tensor:
        """Return the [k, hi - lo] view of the bank."""
        start = theta[row.base + self.t * row.stride + self.lo :]
        width = self.hi - self.lo
        return start.as_strided((self.k, width), (max(row.stride, width), 1))


def _blocks(row: Row, *, cast: bool) -> Iterator[list[_Block]]:
    """Cut a weight's templates into blocks whose rows do not overlap: a list for some columns.

    BLAS needs rows that are at least their width apart; `torch.mv` copies a view that breaks this
    (measured: 9 times slower), and an in-place sum into it is an error. So the columns are cut at
    the stride, or the templates are taken one at a time where that makes fewer blocks.
    """
    width, step = row.n, row.k
    if row.k > 1 and row.stride < row.n:
        if -(-row.n // row.stride) <= row.k:
            width = row.stride
        else:
            step = 1
    if cast:
        width = min(width, max(1, CAST_ELEMENTS // step))
    for lo in range(0, row.n, width):
        hi = min(lo + width, row.n)
        yield [_Block(t, step, lo, hi) for t in range(0, row.k, step)]


def factors_of(
    row: Row, coef: torch.Tensor, gain: torch.Tensor | None, kept: torch.dtype
) -> torch.Tensor:
    """Return what a weight's templates are multiplied by: [k], its gain included."""
    if row.offset == AVERAGE:
        factors = coef.new_full((row.k,), 1 / row.k, dtype=kept)
    else:
        factors = coef[row.offset : row.offset + row.k].to(kept)
    return factors if gain is None else factors * gain.to(kept)


def _rows(
    table: Sequence[int], gain: torch.Tensor | None
) -> Iterator[tuple[Row, int, torch.Tensor | None]]:
    """Yield each row, where its weight starts in the output, and its gain."""
    places = starts(table[3::ROW])[0]
    for index, (row, start) in enumerate(zip(rows_of(table), places, strict=True)):
        yield row, start, None if gain is None else gain[index]


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate the weights of a table; see `npas.kernels.combine.reference.combine`."""
    theta = theta.contiguous()
    kept = sum_dtype(theta, coef)
    cast = theta.dtype != kept or dtype != kept
    out = theta.new_empty(output_size(table), dtype=dtype)
    end = 0
    with autocast_off(theta):
        for row, start, own_gain in _rows(table, gain):
            out[end:start].zero_()
            end = start + row.n
            factors = factors_of(row, coef, own_gain, kept)
            for blocks in _blocks(row, cast=cast):
                weight = out[start + blocks[0].lo : start + blocks[0].hi]
                total = torch.empty_like(weight, dtype=kept) if cast else weight
                for block in blocks:
                    templates = block.view(theta, row).to(kept)
                    if row.k == 1:
                        torch.mul(templates[0], factors, out=total)
                        continue
                    some = factors[block.t : block.t + block.k]
                    torch.addmv(total, templates.t(), some, beta=min(block.t, 1), out=total)
                if cast:
                    weight.copy_(total)
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
    theta, grad = theta.contiguous(), grad.contiguous()
    kept = d_theta.dtype
    cast = theta.dtype != kept or grad.dtype != kept
    with autocast_off(theta):
        for row, start, own_gain in _rows(table, gain):
            factors = factors_of(row, coef, own_gain, kept)
            need_coef = bool(d_coef.numel()) and row.offset != AVERAGE
            sums = theta.new_zeros(row.k if need_coef else 0, dtype=kept)
            for block in chain.from_iterable(_blocks(row, cast=cast)):
                part = grad[start + block.lo : start + block.hi].to(kept)
                span = slice(block.t, block.t + block.k)
                if d_theta.numel():
                    target = block.view(d_theta, row)
                    if block.k == 1:
                        target[0].addcmul_(part, factors[span])
                    else:
                        target.addr_(factors[span], part)
                if need_coef:
                    templates = block.view(theta, row).to(kept)
                    for lo in range(0, len(part), SUM_COLUMNS):
                        columns = slice(lo, lo + SUM_COLUMNS)
                        sums[span].addmv_(templates[:, columns], part[columns])
            if need_coef:
                found = d_coef[row.offset : row.offset + row.k]
                found.add_(sums if own_gain is None else sums * own_gain.to(kept))
