"""`tile_mask` with PyTorch's own operators: the CPU path, and the fallback on other devices.

Tiles are multiplied as [tiles, repeats, period] views, where a period is a whole number of
windows: an innermost dimension of 9 would leave no room for vector instructions.
"""

from collections.abc import Iterator, Sequence

import torch

from npas.kernels.accumulate import sum_dtype
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
    theta: torch.Tensor, mask: torch.Tensor, coef: torch.Tensor, n: int, dtype: torch.dtype
) -> torch.Tensor:
    """Generate one weight; see `npas.kernels.tile_mask.reference.tile_mask`."""
    bank_size, kept = theta.numel(), sum_dtype(theta, mask, coef)
    window = window_of(bank_size)
    out = theta.new_empty(n, dtype=dtype)
    bank, mask, coef = theta.to(kept), mask.to(kept), coef.to(kept)
    for run in runs(bank_size, n):
        factors = _factors(mask, run, window) * coef
        tiles = _tiles(out, run, bank_size)
        for segment in _segments(run.width, factors.shape[1]):
            source, target = _part(bank, segment), _part(tiles, segment)
            multiplier = factors[:, None, : segment[2]]
            if dtype == kept:
                torch.mul(source, multiplier, out=target)
                continue
            for group in _groups(run):
                target[group].copy_(source * multiplier[group])
    return out


def tile_mask_backward(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of bank, mask and coefficient; an empty one where not needed.

    The gradient of the bank is coef times a sum S over the tiles, and that of the coefficient is
    the product of the bank and S, so that neither has to read ``grad`` again.
    """
    need_theta, need_mask, need_coef = needs
    bank_size, kept = theta.numel(), sum_dtype(theta, mask, coef)
    window = window_of(bank_size)
    grad = grad.contiguous()
    bank, factor, multipliers = theta.to(kept), coef.to(kept), mask.to(kept)
    need_sum = need_theta or need_coef
    total = bank.new_zeros(bank_size if need_sum else 0)
    d_mask = bank.new_zeros(mask.numel() if need_mask else 0)
    for run in runs(bank_size, grad.numel()):
        factors = _factors(multipliers, run, window)
        tiles = _tiles(grad, run, bank_size)
        if need_sum:
            _add_tiles(total, tiles, factors, run)
        if d_mask.numel() and run.first > 0:
            _add_periods(_mask_of(d_mask, run, window), tiles, bank, factors.shape[1], run)
    d_theta = total * factor if need_theta else bank.new_zeros(0)
    d_coef = (bank * total).sum().reshape(1) if need_coef else bank.new_zeros(0)
    return d_theta.to(theta.dtype), (d_mask * factor).to(mask.dtype), d_coef.to(coef.dtype)


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
