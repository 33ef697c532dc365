"""`combine` with PyTorch's own operators: the CPU path, and the fallback on other devices.

A weight is a matrix-vector product on a strided view of the bank, which BLAS runs at about the
speed of a copy; `(T * alpha[:, None]).sum(0)` writes and reads K * n elements more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from npas.kernels.accumulate import autocast_off, sum_dtype
from npas.kernels.combine.table import Row, output_size, rows_of

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


def combine(
    theta: torch.Tensor, coef: torch.Tensor, table: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """Generate the weights of a table; see `npas.kernels.combine.reference.combine`."""
    theta = theta.contiguous()
    kept = sum_dtype(theta, coef)
    cast = theta.dtype != kept or dtype != kept
    coef = coef.to(kept).contiguous()
    out = theta.new_empty(output_size(table), dtype=dtype)
    start = 0
    with autocast_off(theta):
        for row in rows_of(table):
            part = out[start : start + row.n]
            for blocks in _blocks(row, cast=cast):
                weight = part[blocks[0].lo : blocks[0].hi]
                total = torch.empty_like(weight, dtype=kept) if cast else weight
                for block in blocks:
                    templates = block.view(theta, row).to(kept).t()
                    first = row.offset + block.t
                    factors = coef[first : first + block.k]
                    torch.addmv(total, templates, factors, beta=min(block.t, 1), out=total)
                if cast:
                    weight.copy_(total)
            start += row.n
    return out


def combine_backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of bank and coefficients; an empty tensor where one is not needed."""
    theta, grad = theta.contiguous(), grad.contiguous()
    need_theta, need_coef = needs
    kept = sum_dtype(theta, coef)
    coefficients = coef.to(kept).contiguous()
    d_theta = theta.new_zeros(theta.numel() if need_theta else 0, dtype=kept)
    d_coef = coefficients.new_zeros(coef.numel() if need_coef else 0)
    cast = theta.dtype != kept or grad.dtype != kept
    start = 0
    with autocast_off(theta):
        for row in rows_of(table):
            for block in chain.from_iterable(_blocks(row, cast=cast)):
                part = grad[start + block.lo : start + block.hi].to(kept)
                span = slice(row.offset + block.t, row.offset + block.t + block.k)
                if need_theta:
                    block.view(d_theta, row).addr_(coefficients[span], part)
                if need_coef:
                    templates = block.view(theta, row).to(kept)
                    for lo in range(0, len(part), SUM_COLUMNS):
                        columns = slice(lo, lo + SUM_COLUMNS)
                        d_coef[span].addmv_(templates[:, columns], part[columns])
            start += row.n
    return d_theta.to(theta.dtype), d_coef.to(coef.dtype)
