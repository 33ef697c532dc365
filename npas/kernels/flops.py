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
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from npas.kernels.combine.table import Row, rows_of

Shape = Sequence[int]

_npas = torch.ops.npas


@register_flop_formula(_npas.combine)
def combine_flops(theta: Shape, coef: Shape, table: Sequence[int], *_: Any, **__: Any) -> int:
    """Return 2 * sum of k * n."""
    return sum(2 * row.k * row.n for row in rows_of(table))


@register_flop_formula(_npas.combine_backward)
def combine_backward_flops(
    grad: Shape,
    theta: Shape,
    coef: Shape,
    table: Sequence[int],
    needs: Sequence[bool],
    **_: Any,
) -> int:
    """Return 2 * sum of k * n for each gradient needed."""
    return sum(needs) * combine_flops(theta, coef, table)


@register_flop_formula(_npas.gather_combine)
def gather_combine_flops(
    theta: Shape, coef: Shape, table_row: Sequence[int], cols: int, ids: Shape, *_: Any, **__: Any
) -> int:
    """Return 2 * k for each element looked up."""
    return 2 * Row(*table_row).k * math.prod(ids) * cols


@register_flop_formula(_npas.gather_combine_backward)
def gather_combine_backward_flops(
    grad: Shape,
    theta: Shape,
    coef: Shape,
    table_row: Sequence[int],
    cols: int,
    ids: Shape,
    needs: Sequence[bool],
    **_: Any,
) -> int:
    """Return 2 * k for each element looked up and gradient needed."""
    return sum(needs) * gather_combine_flops(theta, coef, table_row, cols, ids)


@register_flop_formula([_npas.tile_mask, _npas.gather_tile_mask])
def tile_mask_flops(*_: Any, out_shape: Shape, **__: Any) -> int:
    """Return 2 for each element made."""
    return 2 * math.prod(out_shape)


@register_flop_formula([_npas.tile_mask_backward, _npas.gather_tile_mask_backward])
def tile_mask_backward_flops(
    grad: Shape, theta: Shape, mask: Shape, coef: Shape, *others: Any, **_: Any
) -> int:
    """Return 2 for each element, once for bank or coefficient and once for the mask."""
    need_theta, need_mask, need_coef = others[-1]
    return 2 * math.prod(grad) * ((need_theta or need_coef) + need_mask)


@register_flop_formula(_npas.interpolate)
def interpolate_flops(*_: Any, out_shape: Shape, **__: Any) -> int:
    """Return 8 for each element of the weight."""
    return 8 * math.prod(out_shape)


@register_flop_formula(_npas.interpolate_backward)
def interpolate_backward_flops(grad: Shape, *_: Any, **__: Any) -> int:
    """Return 8 for each element of the weight, whichever gradients are needed."""
    return 8 * math.prod(grad)
