"""The op `npas::combine`: its arguments, and its parts."""

from collections.abc import Sequence

import torch

from npas.kernels.checks import check_gain, check_vectors
from npas.kernels.combine import eager, reference
from npas.kernels.combine.table import ROW, check_table, output_size
from npas.kernels.registration import Definition, register


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Generate weights as sums of templates times coefficients (3.1.1), all of them in one call.

    Element ``e`` of row i's weight is ``gain[i]`` times the sum over ``t < k`` of
    ``coef[coef_offset + t] * theta[base + t * stride + e]``, kept in float32 (float64 where an
    input has it). Differentiable once with respect to ``theta`` and ``coef``; the same inputs give
    the same bits. Never returns a view of an input.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients; may have another dtype than the bank.
        gain: [rows] float, fixed factors of the weights, or None for 1.
        table: flat rows of five integers (base, stride, k, n, coef_offset). Windows may overlap.
            Where ``coef_offset`` is -1 the coefficients are 1 / k.
        dtype: of the output; the bank's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        The weights in the order of the rows, each at the next multiple of 16 elements
        (`npas.kernels.combine.table.starts`), with zeros between: [n] for one row.

    Raises:
        ValueError: if a tensor is not one-dimensional and floating, the devices differ, or a row
            of the table is malformed or out of bounds.
        NpasError: if ``backend="triton"`` cannot run.
    """
    return _op.call(theta, coef, gain, table, dtype, backend)


def _check(
    theta: torch.Tensor, coef: torch.Tensor, gain: torch.Tensor | None, table: Sequence[int]
) -> None:
    check_vectors("combine", theta=theta, coef=coef)
    check_table("combine", table, theta.numel(), coef.numel())
    check_gain("combine", theta, gain, len(table) // ROW)


def _shape(
    theta: torch.Tensor, coef: torch.Tensor, gain: object, table: Sequence[int]
) -> list[int]:
    del theta, coef, gain
    return [output_size(table)]


_op = register(
    Definition(
        name="combine",
        tensors=("theta", "coef"),
        constants="Tensor? gain, int[] table",
        check=_check,
        shape=_shape,
        reference=reference.combine,
        eager=eager,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
combine_accumulate = _op.accumulate
