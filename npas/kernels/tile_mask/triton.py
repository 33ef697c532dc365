"""`tile_mask` as Triton kernels: one launch for all weights of a bank, two at most backward.

The tiles of all weights, one weight after the other, are cut into chunks (`chunks`). Forward: a
program writes one block of the bank to the tiles of a chunk; it reads the block once for each
weight. It moves an item in, at most, and one out for each element.

Backward: a program goes over the tiles of a chunk in one block of the bank, and reads each element
of grad once. That gives the block's gradient, which no other program adds to, a partial sum for
each element of a tile's mask, and one of each coefficient; the second launch adds those up in a
fixed order. No atomics. Where there are many tiles and few blocks, tiles are dealt out to several
chunks, whose gradients of the bank are partial sums too.

A block is strips of 1,008 elements, which 16 (for 128-bit loads) and 9 (the window) divide: each of
the 1,024 lanes, 16 of them idle, reads one element of the mask a tile, and products are summed over
the strips before they are summed by mask element.

With N elements of the bank in B blocks, T tiles, C chunks and g bytes in an item, backward moves
``g sum n_i + g C N + 8 N``, ``72 T B`` for partial sums of the mask, and with C > 1 ``8 C N``.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from npas.kernels.combine.table import ALIGN, starts
from npas.kernels.launch import Launch, run_all
from npas.kernels.tile_mask.chunks import cut
from npas.kernels.tile_mask.tiles import mask_size, window_of

STRIP, LANES = 1008, 1024
# Backward, more strips take more registers than there are; fewer leave more partial sums.
MOST_STRIPS = 4
# Programs that fill a GPU: beyond that a program takes on more tiles.
PROGRAMS = 1024


@triton.jit
def _limit(left, width, ALIGNED: tl.constexpr):
    """Return how many of ``width`` elements are among those ``left``, in int32."""
    limit = tl.minimum(tl.maximum(left, 0), width).to(tl.int32)
    if ALIGNED:
        limit = tl.multiple_of(limit, 16)
    return limit


@triton.jit
def tile_mask_forward(
    out_ptr,
    theta_ptr,
    mask_ptr,
    coef_ptr,
    segments_ptr,
    first_ptr,
    n_bank,
    n_blocks,
    HAS_MASK: tl.constexpr,
    WINDOW: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write one block of the bank to the tiles of one chunk, ROWS tiles at a time."""
    # Scalars and rows are int64, so that a weight can pass 2^31 elements; lanes are int32.
    pid = tl.program_id(0).to(tl.int64)
    chunk = pid // n_blocks
    position = (pid % n_blocks) * BLOCK
    lane = tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS).to(tl.int64)
    width = _limit(n_bank - position, BLOCK, ALIGNED)
    residue = ((position % WINDOW).to(tl.int32) + lane) % WINDOW
    for segment in range(tl.load(first_ptr + chunk), tl.load(first_ptr + chunk + 1)):
        fields = segments_ptr + 6 * segment
        coef = tl.load(coef_ptr + tl.load(fields)).to(tl.float32)
        start = tl.multiple_of(tl.load(fields + 1), 16)
        n = tl.load(fields + 2)
        low = tl.load(fields + 3)
        high = tl.load(fields + 4)
        end = tl.load(fields + 5)
        # The last elements, fewer than 16, are written with the zeros up to the next weight.
        whole = n // 16 * 16
        # No tile of the segment reaches further than its first.
        reach = _limit(whole - (low * n_bank + position), width, ALIGNED)
        theta = tl.load(theta_ptr + position + lane, mask=lane < reach, other=0.0)
        scaled = theta.to(tl.float32) * coef
        for first in range(low, high, ROWS):
            tile = first + row
            before = tile * n_bank + position
            left = tl.where(tile < high, whole - before, 0)
            inside = lane[None, :] < _limit(left, width, ALIGNED)[:, None]
            value = tl.broadcast_to(scaled[None, :], [ROWS, BLOCK])
            if HAS_MASK:
                index = (WINDOW * (tile - 1))[:, None] + residue[None, :]
                masked = inside & (tile > 0)[:, None]
                value *= tl.load(mask_ptr + index, mask=masked, other=1.0).to(tl.float32)
            target = out_ptr + (start + before)[:, None] + lane[None, :]
            tl.store(target, value.to(out_ptr.dtype.element_ty), mask=inside)
        if (end > whole) & (position == 0):
            element = whole + tl.arange(0, 16)
            tile = element // n_bank
            place = element - tile * n_bank
            inside = element < n
            value = coef * tl.load(theta_ptr + place, mask=inside, other=0.0).to(tl.float32)
            if HAS_MASK:
                index = WINDOW * (tile - 1) + place % WINDOW
                masked = inside & (tile > 0)
                value *= tl.load(mask_ptr + index, mask=masked, other=1.0).to(tl.float32)
            # Infinity times 0 is kept out of the zeros.
            value = tl.where(inside, value, 0.0).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + start + element, value, mask=element < end)


