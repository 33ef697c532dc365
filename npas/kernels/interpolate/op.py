"""The op `npas::interpolate`: dispatch, shapes for fake tensors, autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_grad
from npas.kernels.gradient import empty_gradients, register_gradient
from npas.kernels.interpolate import eager
from npas.kernels.interpolate.grid import check_grid


def interpolate(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Generate a weight larger than its bank by resizing the bank bilinearly (3.1.2, `inter`).

    The bank is read as the grid that `grid_of` chooses and resized with aligned corners, in
    float32 (float64 where an input has it), so that each of its elements counts somewhere.
    Differentiable once with respect to both tensors; on the CPU the same inputs give the same
    bits. Never returns a view of an input.

    Args:
        theta: [N] float, the bank.
        coef: [1] float, factor of the whole weight.
        rows: of the weight, as a matrix [out, rest].
        cols: of the weight; ``rows * cols`` is at least N.
        dtype: of the output; the bank's own if None.

    Returns:
        [rows * cols] the weight.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the weight is smaller than
            the bank.
    """
    return _call(theta, coef, rows, cols, dtype)


@torch.library.custom_op("npas::interpolate", mutates_args=())
def _forward(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_grid("interpolate", theta, coef, rows, cols)
    return eager.interpolate(theta, coef, rows, cols, dtype or theta.dtype)


@torch.library.custom_op("npas::interpolate_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    check_grid("interpolate_backward", theta, coef, rows, cols)
    check_grad("interpolate_backward", grad, (rows * cols,))
    return eager.interpolate_backward(grad, theta, coef, rows, cols, needs)


@_forward.register_fake
def _(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_grid("interpolate", theta, coef, rows, cols)
    return theta.new_empty(rows * cols, dtype=dtype or theta.dtype)


@_backward.register_fake
def _(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    del grad, rows, cols
    return empty_gradients(needs, theta, coef)


_call = register_gradient(_forward, _backward, n_tensors=2)
