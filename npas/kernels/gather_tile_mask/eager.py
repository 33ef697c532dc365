"""`gather_tile_mask` with PyTorch's own operators: the CPU path, and the fallback elsewhere."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from npas.kernels.accumulate import sum_dtype
from npas.kernels.tile_mask.tiles import window_of

# Elements whose places in bank and mask are held at a time: 4 MB of int64.
CHUNK_ELEMENTS = 1 << 18


class _Chunk(NamedTuple):
    """Some of the rows looked up: which, and where their elements stand in bank and factors."""

    rows: slice
    position: torch.Tensor
    factor: torch.Tensor


def _chunks(ids: torch.Tensor, cols: int, bank_size: int) -> Iterator[_Chunk]:
    window = window_of(bank_size)
    column = torch.arange(cols, device=ids.device)
    step = max(1, CHUNK_ELEMENTS // cols)
    for start in range(0, ids.numel(), step):
        rows = slice(start, start + step)
        element = ids[rows, None] * cols + column
        tile = element // bank_size
        position = element - tile * bank_size
        yield _Chunk(rows, position, tile * window + position % window)


def _factors(mask: torch.Tensor, bank_size: int) -> torch.Tensor | None:
    """Return the mask with the first tile's ones before it, or None for plain repetition."""
    if not mask.numel():
        return None
    return torch.cat([mask.new_ones(window_of(bank_size)), mask])


def gather_tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate rows; see `npas.kernels.gather_tile_mask.reference.gather_tile_mask`."""
    del n
    bank_size, kept = theta.numel(), sum_dtype(theta, mask, coef)
    flat_ids = ids.reshape(-1).to(torch.int64)
    out = theta.new_empty(flat_ids.numel(), cols, dtype=dtype)
    factors, scale = _factors(mask.to(kept), bank_size), coef.to(kept)
    for chunk in _chunks(flat_ids, cols, bank_size):
        found = theta[chunk.position] * scale
        out[chunk.rows] = found if factors is None else found * factors[chunk.factor]
    return out.view(*ids.shape, cols)


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
    d_theta: torch.Tensor,
    d_mask: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients to buffers, of no elements where not wanted."""
    del n
    bank_size, kept = theta.numel(), d_theta.dtype
    flat_ids = ids.reshape(-1).to(torch.int64)
    rows, bank, scale = grad.reshape(-1, cols), theta.to(kept), coef.to(kept)
    factors = _factors(mask.to(kept), bank_size)
    total = torch.zeros_like(bank)
    d_factors = bank.new_zeros(0 if factors is None else factors.numel())
    for chunk in _chunks(flat_ids, cols, bank_size):
        part, position = rows[chunk.rows].to(kept).reshape(-1), chunk.position.view(-1)
        if d_mask.numel():
            d_factors.index_add_(0, chunk.factor.view(-1), part * bank[position])
        if d_theta.numel() or d_coef.numel():
            if factors is not None:
                part = part * factors[chunk.factor.view(-1)]
            total.index_add_(0, position, part)
    if d_theta.numel():
        d_theta.addcmul_(total, scale)
    if d_mask.numel():
        d_mask.addcmul_(d_factors[window_of(bank_size) :], scale)
    if d_coef.numel():
        d_coef.add_((bank * total).sum())
