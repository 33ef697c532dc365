"""`gather_combine` as Triton kernels: one launch forward, three backward.

Forward: a program makes a block of columns of one row looked up, and reads its templates once.
It moves k items in and one out for each element, and an id for each block.

Backward: ids repeat, and an element of the bank must be written by one program only. The ids are
sorted (stable, so that equal ids stay in order), and each run of equal ids is summed by the
program of its first position, in float32. Runs of more than `CHUNK` rows, such as padding's, are
first cut into chunks that a launch of their own sums, so that no program adds up more than
``CHUNK + run / CHUNK`` rows. With u rows different, r rows in all and g bytes in an item of grad,
it moves ``r cols g`` for grad, ``8 k u cols`` for the bank's gradient (read and written) and
``k u cols`` items of the bank for the coefficients', besides the ids: the sort, 8 k bytes for each
block of columns of the r rows, and at most ``8 r cols / CHUNK`` for chunks.

Where templates overlap, two rows meet in one element of the bank through different templates.
Then each template has a launch of its own, which is free of conflicts; each reads the sums of the
runs again, so runs are summed before: ``8 u cols`` bytes, and ``4 u cols`` for each template.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportPossiblyUnboundVariable=false

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from npas.kernels.combine.table import ALIGN, AVERAGE, Row
from npas.kernels.combine.triton import sum_launch
from npas.kernels.launch import Launch, run_all

# Rows of a run that one program adds up: 32 rows of latency, and a 32nd of grad for chunks.
CHUNK = 32


@triton.jit
def template_factor(
    coef_ptr, gain_ptr, offset, t, K: tl.constexpr, AVERAGES: tl.constexpr, HAS_GAIN: tl.constexpr
):
    """Return what template t of a weight is multiplied by, in float32."""
    if AVERAGES:
        factor = tl.full([], 1.0 / K, tl.float32)
    else:
        factor = tl.load(coef_ptr + offset + t).to(tl.float32)
    if HAS_GAIN:
        factor = factor * tl.load(gain_ptr).to(tl.float32)
    return factor


@triton.jit
def _columns(block, cols, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """Return a block's lanes, and which of them are columns of the weight."""
    lane = tl.arange(0, BLOCK)
    width = tl.minimum(cols - block * BLOCK, BLOCK).to(tl.int32)
    if ALIGNED:
        width = tl.multiple_of(width, 16)
    return lane, lane < width


