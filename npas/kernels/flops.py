"""FLOP formulas of the ops, for `torch.utils.flop_counter`, which counts unknown ops as zero.

The rule: two FLOPs for each multiply-accumulate over the elements of the weight (or of the rows
looked up), as for a matrix product. So a template costs 2 an element, a tile 2 (bank times
multiplier), a bilinear value 8 (four neighbours). A gradient that reads every element of ``grad``
once costs as much as the forward op: that of the bank, that of the coefficients of `combine`, that
of the mask. What takes one operation for each element of the bank or less is left out, such as
the coefficient's gradient in `tile_mask` and `interpolate`, which needs the bank's and nothing
else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from npas.kernels.combine.table import AVERAGE, Row, rows_of

Shape = Sequence[int]


def _combine(theta: Shape, coef: Shape, gain: object, table: Sequence[int]) -> int:
    """Return 2 * sum of k * n."""
    return sum(2 * row.k * row.n for row in rows_of(table))


def _combine_gradients(
    needs: Sequence[bool], theta: Shape, coef: Shape, gain: object, table: Sequence[int]
) -> int:
    """Return as many for the bank, and for the coefficients where they are learned."""
    learned = sum(2 * row.k * row.n for row in rows_of(table) if row.offset != AVERAGE)
    return needs[0] * _combine(theta, coef, gain, table) + needs[1] * learned


def _combine_linear(
    theta: Shape, coef: Shape, input: Shape, gain: object, table_row: Sequence[int], out: int
) -> int:
    """Return 2 * k * n for the weight and 2 * M * n for the product."""
    row = Row(*table_row)
    return 2 * row.k * row.n + 2 * (input[0] // (row.n // out)) * row.n


def _combine_linear_gradients(needs: Sequence[bool], *inputs: Any) -> int:
    """Count a product for the input, with the weight made again, and one for the weight."""
    need_theta, need_coef, need_input = needs
    row, forward = Row(*inputs[4]), _combine_linear(*inputs)
    weight = 2 * row.k * row.n
    need_coef = need_coef and row.offset != AVERAGE
    product = (forward - weight) * (need_theta or need_coef)
    return product + weight * (need_theta + need_coef) + forward * need_input


def _gather_combine(
    theta: Shape, coef: Shape, gain: object, table_row: Sequence[int], cols: int, ids: Shape
) -> int:
    """Return 2 * k for each element looked up."""
    return 2 * Row(*table_row).k * math.prod(ids) * cols


def _gather_combine_gradients(needs: Sequence[bool], *inputs: Any) -> int:
    learned = Row(*inputs[3]).offset != AVERAGE
    return (needs[0] + (needs[1] and learned)) * _gather_combine(*inputs)


def _tile_mask(theta: Shape, mask: Shape, coef: Shape, sizes: Sequence[int]) -> int:
    """Return 2 for each element made."""
    return 2 * sum(sizes)


def _tile_mask_gradients(needs: Sequence[bool], *inputs: Any) -> int:
    """Count bank and coefficient once, since they share a sum, and the mask."""
    return ((needs[0] or needs[2]) + needs[1]) * _tile_mask(*inputs)


def _gather_tile_mask(theta: Shape, mask: Shape, coef: Shape, n: int, cols: int, ids: Shape) -> int:
    """Return 2 for each element made."""
    return 2 * math.prod(ids) * cols


def _gather_tile_mask_gradients(needs: Sequence[bool], *inputs: Any) -> int:
    return ((needs[0] or needs[2]) + needs[1]) * _gather_tile_mask(*inputs)


def _interpolate(theta: Shape, coef: Shape, rows: int, cols: int) -> int:
    """Return 8 for each element made."""
    return 8 * rows * cols


def _interpolate_gradients(needs: Sequence[bool], *inputs: Any) -> int:
    """Count one pass, whichever gradients are needed."""
    return _interpolate(*inputs)


#: op -> FLOPs of the forward op, and of the gradients that are needed.
_FORMULAS: dict[str, tuple[Callable[..., int], Callable[..., int]]] = {
    "combine": (_combine, _combine_gradients),
    "combine_linear": (_combine_linear, _combine_linear_gradients),
    "gather_combine": (_gather_combine, _gather_combine_gradients),
    "tile_mask": (_tile_mask, _tile_mask_gradients),
    "gather_tile_mask": (_gather_tile_mask, _gather_tile_mask_gradients),
    "interpolate": (_interpolate, _interpolate_gradients),
}


def _register(name: str, forward: Callable[..., int], gradients: Callable[..., int]) -> None:
    ops = torch.ops.npas
    arguments = getattr(ops, f"{name}_accumulate").default._schema.arguments
    n_buffers = sum(a.alias_info is not None and a.alias_info.is_write for a in arguments)

    @register_flop_formula(getattr(ops, name))
    def _(*args: Any, **_: Any) -> int:
        *inputs, _dtype, _backend = args
        return forward(*inputs)

    @register_flop_formula(getattr(ops, f"{name}_backward"))
    def _(grad: Shape, *args: Any, **_: Any) -> int:
        *inputs, needs, _backend = args
        return gradients(needs, *inputs)

    @register_flop_formula(getattr(ops, f"{name}_accumulate"))
    def _(grad: Shape, *args: Any, **_: Any) -> int:
        *rest, _backend = args
        needs = [math.prod(buffer) > 0 for buffer in rest[-n_buffers:]]
        return gradients(needs, *rest[:-n_buffers])


for _name, _formula in _FORMULAS.items():
    _register(_name, *_formula)
