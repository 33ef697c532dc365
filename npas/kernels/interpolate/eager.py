"""`interpolate` with PyTorch's own operators: the CPU path, and the fallback on other devices."""

import torch

from npas.kernels.common import autocast_off, sum_dtype
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
    need_theta: bool,
    need_coef: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of bank and coefficient; an empty tensor where one is not needed."""
    kept, size = sum_dtype(theta, coef), theta.numel()
    r, c = grid_of(size, rows, cols)
    image = grad.to(kept).reshape(1, 1, rows, cols)
    with autocast_off(theta):
        found = _aten.upsample_bilinear2d_backward.default(
            image, [rows, cols], [1, 1, r, c], True
        ).view(-1)
        # Grid points beyond the bank's end belong to its beginning.
        total = found[:size].clone()
        for start in range(size, r * c, size):
            rest = found[start : start + size]
            total[: rest.numel()] += rest
        d_coef = torch.dot(theta.to(kept), total).reshape(1)
    d_theta = total * coef.to(kept)
    return (
        (d_theta if need_theta else d_theta[:0]).to(theta.dtype),
        (d_coef if need_coef else d_coef[:0]).to(coef.dtype),
    )
