"""`tile_mask` with PyTorch's own operators: the CPU path, and the fallback on other devices.

Tiles are multiplied as [tiles, repeats, period] views, where a period is a whole number of
windows: an innermost dimension of 9 would leave no room for vector instructions.
"""

from collections.abc import Iterator, Sequence

import torch

from npas.kernels.accumulate import sum_dtype
from npas.kernels.combine.table import starts
from npas.kernels.tile_mask.tiles import Run, runs, window_of

# Elements of a temporary, unless a single tile is larger: 1 MB of float32.
CHUNK_ELEMENTS = 1 << 18
# Windows in a period, at most: 1,152 elements are 1/500 of a bank of 600k.
PERIOD_WINDOWS = 128

# A part of a tile: where it starts, how many periods it holds, how long they are.
Segment = tuple[int, int, int]


def _tiles(flat: torch.Tensor, run: Run, bank_size: int) -> torch.Tensor:
    """Return a run's part of a weight as [tiles, width]."""
    start = run.first * bank_size
    return flat[start : start + run.tiles * run.width].view(run.tiles, run.width)


def _mask_of(mask: torch.Tensor, run: Run, window: int) -> torch.Tensor:
    """Return a run's part of the mask as [tiles, window], the window cut at the width."""
    width = min(window, run.width)
    start = window * (run.first - 1)
    return mask[start : start + run.tiles * width].view(run.tiles, width)


def _factors(mask: torch.Tensor, run: Run, window: int) -> torch.Tensor:
    """Return what a run's tiles are multiplied by, for one period: [tiles, period].

    A period is at most an eighth of a tile, so that the factors of a small bank stay small too.
    """
    if run.first == 0 or not mask.numel():
        windows = mask.new_ones(run.tiles, min(window, run.width))
    else:
        windows = _mask_of(mask, run, window)
    width = windows.shape[1]
    return windows.repeat(1, max(1, min(PERIOD_WINDOWS, run.width // (8 * width))))


def _segments(width: int, period: int) -> Iterator[Segment]:
    """Cut a tile into its whole periods and the rest."""
    repeats, rest = divmod(width, period)
    yield 0, repeats, period
    if rest:
        yield repeats * period, 1, rest


def _part(tiles: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return a segment of each tile: [tiles, repeats, length], a view."""
    start, repeats, length = segment
    return tiles[..., start : start + repeats * length].unflatten(-1, (repeats, length))


def _groups(run: Run) -> Iterator[slice]:
    """Group a run's tiles so that one element a weight element fits into the chunk."""
    step = max(1, CHUNK_ELEMENTS // run.width)
    for start in range(0, run.tiles, step):
        yield slice(start, min(start + step, run.tiles))


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate weights; see `npas.kernels.tile_mask.reference.tile_mask`."""
    kept = sum_dtype(theta, mask, coef)
    places, size = starts(sizes)
    out = theta.new_empty(size, dtype=dtype)
    bank, mask = theta.to(kept), mask.to(kept)
    end = 0
    for factor, n, start in zip(coef.to(kept), sizes, places, strict=True):
        out[end:start].zero_()
        end = start + n
        _repeat(out[start:end], bank, mask, factor)
    return out


def _repeat(
    weight: torch.Tensor, bank: torch.Tensor, mask: torch.Tensor, coef: torch.Tensor
) -> None:
    """Write one weight."""
    bank_size = bank.numel()
    window = window_of(bank_size)
    for run in runs(bank_size, weight.numel()):
        factors = _factors(mask, run, window) * coef
        tiles = _tiles(weight, run, bank_size)
        for segment in _segments(run.width, factors.shape[1]):
            source, target = _part(bank, segment), _part(tiles, segment)
            multiplier = factors[:, None, : segment[2]]
            if weight.dtype == bank.dtype:
                torch.mul(source, multiplier, out=target)
                continue
            for group in _groups(run):
                target[group].copy_(source * multiplier[group])


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    d_theta: torch.Tensor,
    d_mask: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients to buffers, of no elements where not wanted.

    The gradient of the bank is coef times a sum S over the tiles, and that of the coefficient is
    the product of the bank and S, so that neither has to read ``grad`` again.
    """
    bank_size, kept = theta.numel(), d_theta.dtype
    window = window_of(bank_size)
    grad = grad.contiguous()
    bank, factors, multipliers = theta.to(kept), coef.to(kept), mask.to(kept)
    for index, (n, start) in enumerate(zip(sizes, starts(sizes)[0], strict=True)):
        total = bank.new_zeros(bank_size if d_theta.numel() or d_coef.numel() else 0)
        masks = multipliers.new_zeros(d_mask.numel())
        for run in runs(bank_size, n):
            period = _factors(multipliers, run, window)
            tiles = _tiles(grad[start : start + n], run, bank_size)
            if total.numel():
                _add_tiles(total, tiles, period, run)
            if d_mask.numel() and run.first:
                part = _mask_of(masks, run, window)
                _add_periods(part, tiles, bank, period.shape[1], run)
        if d_theta.numel():
            d_theta.addcmul_(total, factors[index])
        if d_mask.numel():
            d_mask.addcmul_(masks, factors[index])
        if d_coef.numel():
            d_coef[index] += (bank * total).sum()


def _add_tiles(total: torch.Tensor, tiles: torch.Tensor, factors: torch.Tensor, run: Run) -> None:
    """Add to ``total`` the sum over the tiles of gradient times multiplier."""
    for segment in _segments(run.width, factors.shape[1]):
        target, source = _part(total, segment), _part(tiles, segment)
        multiplier = factors[:, None, : segment[2]]
        for group in _groups(run):
            part = source[group].to(total.dtype)
            if len(part) == 1:
                target.addcmul_(part[0], multiplier[group][0])
            else:
                target.add_((part * multiplier[group]).sum(dim=0))


def _add_periods(
    d_mask: torch.Tensor, tiles: torch.Tensor, bank: torch.Tensor, period: int, run: Run
) -> None:
    """Add to ``d_mask`` [tiles, window] the sum of gradient times bank over a window's places."""
    sums = bank.new_zeros(run.tiles, period)
    for segment in _segments(run.width, period):
        source = _part(bank, segment)
        for group in _groups(run):
            part = _part(tiles[group], segment) * source
            sums[group, : segment[2]] += part.sum(dim=1)
    d_mask += sums.unflatten(1, (-1, d_mask.shape[1])).sum(dim=1)
