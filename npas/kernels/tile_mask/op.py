"""The op `npas::tile_mask`: its arguments, and its parts."""

from collections.abc import Sequence

import torch

from npas.kernels.combine.table import starts
from npas.kernels.registration import Definition, register
from npas.kernels.tile_mask import eager, reference
from npas.kernels.tile_mask.tiles import check_tiles


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Generate weights larger than their bank (3.1.2): the bank repeated, later tiles masked.

    With ``t, p = divmod(e, N)`` and ``w = min(9, N)``, element ``e`` of weight i is
    ``coef[i] * theta[p]``, times ``mask[w * (t - 1) + p % w]`` where ``t > 0``, made in float32
    (float64 where an input has it). Differentiable once with respect to the three tensors; the
    same inputs give the same bits. Never returns a view of an input.

    Args:
        theta: [N] float, the bank.
        mask: [M] float, shared by the weights: M is at least `mask_size(N, max(sizes))`, and what
            is more is not read. Of no elements: plain repetition.
        coef: [weights] float, factor of each whole weight.
        sizes: elements of each weight, more than N. The last tile may be cut off.
        dtype: of the output; the bank's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        The weights in the order of ``sizes``, each at the next multiple of 16 elements
        (`npas.kernels.combine.table.starts`), with zeros between: [n] for one weight.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, a weight is not larger than
            the bank, or the mask is too short.
        NpasError: if ``backend="triton"`` cannot run.
    """
    return _op.call(theta, mask, coef, sizes, dtype, backend)


def _check(
    theta: torch.Tensor, mask: torch.Tensor, coef: torch.Tensor, sizes: Sequence[int]
) -> None:
    check_tiles("tile_mask", theta, mask, coef, sizes)


def _shape(*args: object) -> list[int]:
    sizes = args[-1]
    assert isinstance(sizes, Sequence)
    return [starts(sizes)[1]]


_op = register(
    Definition(
        name="tile_mask",
        tensors=("theta", "mask", "coef"),
        constants="int[] sizes",
        check=_check,
        shape=_shape,
        reference=reference.tile_mask,
        eager=eager,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
tile_mask_accumulate = _op.accumulate
