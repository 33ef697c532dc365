"""The op `npas::gather_combine`: its arguments, and its parts."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_gain, check_ids, check_vectors
from npas.kernels.combine.table import ROW, Row, check_table
from npas.kernels.gather_combine import eager, reference
from npas.kernels.registration import Definition, register


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Generate only the rows of a weight that are looked up (an embedding's).

    Equal to ``combine(theta, coef, gain, table_row).view(-1, cols)[ids]``. Differentiable once with
    respect to ``theta`` and ``coef``; on the CPU the same inputs give the same bits.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients.
        gain: [1] float, fixed factor of the weight, or None for 1.
        table_row: five integers (base, stride, k, n, coef_offset): one row of `combine`'s table.
        cols: columns of the weight, a divisor of n.
        ids: int64 or int32 of any shape: rows, which may repeat.
        dtype: of the output; the bank's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        [*ids.shape, cols] the rows.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the table's row is
            malformed or out of bounds.
        IndexError: on the CPU, if an id is not a row of the weight.
        NpasError: if ``backend="triton"`` cannot run.
    """
    return _op.call(theta, coef, gain, table_row, cols, ids, dtype, backend)


def _check(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
) -> None:
    check_vectors("gather_combine", theta=theta, coef=coef)
    check_gain("gather_combine", theta, gain, 1)
    if len(table_row) != ROW:
        raise ValueError(
            f"gather_combine: table_row must hold {ROW} integers, found {len(table_row)}"
        )
    check_table("gather_combine", table_row, theta.numel(), coef.numel())
    check_ids("gather_combine", ids, theta.device, Row(*table_row).n, cols)


def _shape(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
) -> list[int]:
    del theta, coef, gain, table_row
    return [*ids.shape, cols]


_op = register(
    Definition(
        name="gather_combine",
        tensors=("theta", "coef"),
        constants="Tensor? gain, int[] table_row, int cols, Tensor ids",
        check=_check,
        shape=_shape,
        reference=reference.gather_combine,
        eager=eager,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
gather_combine_accumulate = _op.accumulate
