"""The definition of `gather_tile_mask` in plain PyTorch: the whole weight, then its rows."""

import torch

from npas.kernels.tile_mask import reference


def gather_tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Look up rows of the weight that `tile_mask` makes.

    Args:
        theta: [N] the bank.
        mask: [M] multipliers of tile 1, tile 2, ..., or [0] for plain repetition.
        coef: [1] factor of the whole weight.
        n: elements of the weight, more than N.
        cols: columns of the weight as a matrix.
        ids: int64 of any shape: rows.
        dtype: of the output; the bank's own if None.

    Returns:
        [*ids.shape, cols] the rows.
    """
    return reference.tile_mask(theta, mask, coef, [n], dtype).view(-1, cols)[ids]
