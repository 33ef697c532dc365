"""The op `npas::gather_tile_mask`: dispatch, shapes for fake tensors, autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_grad, check_ids
from npas.kernels.gather_tile_mask import eager
from npas.kernels.gradient import empty_gradients, register_gradient
from npas.kernels.tile_mask.tiles import check_tiles


def gather_tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Generate only the rows that are looked up of a weight larger than its bank.

    Equal to ``tile_mask(theta, mask, coef, n).view(-1, cols)[ids]``. Differentiable once with
    respect to the three float tensors; on the CPU the same inputs give the same bits.

    Args:
        theta: [N] float, the bank.
        mask: [M] float, see `tile_mask`; of no elements: plain repetition.
        coef: [1] float, factor of the whole weight.
        n: elements of the weight, more than N.
        cols: columns of the weight, a divisor of n.
        ids: int64 or int32 of any shape: rows, which may repeat.
        dtype: of the output; the bank's own if None.

    Returns:
        [*ids.shape, cols] the rows.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, ``n`` is not larger than the
            bank, or the mask is too short.
        IndexError: on the CPU, if an id is not a row of the weight.
    """
    return _call(theta, mask, coef, n, cols, ids, dtype)


@torch.library.custom_op("npas::gather_tile_mask", mutates_args=())
def _forward(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_tiles("gather_tile_mask", theta, mask, coef, n)
    check_ids("gather_tile_mask", ids, theta.device, n, cols)
    return eager.gather_tile_mask(theta, mask, coef, cols, ids, dtype or theta.dtype)


@torch.library.custom_op("npas::gather_tile_mask_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_tiles("gather_tile_mask_backward", theta, mask, coef, n)
    check_ids("gather_tile_mask_backward", ids, theta.device, n, cols)
    check_grad("gather_tile_mask_backward", grad, (*ids.shape, cols))
    return eager.gather_tile_mask_backward(grad, theta, mask, coef, cols, ids, needs)


@_forward.register_fake
def _(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_tiles("gather_tile_mask", theta, mask, coef, n)
    check_ids("gather_tile_mask", ids, theta.device, n, cols)
    return theta.new_empty(*ids.shape, cols, dtype=dtype or theta.dtype)


@_backward.register_fake
def _(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    del grad, n, cols, ids
    return empty_gradients(needs, theta, mask, coef)


_call = register_gradient(_forward, _backward, n_tensors=3)
