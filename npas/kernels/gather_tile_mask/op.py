"""The op `npas::gather_tile_mask`: its arguments, and its parts."""

import torch

from npas.kernels.checks import check_ids
from npas.kernels.gather_tile_mask import eager, reference
from npas.kernels.registration import Definition, register
from npas.kernels.tile_mask.tiles import check_tiles


def gather_tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Generate only the rows that are looked up of a weight larger than its bank.

    Equal to ``tile_mask(theta, mask, coef, [n]).view(-1, cols)[ids]``. Differentiable once with
    respect to the three float tensors; on the CPU the same inputs give the same bits.

    Args:
        theta: [N] float, the bank.
        mask: [M] float, see `tile_mask`; of no elements: plain repetition.
        coef: [1] float, factor of the whole weight.
        n: elements of the weight, more than N.
        cols: columns of the weight, a divisor of n.
        ids: int64 or int32 of any shape: rows, which may repeat.
        dtype: of the output; the bank's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        [*ids.shape, cols] the rows.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, ``n`` is not larger than the
            bank, or the mask is too short.
        IndexError: on the CPU, if an id is not a row of the weight.
        NpasError: if ``backend="triton"`` cannot run.
    """
    return _op.call(theta, mask, coef, n, cols, ids, dtype, backend)


def _check(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
) -> None:
    check_tiles("gather_tile_mask", theta, mask, coef, [n])
    check_ids("gather_tile_mask", ids, theta.device, n, cols)


def _shape(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
) -> list[int]:
    del theta, mask, coef, n
    return [*ids.shape, cols]


_op = register(
    Definition(
        name="gather_tile_mask",
        tensors=("theta", "mask", "coef"),
        constants="int n, int cols, Tensor ids",
        check=_check,
        shape=_shape,
        reference=reference.gather_tile_mask,
        eager=eager,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
gather_tile_mask_accumulate = _op.accumulate
