"""`gather_tile_mask` as Triton kernels: one launch forward, three backward at most.

Forward: a program makes a block of columns of one row looked up. It moves an item of the bank in
and an item out for each element, and an id and some of the mask for each block.

Backward: elements of many rows meet in one element of the bank, which one program must add up. A
program owns a block of the bank and goes over the tiles; there the block is a few rows, and what
was looked up of them stands together once the ids are sorted (stable, so that sums keep their
order). Where a small bank has too few blocks, the tiles are dealt out to several programs, whose
sums the last launch adds up, with those of mask and coefficient. Runs of more than `CHUNK` equal
ids, such as padding's, are first cut into chunks that a launch of their own sums, so that no
program adds up more than ``CHUNK + run / CHUNK`` rows of one run. But rows that are looked up
often and stand in one block and tile are added up one after the other.

With R rows looked up, of c columns, N elements of the bank in B blocks, T tiles, S programs for
each block, and g bytes in an item, it moves ``R c g`` for grad, ``S g N`` for the bank, ``8 N`` for
its gradient (read and written, but for blocks of which nothing was looked up), ``80 T B`` for
partial sums of the mask and for where the ids of each block and tile begin and end, and with S > 1
also ``8 S N``. Besides: the sort, 24 bytes for each block that a row lies in, 8 for each block of
its columns, and ``8 r c / CHUNK`` for r rows in long runs.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false

import functools

import torch
import triton
import triton.language as tl

from npas.kernels.combine.table import ALIGN
from npas.kernels.gather_combine.triton import CHUNK, pick_config, sum_chunks
from npas.kernels.launch import Launch, run_all
from npas.kernels.tile_mask.tiles import window_of
from npas.kernels.tile_mask.triton import Partial, class_sums, mask_factors

# Backward, a block of the bank is four strips. A strip's length is a multiple of the window, so
# that a column of strips has one mask element, and of 16 elements, for 128-bit loads. Shorter
# blocks leave more partial sums of the mask; longer ones take more registers than there are.
STRIPS, STRIP, LANES = 4, 432, 512


@triton.jit
def gather_tile_mask_forward(
    out_ptr,
    theta_ptr,
    mask_ptr,
    coef_ptr,
    ids_ptr,
    n_bank,
    cols,
    n_rows,
    n_blocks,
    HAS_MASK: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make a block of columns of one row."""
    # Scalars are int64, so that a weight can pass 2^31 elements; lanes are int32.
    pid = tl.program_id(0).to(tl.int64)
    index = pid // n_blocks
    column = pid % n_blocks * BLOCK
    row = tl.load(ids_ptr + index).to(tl.int64)
    # An id that is no row is refused on the CPU only. Here it reads row 0, and makes NaN.
    is_row = (row >= 0) & (row < n_rows)
    element = tl.where(is_row, row, 0) * cols + column
    tile = element // n_bank
    position = element - tile * n_bank
    lane = tl.arange(0, BLOCK)
    width = tl.minimum(cols - column, BLOCK).to(tl.int32)
    # Lanes from `left` on lie in later tiles: in the next one, unless the bank is shorter than this
    # block. `later` is constant over 16 lanes where 16 divides bank and columns, which Triton knows
    # of arguments: loads are 128 bits wide without hints.
    period = tl.minimum(n_bank, BLOCK).to(tl.int32)
    left = tl.minimum(n_bank - position, period).to(tl.int32)
    target = index * cols + column
    inside = lane < width
    later = (lane + (period - left)) // period
    source = theta_ptr + position + (lane - later * n_bank)
    value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    value *= tl.load(coef_ptr).to(tl.float32)
    if HAS_MASK:
        begun = (position % WINDOW).to(tl.int32) + lane
        residue = tl.where(later > 0, lane - left - (later - 1) * period, begun) % WINDOW
        place = mask_ptr + WINDOW * (tile - 1) + (WINDOW * later + residue)
        masked = inside & (tile + later > 0)
        value *= tl.load(place, mask=masked, other=1.0).to(tl.float32)
    value = tl.where(is_row, value, float("nan"))
    tl.store(out_ptr + target + lane, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gather_tile_mask_backward(
    d_theta_ptr,
    mask_sums_ptr,
    coef_sums_ptr,
    grad_ptr,
    chunks_ptr,
    theta_ptr,
    mask_ptr,
    coef_ptr,
    ids_ptr,
    order_ptr,
    starts_ptr,
    ends_ptr,
    bounds_ptr,
    n_bank,
    cols,
    n_mask,
    n_tiles,
    n_blocks,
    n_splits,
    NEED_THETA: tl.constexpr,
    NEED_MASK: tl.constexpr,
    NEED_COEF: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Add up what was looked up of one block of the bank, in every n_splits-th tile."""
    pid = tl.program_id(0).to(tl.int64)
    block = pid % n_blocks
    split = pid // n_blocks
    position = block * (STRIPS * STRIP)
    column = tl.arange(0, LANES)
    residue = column % WINDOW
    lane = (tl.arange(0, STRIPS) * STRIP)[:, None] + column[None, :]
    width = tl.minimum(n_bank - position, STRIPS * STRIP).to(tl.int32)
    in_strip = (column < STRIP)[None, :]
    in_bank = in_strip & (lane < width)
    coef = tl.load(coef_ptr).to(tl.float32)
    if NEED_MASK or NEED_COEF:
        theta = tl.load(theta_ptr + position + lane, mask=in_bank, other=0.0).to(tl.float32)
    total = tl.zeros([STRIPS, LANES], tl.float32)
    product = tl.zeros([STRIPS, LANES], tl.float32)
    most = tl.zeros([], tl.int32)
    for tile in tl.range(split, n_tiles, n_splits, disable_licm=True):
        bounds = bounds_ptr + 2 * (block * n_tiles + tile)
        low = tl.load(bounds)
        high = tl.load(bounds + 1)
        sums = tl.zeros([16], tl.float32)
        if low < high:
            most = tl.maximum(most, high - low)
            element = tile * n_bank + position
            # Minus zero plus any number is that number: it marks lanes that nothing is added to.
            nothing = tl.full([STRIPS, LANES], -(2**31), tl.int32).to(tl.float32, bitcast=True)
            part = nothing
            i = low
            while i < high:
                # Where the row begins and ends, seen from the block.
                start = tl.load(ids_ptr + i) * cols - element
                before = tl.maximum(start, 0).to(tl.int32)
                after = tl.minimum(start + cols, width).to(tl.int32)
                run_end = tl.load(ends_ptr + i)
                is_long = run_end - tl.load(starts_ptr + i) > CHUNK
                source = tl.where(is_long, i, tl.load(order_ptr + i)) * cols - start
                inside = in_strip & (lane >= before) & (lane < after)
                if is_long:
                    part += tl.load(chunks_ptr + source + lane, mask=inside, other=nothing)
                    i = tl.minimum(i + CHUNK, run_end)
                else:
                    grad = tl.load(grad_ptr + source + lane, mask=inside, other=nothing)
                    part += grad.to(tl.float32)
                    i += 1
            # What was not looked up may be infinite, and infinity times 0 is not 0.
            found = part.to(tl.int32, bitcast=True) != -(2**31)
            factor = tl.full([LANES], 1.0, tl.float32)
            if HAS_MASK:
                factor = mask_factors(mask_ptr, tile, residue, n_mask, WINDOW)
            if NEED_THETA:
                total += tl.where(found, part * (coef * factor)[None, :], 0.0)
            if NEED_MASK or NEED_COEF:
                part = tl.where(found, part * theta, 0.0)
            if NEED_COEF:
                product += tl.where(found, part * factor[None, :], 0.0)
            if NEED_MASK:
                sums = coef * class_sums(tl.sum(part, axis=0), residue)
        if NEED_MASK:
            kind = tl.arange(0, 16)
            place = (tile * n_blocks + block) * WINDOW + kind
            tl.store(mask_sums_ptr + place, sums, mask=(kind < WINDOW) & (tile > 0))
    if NEED_COEF:
        tl.store(coef_sums_ptr + pid, tl.sum(product))
    if NEED_THETA:
        target = d_theta_ptr + position + lane
        if SPLIT:
            tl.store(target + split * n_bank, total, mask=in_bank)
        else:
            # Nothing for a block that nothing was looked up of. `in_bank` would take registers
            # throughout the loop.
            touched = in_strip & (lane < tl.where(most > 0, width, 0))
            total += tl.load(target, mask=touched, other=0.0)
            tl.store(target, total, mask=touched)


def pick_splits(bank_size: int, n: int, cols: int, n_ids: int) -> int:
    """Return how many programs share the tiles of a block of the bank.

    1024 programs fill a GPU, and one adds up 16 rows at least: its sums of a block are written and
    read again.

    Args:
        bank_size: N, elements of the bank.
        n: elements of the weight.
        cols: columns of the weight.
        n_ids: rows looked up.
    """
    n_blocks = triton.cdiv(bank_size, STRIPS * STRIP)
    rows = n_ids * (cols + STRIPS * STRIP) // bank_size
    return max(1, min(1024 // n_blocks, rows // 16, triton.cdiv(n, bank_size)))


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    mask: torch.Tensor,
    coef: torch.Tensor,
    n: int,
    cols: int,
    ids: torch.Tensor,
) -> list[Launch]:
    """Return the launch that writes the rows into ``out``; none without rows."""
    if not ids.numel():
        return []
    bank_size = theta.numel()
    block, warps = pick_config(cols)
    n_blocks = triton.cdiv(cols, block)
    arguments = {
        "out_ptr": out,
        "theta_ptr": theta,
        "mask_ptr": mask if mask.numel() else theta,
        "coef_ptr": coef,
        "ids_ptr": ids,
        "n_bank": bank_size,
        "cols": cols,
        "n_rows": n // cols,
        "n_blocks": n_blocks,
    }
    constants = {"HAS_MASK": bool(mask.numel()), "WINDOW": window_of(bank_size), "BLOCK": block}
    grid = (ids.numel() * n_blocks,)
    return [Launch(gather_tile_mask_forward, grid, arguments, constants, warps)]


# Constants of a layer: they are made on its device once.
@functools.lru_cache(maxsize=256)
def _tables(
    n: int, cols: int, bank_size: int, splits: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of each block in each tile, and the weight's table for `Partial`.

    Returns:
        [blocks, tiles, 2] int64: the first row, and the one after the last; a program's next tile
        is near in memory. And [2, 2] int64: tiles and segments before the only weight and after.
    """
    size = STRIPS * STRIP
    start = torch.arange(0, bank_size, size, device=device)[:, None]
    tile = torch.arange(0, n, bank_size, device=device)
    first = (tile + start).clamp(max=n)
    end = (tile + (start + size).clamp(max=bank_size)).clamp(max=n)
    rows = torch.stack([first // cols, (end + cols - 1) // cols], dim=-1)
    return rows, torch.tensor([[0, 0], [len(tile), splits]], device=device)


def accumulate_launches(
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
) -> list[Launch]:
    """Return the launches that add the gradients to buffers (float32), of no elements if unwanted.

    The ids are sorted here, by PyTorch on their device.
    """
    need_theta, need_mask, need_coef = (bool(d.numel()) for d in (d_theta, d_mask, d_coef))
    bank_size, n_ids, device = theta.numel(), ids.numel(), theta.device
    if not n_ids or not (need_theta or need_mask or need_coef):
        return []
    splits = pick_splits(bank_size, n, cols, n_ids)
    n_blocks, n_tiles = triton.cdiv(bank_size, STRIPS * STRIP), triton.cdiv(n, bank_size)
    n_programs, window = n_blocks * splits, window_of(bank_size)
    split = need_theta and splits > 1
    ordered, order = torch.sort(ids.reshape(-1).to(torch.int64), stable=True)
    rows, weights = _tables(n, cols, bank_size, splits, device)

    def sums_of(count: int) -> torch.Tensor:
        return theta.new_empty(count, dtype=torch.float32)

    has_chunks = n_ids > CHUNK
    runs = {
        "chunks_ptr": sums_of(n_ids * cols if has_chunks else 0),
        "grad_ptr": grad,
        "order_ptr": order,
        "starts_ptr": torch.searchsorted(ordered, ordered, out_int32=True),
        "ends_ptr": torch.searchsorted(ordered, ordered, right=True, out_int32=True),
        "cols": cols,
    }
    partial = Partial(
        sums_of(splits * bank_size if split else 0),
        sums_of(n_tiles * n_blocks * window if need_mask else 0),
        sums_of(n_programs if need_coef else 0),
        weights,
        n_blocks,
    )
    block, warps = pick_config(cols)
    launches: list[Launch] = []
    if has_chunks:
        arguments = {**runs, "n_blocks": triton.cdiv(cols, block)}
        constants = {"SHORT": CHUNK, "CHUNK": CHUNK, "ALIGNED": cols % ALIGN == 0, "BLOCK": block}
        grid = (n_ids * triton.cdiv(cols, block),)
        launches.append(Launch(sum_chunks, grid, arguments, constants, warps))
    arguments = {
        **runs,
        "d_theta_ptr": partial.parts if split else d_theta,
        "mask_sums_ptr": partial.masks,
        "coef_sums_ptr": partial.coefs,
        "theta_ptr": theta,
        "mask_ptr": mask if mask.numel() else theta,
        "coef_ptr": coef,
        "ids_ptr": ordered,
        "bounds_ptr": torch.searchsorted(ordered, rows, out_int32=True),
        "n_bank": bank_size,
        "n_mask": mask.numel(),
        "n_tiles": n_tiles,
        "n_blocks": n_blocks,
        "n_splits": splits,
    }
    constants = {
        "NEED_THETA": need_theta,
        "NEED_MASK": need_mask,
        "NEED_COEF": need_coef,
        "HAS_MASK": bool(mask.numel()),
        "SPLIT": split,
        "WINDOW": window,
        "CHUNK": CHUNK,
        "STRIPS": STRIPS,
        "STRIP": STRIP,
        "LANES": LANES,
    }
    launches.append(Launch(gather_tile_mask_backward, (n_programs,), arguments, constants))
    return [*launches, *partial.launches(d_theta, d_mask, d_coef, bank_size, n)]


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
    out = theta.new_empty(*ids.shape, cols, dtype=dtype)
    run_all(forward_launches, out, theta, mask, coef, n, cols, ids)
    return out


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
    run_all(accumulate_launches, grad, theta, mask, coef, n, cols, ids, d_theta, d_mask, d_coef)
