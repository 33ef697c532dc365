"""The definition of `combine_linear` in plain PyTorch: the whole weight, then the product."""

from collections.abc import Sequence

import torch

from npas.kernels.combine import reference
from npas.kernels.combine.table import Row


def combine_linear(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Multiply with the weight that `combine` makes, as `torch.nn.functional.linear` does.

    Args:
        theta: [N] the bank.
        coef: [C] coefficients.
        input: [..., in_features] what is multiplied.
        gain: [1] fixed factor of the weight, or None for 1.
        table_row: (base, stride, k, n, coef_offset), see `Row`.
        out_features: rows of the weight; n is out_features times in_features.
        dtype: of the output; the input's own if None.

    Returns:
        [..., out_features] the product.
    """
    flat = reference.combine(theta, coef, gain, table_row, input.dtype)
    product = input @ flat.view(out_features, -1).t()
    return product.to(dtype or input.dtype)


def combine_linear_flat(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Do so for an input of [M * in_features]: [M, out_features], in the bank's dtype if None."""
    rows = input.view(-1, Row(*table_row).n // out_features)
    dtype = dtype or theta.dtype
    return combine_linear(theta, coef, rows, gain, table_row, out_features, dtype)
