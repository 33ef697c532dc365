"""The definition of `interpolate` in plain PyTorch, differentiable by autograd."""

import torch
import torch.nn.functional as F

from npas.kernels.interpolate.grid import grid_of


def interpolate(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Resize the bank bilinearly to the weight's matrix, in the dtype of the inputs.

    Args:
        theta: [N] the bank.
        coef: [1] factor of the whole weight.
        rows: of the weight.
        cols: of the weight; ``rows * cols`` is at least N.
        dtype: of the output; the bank's own if None.

    Returns:
        [rows * cols] the weight.
    """
    r, c = grid_of(theta.numel(), rows, cols)
    point = torch.arange(r * c, device=theta.device) % theta.numel()
    image = theta[point].view(1, 1, r, c)
    resized = F.interpolate(image, size=(rows, cols), mode="bilinear", align_corners=True)
    return (coef * resized.flatten()).to(dtype or theta.dtype)
