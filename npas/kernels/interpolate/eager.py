"""`interpolate` with PyTorch's own operators: the CPU path, and the fallback on other devices."""

from collections.abc import Sequence

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


def interpolate_backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of bank and coefficient; an empty tensor where one is not needed."""
    need_theta, need_coef = needs
    kept, size = sum_dtype(theta, coef), theta.numel()
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
    d_theta = total * coef.to(kept) if need_theta else total.new_empty(0)
    d_coef = (theta.to(kept) * total).sum().reshape(1) if need_coef else total.new_empty(0)
    return d_theta.to(theta.dtype), d_coef.to(coef.dtype)