@triton.jit
def gather_forward(
    out_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    ids_ptr,
    base,
    stride,
    offset,
    cols,
    n_rows,
    n_blocks,
    K: tl.constexpr,
    AVERAGES: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make a block of columns of one row."""
    pid = tl.program_id(0).to(tl.int64)
    position = pid // n_blocks
    block = pid % n_blocks
    row = tl.load(ids_ptr + position).to(tl.int64)
    lane, inside = _columns(block, cols, ALIGNED, BLOCK)
    # An id that is no row is refused on the CPU only. Here it reads row 0, and makes NaN.
    is_row = (row >= 0) & (row < n_rows)
    source = base + tl.where(is_row, row, 0) * cols + block * BLOCK
    total = tl.zeros([BLOCK], tl.float32)
    for t in range(K):
        factor = template_factor(coef_ptr, gain_ptr, offset, t, K, AVERAGES, HAS_GAIN)
        if ALIGNED:
            source = tl.multiple_of(source, 16)
        found = tl.load(theta_ptr + source + lane, mask=inside, other=0.0).to(tl.float32)
        total += factor * found
        source += stride
    total = tl.where(is_row, total, float("nan"))
    target = position * cols + block * BLOCK
    if ALIGNED:
        target = tl.multiple_of(target, 16)
    tl.store(out_ptr + target + lane, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _sum_rows(grad_ptr, order_ptr, low, high, start, cols, lane, inside, ALIGNED: tl.constexpr):
    """Add up rows of grad in sorted order."""
    total = tl.zeros(lane.shape, tl.float32)
    for i in range(low, high):
        source = tl.load(order_ptr + i) * cols + start
        if ALIGNED:
            source = tl.multiple_of(source, 16)
        total += tl.load(grad_ptr + source + lane, mask=inside, other=0.0).to(tl.float32)
    return total


@triton.jit
def sum_chunks(
    chunks_ptr,
    grad_ptr,
    order_ptr,
    starts_ptr,
    ends_ptr,
    cols,
    n_blocks,
    SHORT: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the rows of one chunk of a run that is longer than SHORT."""
    pid = tl.program_id(0).to(tl.int64)
    position = (pid // n_blocks).to(tl.int32)
    block = pid % n_blocks
    start = tl.load(starts_ptr + position)
    end = tl.load(ends_ptr + position)
    if (end - start > SHORT) & ((position - start) % CHUNK == 0):
        lane, inside = _columns(block, cols, ALIGNED, BLOCK)
        high = tl.minimum(position + CHUNK, end)
        total = _sum_rows(
            grad_ptr, order_ptr, position, high, block * BLOCK, cols, lane, inside, ALIGNED
        )
        target = (pid // n_blocks) * cols + block * BLOCK
        if ALIGNED:
            target = tl.multiple_of(target, 16)
        tl.store(chunks_ptr + target + lane, total, mask=inside)


@triton.jit
def gather_backward(
    d_theta_ptr,
    sums_ptr,
    chunks_ptr,
    grad_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    ids_ptr,
    order_ptr,
    starts_ptr,
    ends_ptr,
    base,
    stride,
    offset,
    cols,
    n_rows,
    n_blocks,
    n_programs,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    NEED_THETA: tl.constexpr,
    NEED_COEF: tl.constexpr,
    SHORT: tl.constexpr,
    CHUNK: tl.constexpr,
    K: tl.constexpr,
    AVERAGES: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the rows of one run and add them to templates FIRST to LAST."""
    pid = tl.program_id(0).to(tl.int64)
    position = (pid // n_blocks).to(tl.int32)
    block = pid % n_blocks
    start = tl.load(starts_ptr + position)
    end = tl.load(ends_ptr + position)
    row = tl.load(ids_ptr + position).to(tl.int64)
    if (position == start) & (row >= 0) & (row < n_rows):
        lane, inside = _columns(block, cols, ALIGNED, BLOCK)
        if end - start > SHORT:
            total = tl.zeros([BLOCK], tl.float32)
            source = (pid // n_blocks) * cols + block * BLOCK
            for _ in range(start, end, CHUNK):
                if ALIGNED:
                    source = tl.multiple_of(source, 16)
                total += tl.load(chunks_ptr + source + lane, mask=inside, other=0.0)
                source += CHUNK * cols
        else:
            total = _sum_rows(
                grad_ptr, order_ptr, start, end, block * BLOCK, cols, lane, inside, ALIGNED
            )
        place = base + row * cols + block * BLOCK
        if FIRST > 0:
            # Not FIRST * stride, which may pass 2^31.
            for _ in range(FIRST):
                place += stride
        for t in range(FIRST, LAST):
            if ALIGNED:
                place = tl.multiple_of(place, 16)
            if NEED_COEF:
                theta = tl.load(theta_ptr + place + lane, mask=inside, other=0.0).to(tl.float32)
                found = tl.sum(theta * total)
                if HAS_GAIN:
                    found *= tl.load(gain_ptr).to(tl.float32)
                tl.store(sums_ptr + t * n_programs + pid, found)
            if NEED_THETA:
                factor = template_factor(coef_ptr, gain_ptr, offset, t, K, AVERAGES, HAS_GAIN)
                target = d_theta_ptr + place + lane
                added = tl.load(target, mask=inside, other=0.0) + factor * total
                tl.store(target, added, mask=inside)
            place += stride
    elif NEED_COEF:
        for t in range(FIRST, LAST):
            tl.store(sums_ptr + t * n_programs + pid, 0.0)


def pick_config(cols: int) -> tuple[int, int]:
    """Return the columns that a program makes, and its warps.

    16 elements for each thread of a warp, 8 on AMD: at least 128 bits of bfloat16. With twice the
    warps AMD's loads are 64 bits wide.

    Args:
        cols: columns of the weight.
    """
    block = min(1024, max(16, triton.next_power_of_2(cols)))
    return block, max(1, block // 512)


def _aligned(row: Row, cols: int) -> bool:
    stride = row.stride if row.k > 1 else 0
    return not any(value % ALIGN for value in (row.base, stride, cols))


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
) -> list[Launch]:
    """Return the launch that writes the rows into ``out``."""
    row = Row(*table_row)
    block, warps = pick_config(cols)
    n_blocks = triton.cdiv(cols, block)
    return [
        Launch(
            gather_forward,
            (ids.numel() * n_blocks,),
            {
                "out_ptr": out,
                "theta_ptr": theta,
                "coef_ptr": coef,
                "gain_ptr": theta if gain is None else gain,
                "ids_ptr": ids,
                "base": row.base,
                "stride": row.stride,
                "offset": row.offset,
                "cols": cols,
                "n_rows": row.n // cols,
                "n_blocks": n_blocks,
            },
            {
                "K": row.k,
                "AVERAGES": row.offset == AVERAGE,
                "HAS_GAIN": gain is not None,
                "ALIGNED": _aligned(row, cols),
                "BLOCK": block,
            },
            warps,
        )
    ]


@functools.lru_cache(maxsize=256)
def coefficient_sums(
    offset: int, k: int, n_programs: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which coefficients [k, n_programs] partial sums belong to, and where each starts."""
    places = torch.arange(offset, offset + k, dtype=torch.int32, device=device)
    return places, torch.arange(k + 1, dtype=torch.int32, device=device) * n_programs


def accumulate_launches(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> list[Launch]:
    """Return the launches that add the gradients to ``d_theta`` and ``d_coef`` (float32).

    The ids are sorted here, by PyTorch on their device.
    """
    row, n_ids = Row(*table_row), ids.numel()
    need_theta = bool(d_theta.numel())
    need_coef = bool(d_coef.numel()) and row.offset != AVERAGE
    if not n_ids or not (need_theta or need_coef):
        return []
    overlap = need_theta and row.k > 1 and row.stride < row.n
    ordered, order = torch.sort(ids.reshape(-1), stable=True)
    starts = torch.searchsorted(ordered, ordered, out_int32=True)
    ends = torch.searchsorted(ordered, ordered, right=True, out_int32=True)
    block, warps = pick_config(cols)
    n_blocks = triton.cdiv(cols, block)
    n_programs = n_ids * n_blocks
    chunks = theta.new_empty(n_ids * cols, dtype=torch.float32)
    sums = theta.new_empty(row.k * n_programs if need_coef else 0, dtype=torch.float32)
    runs = {
        "chunks_ptr": chunks,
        "grad_ptr": grad,
        "order_ptr": order,
        "starts_ptr": starts,
        "ends_ptr": ends,
        "cols": cols,
        "n_blocks": n_blocks,
    }
    constants = {
        # A launch for each template would add up short runs k times.
        "SHORT": 1 if overlap else CHUNK,
        "CHUNK": CHUNK,
        "ALIGNED": _aligned(row, cols),
        "BLOCK": block,
    }
    launches = [Launch(sum_chunks, (n_programs,), runs, constants, warps)]
    arguments = {
        "d_theta_ptr": d_theta,
        "sums_ptr": sums,
        **runs,
        "theta_ptr": theta,
        "coef_ptr": coef,
        "gain_ptr": theta if gain is None else gain,
        "ids_ptr": ordered,
        "base": row.base,
        "stride": row.stride,
        "offset": row.offset,
        "n_rows": row.n // cols,
        "n_programs": n_programs,
    }
    modes = {
        **constants,
        "NEED_THETA": need_theta,
        "NEED_COEF": need_coef,
        "K": row.k,
        "AVERAGES": row.offset == AVERAGE,
        "HAS_GAIN": gain is not None,
    }
    spans = [(t, t + 1) for t in range(row.k)] if overlap else [(0, row.k)]
    for first, last in spans:
        span = {"FIRST": first, "LAST": last}
        launches.append(Launch(gather_backward, (n_programs,), arguments, modes | span, warps))
    if need_coef:
        places, first_sums = coefficient_sums(row.offset, row.k, n_programs, theta.device)
        launches.append(sum_launch(d_coef, places, sums, first_sums, len(sums)))
    return launches


def gather_combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate rows; see `npas.kernels.gather_combine.reference.gather_combine`."""
    out = theta.new_empty(*ids.shape, cols, dtype=dtype)
    run_all(forward_launches, out, theta, coef, gain, table_row, cols, ids)
    return out


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    cols: int,
    ids: torch.Tensor,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of bank and coefficients to buffers, of no elements where not wanted."""
    run_all(accumulate_launches, grad, theta, coef, gain, table_row, cols, ids, d_theta, d_coef)
