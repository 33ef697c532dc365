"""The op `npas::combine`: dispatch, shapes for fake tensors, autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_grad, check_vectors
from npas.kernels.combine import eager
from npas.kernels.combine.table import check_table, output_size
from npas.kernels.gradient import empty_gradients, register_gradient


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Generate weights as sums of templates times coefficients (3.1.1), all of them in one call.

    Element ``e`` of a row's weight is the sum over ``t < k`` of
    ``coef[coef_offset + t] * theta[base + t * stride + e]``, kept in float32 (float64 where an
    input has it). Differentiable once with respect to ``theta`` and ``coef``; the same inputs give
    the same bits. Never returns a view of an input.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients; may have another dtype than the bank.
        table: flat rows of five integers (base, stride, k, n, coef_offset). Windows may overlap.
        dtype: of the output; the bank's own if None.

    Returns:
        [sum of n] the weights in the order of the rows.

    Raises:
        ValueError: if a tensor is not one-dimensional and floating, the devices differ, or a row
            of the table is malformed or out of bounds.
    """
    return _call(theta, coef, table, dtype)


@torch.library.custom_op("npas::combine", mutates_args=())
def _forward(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    _check(theta, coef, table)
    return eager.combine(theta, coef, table, dtype or theta.dtype)


@torch.library.custom_op("npas::combine_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    _check(theta, coef, table)
    check_grad("combine_backward", grad, (output_size(table),))
    return eager.combine_backward(grad, theta, coef, table, needs)


def _check(theta: torch.Tensor, coef: torch.Tensor, table: Sequence[int]) -> None:
    check_vectors("combine", theta=theta, coef=coef)
    check_table("combine", table, theta.numel(), coef.numel())


@_forward.register_fake
def _(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    _check(theta, coef, table)
    return theta.new_empty(output_size(table), dtype=dtype or theta.dtype)


@_backward.register_fake
def _(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table: Sequence[int],
    needs: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    del grad, table
    return empty_gradients(needs, theta, coef)


_call = register_gradient(_forward, _backward, n_tensors=2)
