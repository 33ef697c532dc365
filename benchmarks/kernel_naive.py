"""The ops as a user would write them: ``(T * alpha[:, None]).sum(0)`` and the like."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from npas.kernels.combine.table import AVERAGE, Row, rows_of
from npas.kernels.tile_mask.tiles import window_of

Tensors = Sequence[torch.Tensor]


def templates(theta: torch.Tensor, row: Row) -> torch.Tensor:
    """Return the [k, n] view of a weight's templates."""
    block = theta[row.base : row.base + (row.k - 1) * row.stride + row.n]
    if row.k == 1 or row.stride == row.n:
        return block.view(row.k, row.n)
    return block.unfold(0, row.n, row.stride)


def alpha_of(row: Row, coef: torch.Tensor, gain: torch.Tensor | None, index: int) -> torch.Tensor:
    """Return a weight's coefficients times its gain: [k]."""
    if row.offset == AVERAGE:
        alpha = coef.new_full((row.k,), 1 / row.k)
    else:
        alpha = coef[row.offset : row.offset + row.k]
    return alpha if gain is None else alpha * gain[index].to(alpha.dtype)


def combine(tensors: Tensors, others: Sequence[Any]) -> list[torch.Tensor]:
    theta, coef, *_ = tensors
    gain, table, *_ = others
    return [
        (templates(theta, row) * alpha_of(row, coef, gain, index)[:, None]).sum(0)
        for index, row in enumerate(rows_of(table))
    ]


def tile_mask(tensors: Tensors, others: Sequence[Any]) -> list[torch.Tensor]:
    theta, mask, coef = tensors
    bank_size = theta.numel()
    window = window_of(bank_size)
    found = []
    for factor, n in zip(coef, others[0], strict=True):
        tiles = -(-n // bank_size)
        weight = theta.repeat(tiles)[:n]
        if mask.numel():
            factors = torch.cat([mask.new_ones(window), mask])
            factors = F.pad(factors, (0, max(0, window * tiles - factors.numel())))
            windows = factors[: window * tiles].view(tiles, window)
            repeats = -(-bank_size // window)
            weight = weight * windows.repeat(1, repeats)[:, :bank_size].reshape(-1)[:n]
        found.append(weight * factor)
    return found


def gather_combine(tensors: Tensors, others: Sequence[Any]) -> list[torch.Tensor]:
    *generated, cols, ids = others
    return [weight.view(-1, cols)[ids] for weight in combine(tensors, generated)]


def gather_tile_mask(tensors: Tensors, others: Sequence[Any]) -> list[torch.Tensor]:
    n, cols, ids = others
    return [weight.view(-1, cols)[ids] for weight in tile_mask(tensors, [[n]])]


def combine_linear(tensors: Tensors, others: Sequence[Any]) -> list[torch.Tensor]:
    theta, coef, flat = tensors
    gain, table_row, out_features = others
    weight = combine([theta, coef], [gain, table_row])[0].view(out_features, -1)
    return [F.linear(flat.view(-1, weight.shape[1]), weight)]


#: op -> the same from its float tensors and its other arguments: a list of what it makes.
NAIVE: Mapping[str, Callable[[Tensors, Sequence[Any]], list[torch.Tensor]]] = {
    "combine": combine,
    "tile_mask": tile_mask,
    "gather_combine": gather_combine,
    "gather_tile_mask": gather_tile_mask,
    "combine_linear": combine_linear,
}
