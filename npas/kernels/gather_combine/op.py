"""The op `npas::gather_combine`: dispatch, shapes for fake tensors, autograd."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_grad, check_ids, check_vectors
from npas.kernels.combine.table import ROW, Row, check_table
from npas.kernels.gather_combine import eager
from npas.kernels.gradient import empty_gradients, register_gradient


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Generate only the rows of a weight that are looked up (an embedding's).

    Equal to ``combine(theta, coef, table_row).view(-1, cols)[ids]``. Differentiable once with
    respect to ``theta`` and ``coef``; on the CPU the same inputs give the same bits.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients.
        table_row: five integers (base, stride, k, n, coef_offset): one row of `combine`'s table.
        cols: columns of the weight, a divisor of n.
        ids: int64 or int32 of any shape: rows, which may repeat.
        dtype: of the output; the bank's own if None.

    Returns:
        [*ids.shape, cols] the rows.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the table's row is
            malformed or out of bounds.
        IndexError: on the CPU, if an id is not a row of the weight.
    """
    return _call(theta, coef, table_row, cols, ids, dtype)


@torch.library.custom_op("npas::gather_combine", mutates_args=())
def _forward(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    row = _check("gather_combine", theta, coef, table_row, cols, ids)
    return eager.gather_combine(theta, coef, row, cols, ids, dtype or theta.dtype)


@torch.library.custom_op("npas::gather_combine_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    row = _check("gather_combine_backward", theta, coef, table_row, cols, ids)
    check_grad("gather_combine_backward", grad, (*ids.shape, cols))
    return eager.gather_combine_backward(grad, theta, coef, row, cols, ids, needs)


def _check(
    op: str,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
) -> Row:
    check_vectors(op, theta=theta, coef=coef)
    if len(table_row) != ROW:
        raise ValueError(f"{op}: table_row must hold {ROW} integers, found {len(table_row)}")
    check_table(op, table_row, theta.numel(), coef.numel())
    row = Row(*table_row)
    check_ids(op, ids, theta.device, row.n, cols)
    return row


@_forward.register_fake
def _(
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    _check("gather_combine", theta, coef, table_row, cols, ids)
    return theta.new_empty(*ids.shape, cols, dtype=dtype or theta.dtype)


@_backward.register_fake
def _(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    del grad, table_row, cols, ids
    return empty_gradients(needs, theta, coef)


_call = register_gradient(_forward, _backward, n_tensors=2)
