"""The op `npas::interpolate`: its arguments, and its parts."""

import torch

from npas.kernels.interpolate import eager, reference
from npas.kernels.interpolate.grid import check_grid
from npas.kernels.registration import Definition, register


def interpolate(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
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
        backend: one of `npas.kernels.backends.BACKENDS`; PyTorch's operators run on every device.

    Returns:
        [rows * cols] the weight.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the weight is smaller than
            the bank.
    """
    return _op.call(theta, coef, rows, cols, dtype, backend)


def _check(theta: torch.Tensor, coef: torch.Tensor, rows: int, cols: int) -> None:
    check_grid("interpolate", theta, coef, rows, cols)


def _shape(theta: torch.Tensor, coef: torch.Tensor, rows: int, cols: int) -> list[int]:
    del theta, coef
    return [rows * cols]


_op = register(
    Definition(
        name="interpolate",
        tensors=("theta", "coef"),
        constants="int rows, int cols",
        check=_check,
        shape=_shape,
        reference=reference.interpolate,
        eager=eager,
        has_kernels=False,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
interpolate_accumulate = _op.accumulate
