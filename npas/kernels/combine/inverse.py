"""The table of `combine` as the kernels read it: forwards, and from the bank's side."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from npas.kernels.combine.table import ALIGN, AVERAGE, ROW, rows_of, starts


@dataclass(frozen=True, slots=True)
class ForwardTable:
    """What the forward kernel reads.

    Attributes:
        rows: [rows, 8] int64: base, stride, k, n, coef_offset, start in the output, end of what
            is written (zeros up to the next weight), whether all of these are multiples of 16.
        blocks: [programs, 2] int32: row, and block of the row's weight.
    """

    rows: torch.Tensor
    blocks: torch.Tensor


@dataclass(frozen=True, slots=True)
class InverseTable:
    """What the backward kernels read: for each tile of the bank, the windows that cover it.

    Attributes:
        windows: [windows, 6] int64: first element in the bank, end, start of the weight in grad,
            coefficient (or -1: 1 / k), row, k.
        tiles: [tiles] int32: the bank's tiles of ``block`` elements that a window covers.
        first: [tiles + 1] int32: a tile's entries are ``first[i]`` to ``first[i + 1]``.
        entries: [entries, 2] int32: window, and place of the partial sum of its coefficient (-1:
            none).
        coefs: [coefficients reached] int32: which they are.
        sums: [coefficients reached + 1] int32: where the partial sums of each start.
        n_sums: partial sums in all.
        aligned: whether all windows start and end at multiples of 16, in bank and grad.
    """

    windows: torch.Tensor
    tiles: torch.Tensor
    first: torch.Tensor
    entries: torch.Tensor
    coefs: torch.Tensor
    sums: torch.Tensor
    n_sums: int
    aligned: bool


def _int32(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(device)


def _int64(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)


# A table is a constant of the graph: it is copied to its device once.
@functools.lru_cache(maxsize=1024)
def forward_table(table: tuple[int, ...], block: int, device: torch.device) -> ForwardTable:
    """Build what the forward kernel reads of a table.

    Args:
        table: rows of (base, stride, k, n, coef_offset).
        block: elements of a weight that one program makes.
        device: where the kernel runs.
    """
    places, size = starts(table[3::ROW])
    ends = (*places[1:], size)
    rows = []
    for row, start, end in zip(rows_of(table), places, ends, strict=True):
        stride = row.stride if row.k > 1 else 0
        fits = all(value % ALIGN == 0 for value in (row.base, stride, start))
        rows.append((row.base, stride, row.k, row.n, row.offset, start, end - start, fits))
    lengths = np.array([row[6] for row in rows])
    n_blocks = -(-lengths // block)
    owner = np.repeat(np.arange(len(rows)), n_blocks)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
    return ForwardTable(
        _int64(np.array(rows), device), _int32(np.stack([owner, within], axis=1), device)
    )


@functools.lru_cache(maxsize=1024)
def inverse_table(table: tuple[int, ...], block: int, device: torch.device) -> InverseTable:
    """Turn a table around.

    Args:
        table: rows of (base, stride, k, n, coef_offset).
        block: elements of the bank that one program owns.
        device: where the kernels run.
    """
    places, _ = starts(table[3::ROW])
    windows = np.array(
        [
            (
                row.base + t * row.stride,
                row.base + t * row.stride + row.n,
                start,
                -1 if row.offset == AVERAGE else row.offset + t,
                index,
                row.k,
            )
            for index, (row, start) in enumerate(zip(rows_of(table), places, strict=True))
            for t in range(row.k)
        ]
    )
    low, high = windows[:, 0] // block, (windows[:, 1] - 1) // block + 1
    count = high - low
    window = np.repeat(np.arange(len(windows)), count)
    tile = np.arange(len(window)) - np.repeat(np.cumsum(count) - count - low, count)
    order = np.argsort(tile, kind="stable")
    window, tile = window[order], tile[order]
    tiles, first = np.unique(tile, return_index=True)
    coef = windows[window, 3]
    by_coef = np.argsort(coef, kind="stable")
    by_coef = by_coef[np.searchsorted(coef[by_coef], 0) :]
    place = np.full(len(window), -1)
    place[by_coef] = np.arange(len(by_coef))
    coefs = np.unique(coef[by_coef])
    sums = np.append(np.searchsorted(coef[by_coef], coefs), len(by_coef))
    return InverseTable(
        _int64(windows, device),
        _int32(tiles, device),
        _int32(np.append(first, len(tile)), device),
        _int32(np.stack([window, place], axis=1), device),
        _int32(coefs, device),
        _int32(sums, device),
        len(by_coef),
        bool((windows[:, :3] % ALIGN == 0).all()),
    )
