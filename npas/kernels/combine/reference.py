"""The definition of `combine` in plain PyTorch: slow, and differentiable by autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.combine.table import AVERAGE, ROW, rows_of, starts


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Sum each weight's templates times their coefficients, in the dtype of the inputs.

    Args:
        theta: [N] the bank.
        coef: [C] coefficients.
        gain: [rows] fixed factors of the weights, or None for 1.
        table: rows of (base, stride, k, n, coef_offset), see `Row`.
        dtype: of the output; the bank's own if None.

    Returns:
        The weights, one after the other, each at a multiple of 16 elements, with zeros between.
    """
    out = theta.new_zeros(0)
    for index, (row, start) in enumerate(
        zip(rows_of(table), starts(table[3::ROW])[0], strict=True)
    ):
        windows = (row.base + t * row.stride for t in range(row.k))
        templates = torch.stack([theta[window : window + row.n] for window in windows])
        if row.offset == AVERAGE:
            weight = templates.mean(dim=0)
        else:
            weight = (templates * coef[row.offset : row.offset + row.k, None]).sum(dim=0)
        if gain is not None:
            weight = weight * gain[index].to(torch.promote_types(theta.dtype, coef.dtype))
        out = torch.cat([out, theta.new_zeros(start - out.numel()), weight])
    return out.to(dtype or theta.dtype)
