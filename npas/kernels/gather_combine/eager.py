"""`gather_combine` with PyTorch's own operators: the CPU path, and the fallback elsewhere.

One template at a time, so that a temporary is as large as the rows looked up, not K times that.
"""

from collections.abc import Iterator, Sequence

import torch

from npas.kernels.accumulate import sum_dtype
from npas.kernels.combine.table import Row


def _templates(theta: torch.Tensor, row: Row, cols: int) -> Iterator[torch.Tensor]:
    """Yield each template as a [rows, cols] view of the bank."""
    for t in range(row.k):
        start = row.base + t * row.stride
        yield theta[start : start + row.n].view(-1, cols)


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    row: Row,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate rows; see `npas.kernels.gather_combine.reference.gather_combine`."""
    kept = sum_dtype(theta, coef)
    flat_ids = ids.reshape(-1)
    factors = coef[row.offset : row.offset + row.k].to(kept)
    out = theta.new_zeros(flat_ids.numel(), cols, dtype=kept)
    for factor, template in zip(factors, _templates(theta.contiguous(), row, cols), strict=True):
        out.addcmul_(template.index_select(0, flat_ids).to(kept), factor)
    return out.to(dtype).view(*ids.shape, cols)


def gather_combine_backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    row: Row,
    cols: int,
    ids: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of bank and coefficients; an empty tensor where one is not needed."""
    need_theta, need_coef = needs
    kept = sum_dtype(theta, coef)
    flat_ids = ids.reshape(-1)
    rows = grad.reshape(-1, cols).to(kept)
    factors = coef[row.offset : row.offset + row.k].to(kept)
    d_theta = theta.new_zeros(theta.numel() if need_theta else 0, dtype=kept)
    d_coef = coef.new_zeros(coef.numel() if need_coef else 0, dtype=kept)
    if need_theta:
        for factor, template in zip(factors, _templates(d_theta, row, cols), strict=True):
            template.index_add_(0, flat_ids, rows * factor)
    if need_coef:
        for t, template in enumerate(_templates(theta.contiguous(), row, cols)):
            found = template.index_select(0, flat_ids).to(kept)
            d_coef[row.offset + t] = found.mul_(rows).sum()
    return d_theta.to(theta.dtype), d_coef.to(coef.dtype)
