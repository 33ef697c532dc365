"""`combine` with PyTorch's own operators: the CPU path, and the fallback on other devices.

A weight is a matrix-vector product on a strided view of the bank, which BLAS runs at about the
speed of a copy; `(T * alpha[:, None]).sum(0)` writes and reads K * n elements more.
"""

import functools
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
    place: int  # in the bank
    stride: int

    def view(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the [k, hi - lo] view of a contiguous bank."""
        size = (self.k, self.hi - self.lo)
        return theta.as_strided(size, (self.stride, 1), theta.storage_offset() + self.place)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A row of the table, where its weight stands in the output, and how it is computed.

    Attributes:
        row: of the table.
        start: of the weight in the output.
        groups: blocks that make the same columns, a tuple for each range of columns.
    """

    row: Row
    start: int
    groups: tuple[tuple[_Block, ...], ...]


# A table is a constant of its layer, and called with at every step.
@functools.lru_cache(maxsize=4096)
def _weights(table: tuple[int, ...], cast: bool) -> tuple[_Weight, ...]:
    return tuple(
        _Weight(row, start, tuple(_blocks(row, cast=cast)))
        for row, start in zip(rows_of(table), starts(table[3::ROW])[0], strict=True)
    )


def _blocks(row: Row, *, cast: bool) -> Iterator[tuple[_Block, ...]]:
    """Cut a weight's templates into blocks whose rows do not overlap: a tuple for some columns.

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
        stride = max(row.stride, hi - lo)
        yield tuple(
            _Block(t, step, lo, hi, row.base + t * row.stride + lo, stride)
            for t in range(0, row.k, step)
        )


def factors_of(
    row: Row, coef: torch.Tensor, gain: torch.Tensor | None, kept: torch.dtype
) -> torch.Tensor:
    """Return what a weight's templates are multiplied by: [k], its gain included."""
    if row.offset == AVERAGE:
        factors = coef.new_full((row.k,), 1 / row.k, dtype=kept)
    else:
        factors = coef[row.offset : row.offset + row.k].to(kept)
    return factors if gain is None else factors * gain.to(kept)


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
        for index, made in enumerate(_weights(tuple(table), cast)):
            row, start = made.row, made.start
            if end < start:
                out[end:start].zero_()
            end = start + row.n
            factors = factors_of(row, coef, None if gain is None else gain[index], kept)
            for blocks in made.groups:
                weight = out[start + blocks[0].lo : start + blocks[0].hi]
                total = torch.empty_like(weight, dtype=kept) if cast else weight
                for block in blocks:
                    templates = block.view(theta).to(kept)
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
        for index, made in enumerate(_weights(tuple(table), cast)):
            row, start = made.row, made.start
            own_gain = None if gain is None else gain[index]
            factors = factors_of(row, coef, own_gain, kept)
            need_coef = bool(d_coef.numel()) and row.offset != AVERAGE
            sums = theta.new_zeros(row.k, dtype=kept) if need_coef else d_coef
            for block in chain.from_iterable(made.groups):
                part = grad[start + block.lo : start + block.hi].to(kept)
                span = slice(block.t, block.t + block.k)
                if d_theta.numel():
                    target = block.view(d_theta)
                    if block.k == 1:
                        target[0].addcmul_(part, factors[span])
                    else:
                        target.addr_(factors[span], part)
                if need_coef:
                    templates = block.view(theta).to(kept)
                    for lo in range(0, len(part), SUM_COLUMNS):
                        columns = slice(lo, lo + SUM_COLUMNS)
                        sums[span].addmv_(templates[:, columns], part[columns])
            if need_coef:
                found = d_coef[row.offset : row.offset + row.k]
                found.add_(sums if own_gain is None else sums * own_gain.to(kept))