@triton.jit
def class_sums(products, residue):
    """Add up products [lanes] over the lanes of each residue: [16]."""
    same = residue[None, :] == tl.arange(0, 16)[:, None]
    # Chosen, not multiplied by 0 and 1: infinity times 0 is not 0.
    return tl.sum(tl.where(same, products[None, :], 0.0), axis=1)


@triton.jit
def mask_factors(mask_ptr, tile, residue, n_mask, WINDOW: tl.constexpr):
    """Return what a tile's lanes are multiplied by: 1 in the first tile."""
    index = WINDOW * (tile - 1) + residue
    # The last window of the largest weight may be cut off, and the mask with it.
    inside = (index >= 0) & (index < n_mask)
    return tl.load(mask_ptr + index, mask=inside, other=1.0).to(tl.float32)


@triton.jit
def tile_mask_backward(
    d_theta_ptr,
    mask_sums_ptr,
    coef_sums_ptr,
    grad_ptr,
    theta_ptr,
    mask_ptr,
    coef_ptr,
    segments_ptr,
    first_ptr,
    weights_ptr,
    n_bank,
    n_blocks,
    n_mask,
    NEED_THETA: tl.constexpr,
    NEED_MASK: tl.constexpr,
    NEED_COEF: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    ALIGNED: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Go over the tiles of one chunk, in one block of the bank."""
    pid = tl.program_id(0).to(tl.int64)
    chunk = pid // n_blocks
    block = pid % n_blocks
    position = block * (STRIPS * STRIP)
    column = tl.arange(0, LANES)
    residue = column % WINDOW
    lane = (tl.arange(0, STRIPS) * STRIP)[:, None] + column[None, :]
    in_strip = (column < STRIP)[None, :]
    width = _limit(n_bank - position, STRIPS * STRIP, ALIGNED)
    in_bank = in_strip & (lane < width)
    if NEED_MASK or NEED_COEF:
        theta = tl.load(theta_ptr + position + lane, mask=in_bank, other=0.0).to(tl.float32)
    total = tl.zeros([STRIPS, LANES], tl.float32)
    for segment in range(tl.load(first_ptr + chunk), tl.load(first_ptr + chunk + 1)):
        fields = segments_ptr + 6 * segment
        weight = tl.load(fields)
        start = tl.multiple_of(tl.load(fields + 1), 16)
        n = tl.load(fields + 2)
        low = tl.load(fields + 3)
        high = tl.load(fields + 4)
        coef = tl.load(coef_ptr + weight).to(tl.float32)
        number = tl.load(weights_ptr + 2 * weight)
        product = tl.zeros([LANES], tl.float32)
        for tile in tl.range(low, high, disable_licm=True):
            before = tile * n_bank + position
            inside = in_strip & (lane < _limit(n - before, width, ALIGNED))
            source = grad_ptr + (start + before) + lane
            grad = tl.load(source, mask=inside, other=0.0).to(tl.float32)
            factor = tl.full([LANES], 1.0, tl.float32)
            if HAS_MASK:
                factor = mask_factors(mask_ptr, tile, residue, n_mask, WINDOW)
            if NEED_MASK or NEED_COEF:
                # What is outside the weight may be infinite, and infinity times 0 is not 0.
                found = tl.sum(tl.where(inside, grad * theta, 0.0), axis=0)
            if NEED_COEF:
                # A factor that no lane reads may be infinite too.
                used = (column < STRIP) & (column < _limit(n - before, width, ALIGNED))
                product += tl.where(used, found * factor, 0.0)
            if NEED_MASK:
                kind = tl.arange(0, 16)
                place = ((number + tile) * n_blocks + block) * WINDOW + kind
                sums = coef * class_sums(found, residue)
                tl.store(mask_sums_ptr + place, sums, mask=(kind < WINDOW) & (tile > 0))
            if NEED_THETA:
                total += tl.where(inside, grad * (coef * factor)[None, :], 0.0)
        if NEED_COEF:
            tl.store(coef_sums_ptr + segment * n_blocks + block, tl.sum(product))
    if NEED_THETA:
        target = d_theta_ptr + position + lane
        if SPLIT:
            target += chunk * n_bank
        else:
            total += tl.load(target, mask=in_bank, other=0.0)
        tl.store(target, total, mask=in_bank)


@triton.jit
def tile_mask_sums(
    d_theta_ptr,
    d_mask_ptr,
    d_coef_ptr,
    parts_ptr,
    mask_sums_ptr,
    coef_sums_ptr,
    weights_ptr,
    n_bank,
    n_parts,
    n_mask,
    n_weights,
    n_blocks,
    n_masks,
    n_coefs,
    WINDOW: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up partial sums: of a tile's mask, of a coefficient, or of a block of the bank."""
    pid = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    if pid < n_masks:
        kind = tl.arange(0, 16)[None, :]
        row = tl.arange(0, ROWS)[:, None]
        tile = pid + 1
        sums = tl.zeros([ROWS, 16], tl.float32)
        for weight in range(n_weights):
            number = tl.load(weights_ptr + 2 * weight)
            if tile < tl.load(weights_ptr + 2 * weight + 2) - number:
                source = mask_sums_ptr + (number + tile) * n_blocks * WINDOW
                for start in range(0, n_blocks, ROWS):
                    kept = (row < n_blocks - start) & (kind < WINDOW)
                    place = (start + row) * WINDOW + kind
                    sums += tl.load(source + place, mask=kept, other=0.0)
        found = tl.sum(sums, axis=0)
        index = WINDOW * pid + tl.arange(0, 16)
        inside = (tl.arange(0, 16) < WINDOW) & (index < n_mask)
        found += tl.load(d_mask_ptr + index, mask=inside, other=0.0)
        tl.store(d_mask_ptr + index, found, mask=inside)
    elif pid < n_masks + n_coefs:
        weight = pid - n_masks
        first = tl.load(weights_ptr + 2 * weight + 1) * n_blocks
        end = tl.load(weights_ptr + 2 * weight + 3) * n_blocks
        partial = tl.zeros([BLOCK], tl.float32)
        for begin in range(first, end, BLOCK):
            partial += tl.load(coef_sums_ptr + begin + lane, mask=lane < end - begin, other=0.0)
        coef = d_coef_ptr + weight
        tl.store(coef, tl.load(coef) + tl.sum(partial))
    else:
        position = (pid - n_masks - n_coefs) * BLOCK
        inside = lane < _limit(n_bank - position, BLOCK, ALIGNED)
        total = tl.zeros([BLOCK], tl.float32)
        source = parts_ptr + position
        for _ in range(n_parts):
            total += tl.load(source + lane, mask=inside, other=0.0)
            source += n_bank
        target = d_theta_ptr + position + lane
        tl.store(target, tl.load(target, mask=inside, other=0.0) + total, mask=inside)


@dataclass(frozen=True, slots=True)
class Partial:
    """Partial sums of gradients, each of no elements where it is not wanted.

    Attributes:
        parts: [P * N] float32, of the bank.
        masks: [tiles * n_blocks * window] float32, of the masks; tile 0 of a weight is not written.
        coefs: [segments * n_blocks] float32, of the coefficients.
        weights: [weights + 1, 2] int64: each weight's first tile, and its first segment.
        n_blocks: blocks of the bank.
    """

    parts: torch.Tensor
    masks: torch.Tensor
    coefs: torch.Tensor
    weights: torch.Tensor
    n_blocks: int

    def launches(
        self, d_theta: torch.Tensor, d_mask: torch.Tensor, d_coef: torch.Tensor, n_bank: int, n: int
    ) -> list[Launch]:
        """Return the launch that adds them to the buffers, none where there are none.

        Args:
            d_theta: [N], or [0] where there are no ``parts``.
            d_mask: [M], or [0] where there are no ``masks``.
            d_coef: [weights], or [0] where there are no ``coefs``.
            n_bank: N.
            n: elements of the largest weight.
        """
        window, n_parts = window_of(n_bank), self.parts.numel() // n_bank
        used = mask_size(n_bank, n) if self.masks.numel() else 0
        block = min(1024, max(16, triton.next_power_of_2(n_bank)))
        n_masks, n_coefs = triton.cdiv(used, window), d_coef.numel()
        n_programs = n_masks + n_coefs + (triton.cdiv(n_bank, block) if n_parts else 0)
        if not n_programs:
            return []
        arguments = {
            "d_theta_ptr": d_theta,
            "d_mask_ptr": d_mask,
            "d_coef_ptr": d_coef,
            "parts_ptr": self.parts,
            "mask_sums_ptr": self.masks,
            "coef_sums_ptr": self.coefs,
            "weights_ptr": self.weights,
            "n_bank": n_bank,
            "n_parts": n_parts,
            "n_mask": used,
            "n_weights": len(self.weights) - 1,
            "n_blocks": self.n_blocks,
            "n_masks": n_masks,
            "n_coefs": n_coefs,
        }
        constants = {
            "WINDOW": window,
            "ALIGNED": n_bank % ALIGN == 0,
            "ROWS": min(64, triton.next_power_of_2(self.n_blocks)),
            "BLOCK": block,
        }
        return [Launch(tile_mask_sums, (n_programs,), arguments, constants)]


@dataclass(frozen=True, slots=True)
class Config:
    """How much of bank and weights a program takes on.

    Attributes:
        rows: tiles at a time.
        lanes: elements of the bank.
        length: tiles of a chunk.
    """

    rows: int
    lanes: int
    length: int


def pick_forward(n_bank: int, tiles: Sequence[int]) -> Config:
    """Return the forward kernel's block and chunk.

    2,048 elements are 16 for each of 128 threads; a smaller bank gets several tiles at a time.

    Args:
        n_bank: N, elements of the bank.
        tiles: of each weight.
    """
    lanes = min(2048, max(16, triton.next_power_of_2(n_bank)))
    rows = min(2048 // lanes, triton.next_power_of_2(max(tiles)))
    length = sum(tiles) * triton.cdiv(n_bank, lanes) // PROGRAMS
    return Config(rows, lanes, max(rows, length))


def pick_backward(n_bank: int, tiles: Sequence[int], itemsize: int) -> Config:
    """Return the backward kernel's block and chunk.

    A chunk reads its block of the bank, writes its gradient in float32 and has that read again: as
    many bytes as ``8 + itemsize`` for each element, which 320 bytes of grad make 3% at most.

    Args:
        n_bank: N, elements of the bank.
        tiles: of each weight.
        itemsize: bytes of an element of grad.
    """
    strips = min(MOST_STRIPS, triton.next_power_of_2(triton.cdiv(n_bank, STRIP)))
    n_blocks = triton.cdiv(n_bank, strips * STRIP)
    n_chunks = max(1, min(PROGRAMS // n_blocks, sum(tiles) * itemsize // 320))
    return Config(1, strips * STRIP, triton.cdiv(sum(tiles), n_chunks))


def _tiles(sizes: Sequence[int], n_bank: int) -> list[int]:
    return [triton.cdiv(n, n_bank) for n in sizes]


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
) -> list[Launch]:
    """Return the launch that writes all weights into ``out``."""
    n_bank = theta.numel()
    config = pick_forward(n_bank, _tiles(sizes, n_bank))
    made = cut(tuple(sizes), n_bank, config.length, theta.device)
    n_blocks = triton.cdiv(n_bank, config.lanes)
    arguments = {
        "out_ptr": out,
        "theta_ptr": theta,
        "mask_ptr": mask if mask.numel() else theta,
        "coef_ptr": coef,
        "segments_ptr": made.segments,
        "first_ptr": made.first,
        "n_bank": n_bank,
        "n_blocks": n_blocks,
    }
    constants = {
        "HAS_MASK": bool(mask.numel()),
        "WINDOW": window_of(n_bank),
        "ALIGNED": n_bank % ALIGN == 0,
        "ROWS": config.rows,
        "BLOCK": config.lanes,
    }
    return [Launch(tile_mask_forward, (made.n_chunks * n_blocks,), arguments, constants)]


def accumulate_launches(
    grad: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    d_theta: torch.Tensor,
    d_mask: torch.Tensor,
    d_coef: torch.Tensor,
) -> list[Launch]:
    """Return the launches that add the gradients to the buffers (float32)."""
    need_theta, need_mask, need_coef = (bool(d.numel()) for d in (d_theta, d_mask, d_coef))
    if not (need_theta or need_mask or need_coef):
        return []
    n_bank, window = theta.numel(), window_of(theta.numel())
    config = pick_backward(n_bank, _tiles(sizes, n_bank), grad.dtype.itemsize)
    made = cut(tuple(sizes), n_bank, config.length, theta.device)
    n_blocks = triton.cdiv(n_bank, config.lanes)
    split = need_theta and made.n_chunks > 1

    def sums(count: int) -> torch.Tensor:
        return theta.new_empty(count, dtype=torch.float32)

    partial = Partial(
        sums(made.n_chunks * n_bank if split else 0),
        sums(made.n_tiles * n_blocks * window if need_mask else 0),
        sums(len(made.segments) * n_blocks if need_coef else 0),
        made.weights,
        n_blocks,
    )
    arguments = {
        "d_theta_ptr": partial.parts if split else d_theta,
        "mask_sums_ptr": partial.masks,
        "coef_sums_ptr": partial.coefs,
        "grad_ptr": grad,
        "theta_ptr": theta,
        "mask_ptr": mask if mask.numel() else theta,
        "coef_ptr": coef,
        "segments_ptr": made.segments,
        "first_ptr": made.first,
        "weights_ptr": made.weights,
        "n_bank": n_bank,
        "n_blocks": n_blocks,
        "n_mask": mask.numel(),
    }
    constants = {
        "NEED_THETA": need_theta,
        "NEED_MASK": need_mask,
        "NEED_COEF": need_coef,
        "HAS_MASK": bool(mask.numel()),
        "SPLIT": split,
        "WINDOW": window,
        "ALIGNED": not any(count % ALIGN for count in (n_bank, *sizes)),
        "STRIPS": config.lanes // STRIP,
        "STRIP": STRIP,
        "LANES": LANES,
    }
    # 16 elements a thread. Four warps would need 254 registers, of 255 that there are.
    launch = Launch(tile_mask_backward, (made.n_chunks * n_blocks,), arguments, constants, 8)
    return [launch, *partial.launches(d_theta, d_mask, d_coef, n_bank, max(sizes))]


def tile_mask(
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    sizes: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate weights; see `npas.kernels.tile_mask.reference.tile_mask`."""
    out = theta.new_empty(starts(sizes)[1], dtype=dtype)
    run_all(forward_launches, out, theta, mask, coef, sizes)
    return out


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
    """Add the gradients to buffers, of no elements where not wanted."""
    run_all(accumulate_launches, grad, theta, mask, coef, sizes, d_theta, d_mask, d_coef)
