"""The op `npas::combine_linear`: its arguments, and its parts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from npas.kernels.accumulate import autocast_off
from npas.kernels.checks import check_gain, check_vectors
from npas.kernels.combine.op import combine
from npas.kernels.combine.table import ROW, Row, check_table
from npas.kernels.combine_linear import eager, reference
from npas.kernels.registration import Definition, register


def supported(table_row: Sequence[int]) -> bool:
    """Tell whether a weight's templates are disjoint, which the gradient of the bank needs.

    A program that owns a tile of the weight adds it to each template; where templates overlap, two
    programs would add to one element.

    Args:
        table_row: (base, stride, k, n, coef_offset).
    """
    row = Row(*table_row)
    return row.k == 1 or row.stride >= row.n


def combine_linear(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Multiply with a generated weight (3.1.1) that is never written to memory.

    Equal to ``F.linear(input, combine(theta, coef, gain, table_row, input.dtype).view(out_features,
    -1))``. The weight is made in float32 and rounded to the input's dtype, the products are summed
    in float32 (float64 where an input has it). Differentiable once with respect to ``theta``,
    ``coef`` and ``input``; the same inputs give the same bits. Autocast changes nothing.

    Where templates overlap (see `supported`) the weight is written by `combine` after all.
    Whether this op is faster than that is what `npas.kernels.combine_linear.cost` says.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients; may have another dtype than the bank.
        input: [..., in_features] float.
        gain: [1] float, fixed factor of the weight, or None for 1.
        table_row: five integers (base, stride, k, n, coef_offset): one row of `combine`'s table.
        out_features: rows of the weight; n is out_features times in_features.
        dtype: of the output; the input's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        [..., out_features] the product.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the table's row is
            malformed or out of bounds.
        NpasError: if ``backend="triton"`` cannot run.
    """
    in_features = _in_features(table_row, out_features)
    if not input.dim() or input.shape[-1] != in_features or not input.is_floating_point():
        raise ValueError(
            f"combine_linear: input must be a floating tensor of shape [..., {in_features}], n of "
            f"the table's row / out_features, found {input.dtype} of shape {tuple(input.shape)}"
        )
    dtype = dtype or input.dtype
    if supported(table_row):
        flat = input.reshape(-1)
        out = combine_linear_flat(theta, coef, flat, gain, table_row, out_features, dtype, backend)
        return out.view(*input.shape[:-1], out_features)
    weight = combine(theta, coef, gain, table_row, input.dtype, backend)
    with autocast_off(input):
        return F.linear(input, weight.view(out_features, in_features)).to(dtype)


def combine_linear_flat(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Multiply as `combine_linear` does, with the input as it lies in memory: the op itself.

    Args:
        theta: [N] float, the bank.
        coef: [C] float, coefficients.
        input: [M * in_features] float.
        gain: [1] float or None.
        table_row: of templates that do not overlap.
        out_features: rows of the weight.
        dtype: of the output; the bank's own if None.
        backend: one of `npas.kernels.backends.BACKENDS`.

    Returns:
        [M, out_features] the product.

    Raises:
        ValueError: as `combine_linear`, and where templates overlap.
    """
    dtype = dtype or theta.dtype
    return _op.call(theta, coef, input, gain, table_row, out_features, dtype, backend)


def _in_features(table_row: Sequence[int], out_features: int) -> int:
    """Return the columns of the weight."""
    if len(table_row) != ROW:
        raise ValueError(
            f"combine_linear: table_row must hold {ROW} integers, found {len(table_row)}"
        )
    n = Row(*table_row).n
    if out_features < 1 or n % out_features:
        raise ValueError(
            f"combine_linear: out_features must divide the weight's {n} elements, found "
            f"{out_features}"
        )
    return n // out_features


def _check(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
) -> None:
    check_vectors("combine_linear", theta=theta, coef=coef, input=input)
    check_gain("combine_linear", theta, gain, 1)
    in_features = _in_features(table_row, out_features)
    check_table("combine_linear", table_row, theta.numel(), coef.numel())
    if input.numel() % in_features:
        raise ValueError(
            f"combine_linear: input must have a multiple of {in_features} elements, found "
            f"{input.numel()}"
        )
    if not supported(table_row):
        raise ValueError(
            f"combine_linear: the templates of table_row must not overlap, found {Row(*table_row)}"
        )


def _shape(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
) -> list[int]:
    del theta, coef, gain
    return [input.numel() // (Row(*table_row).n // out_features), out_features]


# The op takes its input flat, so that it and its gradient are vectors as the other tensors are.
# The float32 buffer that the gradient of the input is added to costs M * in_features items more
# than a plain store; at M = 64 and out_features = 768 that is 6% of the backward pass in bfloat16.
_op = register(
    Definition(
        name="combine_linear",
        tensors=("theta", "coef", "input"),
        constants="Tensor? gain, int[] table_row, int out_features",
        check=_check,
        shape=_shape,
        reference=reference.combine_linear_flat,
        eager=eager,
    )
)
#: Adds the gradients of a call to buffers: see `npas.kernels.registration`.
combine_linear_accumulate = _op.accumulate
