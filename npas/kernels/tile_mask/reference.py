"""The definition of `tile_mask` in plain PyTorch: slow, and differentiable by autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.combine.table import starts
from npas.kernels.tile_mask.tiles import window_of


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Repeat the bank, times the mask after the first tile, in the dtype of the inputs.

    Args:
        theta: [N] the bank.
        mask: [M] multipliers of tile 1, tile 2, ..., or [0] for plain repetition.
        coef: [weights] factor of each whole weight.
        sizes: elements of each weight, more than N.
        dtype: of the output; the bank's own if None.

    Returns:
        The weights, one after the other, each at a multiple of 16 elements, with zeros between.
    """
    bank_size = theta.numel()
    window = window_of(bank_size)
    out = theta.new_zeros(0)
    for factor, n, start in zip(coef, sizes, starts(sizes)[0], strict=True):
        element = torch.arange(n, device=theta.device)
        tile, position = element // bank_size, element % bank_size
        weight = factor * theta[position]
        if mask.numel():
            factors = torch.cat([mask.new_ones(window), mask])
            weight = weight * factors[window * tile + position % window]
        out = torch.cat([out, theta.new_zeros(start - out.numel()), weight])
    return out.to(dtype or theta.dtype)
