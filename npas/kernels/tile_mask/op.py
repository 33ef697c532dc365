"""The op `npas::tile_mask`: dispatch, shapes for fake tensors, autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_grad
from npas.kernels.gradient import empty_gradients, register_gradient
from npas.kernels.tile_mask import eager
from npas.kernels.tile_mask.tiles import check_tiles


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Generate a weight larger than its bank (3.1.2): the bank repeated, later tiles masked.

    With ``t, p = divmod(e, N)`` and ``w = min(9, N)``, element ``e`` of the weight is
    ``coef * theta[p]``, times ``mask[w * (t - 1) + p % w]`` where ``t > 0``, made in float32
    (float64 where an input has it). Differentiable once with respect to the three tensors; the
    same inputs give the same bits. Never returns a view of an input.

    Args:
        theta: [N] float, the bank.
        mask: [M] float, shared with the bank's other layers: M is at least `mask_size(N, n)`, and
            what is more is not read. Of no elements: plain repetition.
        coef: [1] float, factor of the whole weight.
        n: elements of the weight, more than N. The last tile may be cut off.
        dtype: of the output; the bank's own if None.

    Returns:
        [n] the weight.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, ``n`` is not larger than the
            bank, or the mask is too short.
    """
    return _call(theta, mask, coef, n, dtype)


@torch.library.custom_op("npas::tile_mask", mutates_args=())
def _forward(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_tiles("tile_mask", theta, mask, coef, n)
    return eager.tile_mask(theta, mask, coef, n, dtype or theta.dtype)


@torch.library.custom_op("npas::tile_mask_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_tiles("tile_mask_backward", theta, mask, coef, n)
    check_grad("tile_mask_backward", grad, (n,))
    return eager.tile_mask_backward(grad, theta, mask, coef, needs)


@_forward.register_fake
def _(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    check_tiles("tile_mask", theta, mask, coef, n)
    return theta.new_empty(n, dtype=dtype or theta.dtype)


@_backward.register_fake
def _(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    del grad, n
    return empty_gradients(needs, theta, mask, coef)


_call = register_gradient(_forward, _backward, n_tensors=3)
