"""The definition of `combine` in plain PyTorch: slow, and differentiable by autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.combine.table import rows_of


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Sum each weight's templates times their coefficients, in the dtype of the inputs.

    Args:
        theta: [N] the bank.
        coef: [C] coefficients.
        table: rows of (base, stride, k, n, coef_offset), see `Row`.
        dtype: of the output; the bank's own if None.

    Returns:
        [sum of n] the weights, one after the other.
    """
    weights = []
    for row in rows_of(table):
        starts = (row.base + t * row.stride for t in range(row.k))
        templates = torch.stack([theta[start : start + row.n] for start in starts])
        coefficients = coef[row.offset : row.offset + row.k]
        weights.append((templates * coefficients[:, None]).sum(dim=0))
    return torch.cat(weights).to(dtype or theta.dtype)
