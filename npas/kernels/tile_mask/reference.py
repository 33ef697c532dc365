"""The definition of `tile_mask` in plain PyTorch: slow, and differentiable by autograd."""

import torch

from npas.kernels.tile_mask.tiles import window_of


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Repeat the bank, times the mask after the first tile, in the dtype of the inputs.

    Args:
        theta: [N] the bank.
        mask: [M] multipliers of tile 1, tile 2, ..., or [0] for plain repetition.
        coef: [1] factor of the whole weight.
        n: elements of the weight, more than N.
        dtype: of the output; the bank's own if None.

    Returns:
        [n] the weight.
    """
    bank_size = theta.numel()
    window = window_of(bank_size)
    element = torch.arange(n, device=theta.device)
    tile, position = element // bank_size, element % bank_size
    weight = coef * theta[position]
    if mask.numel():
        factors = torch.cat([mask.new_ones(window), mask])
        weight = weight * factors[window * tile + position % window]
    return weight.to(dtype or theta.dtype)
