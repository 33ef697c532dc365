"""The bytes that an op has to move, as formulas.

Letters as in the glossary: N the bank, n a weight, K its templates. ``g`` is the size of an item of
bank, gradient and output; gradients of the bank are summed in float32 buffers that others add to
too, so each element of a buffer is read and written: 8 bytes. Coefficients, gains, masks, tables
and partial sums count as nothing.

==================  ==========================================================================
combine, forward    ``g sum (K_i + 1) n_i``: each template once, each weight once
combine, backward   ``g (sum K_i n_i + N') + 8 N'``: N' elements of the bank are covered by
                    windows. An element's gradient is a sum over the windows that cover it, and a
                    program that owns a tile of the bank needs the gradient of each of them. The
                    tile itself is read once, for the coefficients' gradients. Going over the
                    weights instead of the bank takes ``sum (2 K_i + 1) n_i`` items, for bank and
                    buffer once a window, and as many again to add to what the buffer holds.
tile_mask, forward  ``g sum 2 n_i``: an element of the bank for each element written. A program
                    that keeps its tile of the bank for several tiles of the weight moves less.
tile_mask, backward ``g (sum n_i + N) + 8 N``
gather_combine      ``g (K + 1) R c`` for R rows of c columns looked up; backward
                    ``g (R c + E) + 8 E``, where E elements of the bank lie in the rows' templates
gather_tile_mask    ``2 g R c``; backward as for gather_combine
combine_linear      ``g (K n + M in + M out)`` for M rows of input; backward the same and
                    ``8 (K n + M in)``: templates, input and gradient once each
==================  ==========================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.kernel_cases import FORWARD
from npas.kernels.combine.table import Row, rows_of
from npas.kernels.samples import Sample

BUFFER_BYTES = 8


def floor_bytes(op: str, sample: Sample, direction: str, dtype: torch.dtype) -> int:
    """Return the least that a call moves.

    Args:
        op: a key of `FLOORS`.
        sample: the call.
        direction: forward or backward.
        dtype: of bank, gradient and output.
    """
    items, buffers = FLOORS[op](sample.sizes, sample.others(), direction == FORWARD)
    return items * dtype.itemsize + buffers * BUFFER_BYTES


def covered(table: Sequence[int]) -> int:
    """Return N': how many elements of the bank lie in a window of the table."""
    windows = sorted(
        (start, start + row.n)
        for row in rows_of(table)
        for start in (row.base + t * row.stride for t in range(row.k))
    )
    total, end = 0, 0
    for start, stop in windows:
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _combine(sizes: Sequence[int], others: Sequence[Any], forward: bool) -> tuple[int, int]:
    del sizes
    table = others[1]
    if forward:
        return sum((row.k + 1) * row.n for row in rows_of(table)), 0
    n_covered = covered(table)
    return sum(row.k * row.n for row in rows_of(table)) + n_covered, n_covered


def _tile_mask(sizes: Sequence[int], others: Sequence[Any], forward: bool) -> tuple[int, int]:
    bank, n = sizes[0], sum(others[0])
    return (2 * n, 0) if forward else (n + bank, bank)


def _gather_combine(sizes: Sequence[int], others: Sequence[Any], forward: bool) -> tuple[int, int]:
    del sizes
    _, table_row, cols, ids = others
    row = Row(*table_row)
    looked_up = ids.numel() * cols
    if forward:
        return (row.k + 1) * looked_up, 0
    starts = row.base + np.arange(row.k)[:, None] * row.stride
    places = starts + ids.unique().numpy() * cols
    touched = len(np.unique(places[..., None] + np.arange(cols)))
    return looked_up + touched, touched


def _gather_tile_mask(
    sizes: Sequence[int], others: Sequence[Any], forward: bool
) -> tuple[int, int]:
    _, cols, ids = others
    looked_up = ids.numel() * cols
    if forward:
        return 2 * looked_up, 0
    elements = ids.unique().numpy()[:, None] * cols + np.arange(cols)
    touched = len(np.unique(elements % sizes[0]))
    return looked_up + touched, touched


def _combine_linear(sizes: Sequence[int], others: Sequence[Any], forward: bool) -> tuple[int, int]:
    _, table_row, out_features = others
    row, inputs = Row(*table_row), sizes[2]
    outputs = inputs // (row.n // out_features) * out_features
    moved = row.k * row.n + inputs
    return moved + outputs, 0 if forward else moved


#: op -> items and buffer elements of a call, from its sizes, its other arguments and whether it is
#: the forward op.
FLOORS: Mapping[str, Callable[[Sequence[int], Sequence[Any], bool], tuple[int, int]]] = {
    "combine": _combine,
    "tile_mask": _tile_mask,
    "gather_combine": _gather_combine,
    "gather_tile_mask": _gather_tile_mask,
    "combine_linear": _combine_linear,
}
