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

from npas.kernels.combine.table import Row, rows_of

Shape = Sequence[int]


def _combine(theta: Shape, coef: Shape, gain: object, table: Sequence[int]) -> int:
    """Return 2 * sum of k * n."""
    return sum(2 * row.k * row.n for row in rows_of(table))


def _gather_combine(
    theta: Shape, coef: Shape, gain: object, table_row: Sequence[int], cols: int, ids: Shape
) -> int:
    """Return 2 * k for each element looked up."""
    return 2 * Row(*table_row).k * math.prod(ids) * cols


def _tile_mask(theta: Shape, mask: Shape, coef: Shape, sizes: Sequence[int]) -> int:
    """Return 2 for each element made."""
    return 2 * sum(sizes)


def _gather_tile_mask(theta: Shape, mask: Shape, coef: Shape, n: int, cols: int, ids: Shape) -> int:
    """Return 2 for each element made."""
    return 2 * math.prod(ids) * cols


def _interpolate(theta: Shape, coef: Shape, rows: int, cols: int) -> int:
    """Return 8 for each element made."""
    return 8 * rows * cols


def _each(needs: Sequence[bool]) -> int:
    """Count bank and coefficients apart: each reads grad."""
    return sum(needs)


def _sum_and_mask(needs: Sequence[bool]) -> int:
    """Count bank and coefficient once: they share a sum."""
    need_theta, need_mask, need_coef = needs
    return (need_theta or need_coef) + need_mask


def _once(needs: Sequence[bool]) -> int:
    """Count one pass, whichever gradients are needed."""
    return 1


#: op -> FLOPs of the forward op, and how often as many the needed gradients cost.
_FORMULAS: dict[str, tuple[Callable[..., int], Callable[[Sequence[bool]], int]]] = {
    "combine": (_combine, _each),
    "gather_combine": (_gather_combine, _each),
    "tile_mask": (_tile_mask, _sum_and_mask),
    "gather_tile_mask": (_gather_tile_mask, _sum_and_mask),
    "interpolate": (_interpolate, _once),
}


def _register(
    name: str, forward: Callable[..., int], passes: Callable[[Sequence[bool]], int]
) -> None:
    ops = torch.ops.npas

    @register_flop_formula(getattr(ops, name))
    def _(*args: Any, **_: Any) -> int:
        *inputs, _dtype, _backend = args
        return forward(*inputs)

    @register_flop_formula(getattr(ops, f"{name}_backward"))
    def _(grad: Shape, *args: Any, **_: Any) -> int:
        *inputs, needs, _backend = args
        return forward(*inputs) * passes(needs)

    @register_flop_formula(getattr(ops, f"{name}_accumulate"))
    def _(grad: Shape, *args: Any, **_: Any) -> int:
        *rest, _backend = args
        n = 3 if passes is _sum_and_mask else 2
        inputs, buffers = rest[:-n], rest[-n:]
        return forward(*inputs) * passes([math.prod(buffer) > 0 for buffer in buffers])


for _name, _formula in _FORMULAS.items():
    _register(_name, *_formula)
