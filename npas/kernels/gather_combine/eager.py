"""`gather_combine` with PyTorch's own operators: the CPU path, and the fallback elsewhere.

One template at a time, so that a temporary is as large as the rows looked up, not K times that.
"""

from collections.abc import Iterator, Sequence

import torch

from npas.kernels.accumulate import sum_dtype
from npas.kernels.combine.eager import factors_of
from npas.kernels.combine.table import AVERAGE, Row


def _templates(theta: torch.Tensor, row: Row, cols: int) -> Iterator[torch.Tensor]:
    """Yield each template as a [rows, cols] view of the bank."""
    for t in range(row.k):
        start = row.base + t * row.stride
        yield theta[start : start + row.n].view(-1, cols)


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate rows; see `npas.kernels.gather_combine.reference.gather_combine`."""
    row, kept = Row(*table_row), sum_dtype(theta, coef)
    flat_ids = ids.reshape(-1)
    factors = factors_of(row, coef, None if gain is None else gain[0], kept)
    out = theta.new_zeros(flat_ids.numel(), cols, dtype=kept)
    for factor, template in zip(factors, _templates(theta.contiguous(), row, cols), strict=True):
        out.addcmul_(template.index_select(0, flat_ids).to(kept), factor)
    return out.to(dtype).view(*ids.shape, cols)


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of bank and coefficients to buffers, of no elements where not wanted."""
    row, kept = Row(*table_row), d_theta.dtype
    flat_ids = ids.reshape(-1)
    rows = grad.reshape(-1, cols).to(kept)
    if d_theta.numel():
        factors = factors_of(row, coef, None if gain is None else gain[0], kept)
        for factor, template in zip(factors, _templates(d_theta, row, cols), strict=True):
            template.index_add_(0, flat_ids, rows * factor)
    if d_coef.numel() and row.offset != AVERAGE:
        scale = 1 if gain is None else gain[0].to(kept)
        for t, template in enumerate(_templates(theta.contiguous(), row, cols)):
            found = template.index_select(0, flat_ids).to(kept)
            d_coef[row.offset + t] += found.mul_(rows).sum() * scale
