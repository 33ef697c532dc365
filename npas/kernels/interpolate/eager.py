"""`interpolate` with PyTorch's own operators: the CPU path, and the fallback on other devices."""

import torch

from npas.kernels.accumulate import autocast_off, sum_dtype
from npas.kernels.interpolate.grid import as_grid, grid_of

_aten = torch.ops.aten


def interpolate(
    theta: torch.Tensor, coef: torch.Tensor, rows: int, cols: int, dtype: torch.dtype
) -> torch.Tensor:
    """Generate one weight; see `npas.kernels.interpolate.reference.interpolate`."""
    kept = sum_dtype(theta, coef)
    image = as_grid(theta.to(kept) * coef.to(kept), *grid_of(theta.numel(), rows, cols))
    with autocast_off(theta):
        resized = _aten.upsample_bilinear2d.default(image[None, None], [rows, cols], True)
    return resized.view(-1).to(dtype)


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of bank and coefficient to buffers, of no elements where not wanted."""
    kept, size = d_theta.dtype, theta.numel()
    r, c = grid_of(size, rows, cols)
    image = grad.contiguous().to(kept).view(1, 1, rows, cols)
    with autocast_off(theta):
        found = _aten.upsample_bilinear2d_backward.default(
            image, [rows, cols], [1, 1, r, c], True
        ).view(-1)
    # Grid points beyond the bank's end belong to its beginning.
    total = found[:size].clone()
    for start in range(size, r * c, size):
        rest = found[start : start + size]
        total[: rest.numel()] += rest
    if d_theta.numel():
        d_theta.addcmul_(total, coef.to(kept))
    if d_coef.numel():
        d_coef.add_((theta.to(kept) * total).sum())
