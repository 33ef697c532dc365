"""The definition of `gather_combine` in plain PyTorch: the whole weight, then its rows."""

from collections.abc import Sequence

import torch

from npas.kernels.combine import reference


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Look up rows of the weight that `combine` makes.

    Args:
        theta: [N] the bank.
        coef: [C] coefficients.
        gain: [1] fixed factor of the weight, or None for 1.
        table_row: (base, stride, k, n, coef_offset), see `Row`.
        cols: columns of the weight as a matrix.
        ids: int64 of any shape: rows.
        dtype: of the output; the bank's own if None.

    Returns:
        [*ids.shape, cols] the rows.
    """
    return reference.combine(theta, coef, gain, table_row, dtype).view(-1, cols)[ids]
