"""`combine` as Triton kernels: one launch for all weights of a bank, two for their gradients.

Forward: a program makes a block of one weight, and reads its templates once. Backward: a program
owns a tile of the bank. It reads the tile once, and the gradient of each window that covers it;
that gives the tile's gradient, with no other program writing there, and the tile's part of each
coefficient's gradient, which a second launch adds up in a fixed order. No atomics.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportPossiblyUnboundVariable=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from npas.kernels.combine.inverse import forward_table, inverse_table
from npas.kernels.combine.table import ROW, output_size
from npas.kernels.launch import Launch, run_all


@triton.jit
def _factor(coef_ptr, gain_ptr, offset, t, k, row, HAS_COEF: tl.constexpr, HAS_GAIN: tl.constexpr):
    """Return what template t of a row is multiplied by, in float32."""
    factor = 1.0 / k.to(tl.float32)
    if HAS_COEF:
        learned = tl.load(coef_ptr + offset + t, mask=offset >= 0, other=0.0).to(tl.float32)
        factor = tl.where(offset >= 0, learned, factor)
    if HAS_GAIN:
        factor = factor * tl.load(gain_ptr + row).to(tl.float32)
    return factor


@triton.jit
def combine_forward(
    out_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    rows_ptr,
    blocks_ptr,
    HAS_COEF: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make a block of one weight."""
    pid = tl.program_id(0).to(tl.int64)
    row = tl.load(blocks_ptr + 2 * pid)
    block = tl.load(blocks_ptr + 2 * pid + 1)
    fields = rows_ptr + 8 * row.to(tl.int64)
    base = tl.load(fields)
    stride = tl.load(fields + 1)
    k = tl.load(fields + 2)
    n = tl.load(fields + 3)
    offset = tl.load(fields + 4)
    out = tl.load(fields + 5)
    end = tl.load(fields + 6)
    aligned = tl.load(fields + 7)
    # Scalars are int64, so that a bank can pass 2^31 elements; lanes are int32.
    first = block.to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    if (aligned != 0) & (first + BLOCK <= n):
        # Begun in each branch: one sum for both would have to move between their layouts.
        total = tl.zeros([BLOCK], tl.float32)
        source = tl.multiple_of(base, 16) + first
        step = tl.multiple_of(stride, 16)
        for t in range(k):
            factor = _factor(coef_ptr, gain_ptr, offset, t, k, row, HAS_COEF, HAS_GAIN)
            place = tl.multiple_of(source + t * step, 16)
            total += factor * tl.load(theta_ptr + place + lane).to(tl.float32)
        target = out_ptr + tl.multiple_of(out + first, 16) + lane
        tl.store(target, total.to(out_ptr.dtype.element_ty))
    else:
        rest = tl.zeros([BLOCK], tl.float32)
        inside = lane < tl.minimum(n - first, BLOCK).to(tl.int32)
        for t in range(k):
            factor = _factor(coef_ptr, gain_ptr, offset, t, k, row, HAS_COEF, HAS_GAIN)
            source = theta_ptr + (base + first + t * stride) + lane
            rest += factor * tl.load(source, mask=inside, other=0.0).to(tl.float32)
        # The zeros up to the next weight are written too; infinity times 0 is kept out of them.
        rest = tl.where(inside, rest, 0.0)
        target = out_ptr + (out + first) + lane
        tl.store(
            target,
            rest.to(out_ptr.dtype.element_ty),
            mask=lane < tl.minimum(end - first, BLOCK).to(tl.int32),
        )


@triton.jit
def combine_backward(
    d_theta_ptr,
    sums_ptr,
    grad_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    windows_ptr,
    tiles_ptr,
    first_ptr,
    entries_ptr,
    n_bank,
    NEED_THETA: tl.constexpr,
    NEED_COEF: tl.constexpr,
    HAS_COEF: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add to a tile of the bank's gradient, and sum up the tile's part of the coefficients'."""
    pid = tl.program_id(0).to(tl.int64)
    tile = tl.load(tiles_ptr + pid).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    in_bank = lane < tl.minimum(n_bank - tile, BLOCK).to(tl.int32)
    low = tl.load(first_ptr + pid)
    high = tl.load(first_ptr + pid + 1)
    if NEED_COEF:
        theta = tl.load(theta_ptr + tile + lane, mask=in_bank, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for entry in range(low, high):
        window = tl.load(entries_ptr + 2 * entry)
        fields = windows_ptr + 6 * window.to(tl.int64)
        start = tl.load(fields)
        end = tl.load(fields + 1)
        weight = tl.load(fields + 2)
        offset = tl.load(fields + 3)
        row = tl.load(fields + 4)
        k = tl.load(fields + 5)
        # Where the window starts and ends, and where its gradient is, seen from the tile.
        before = tl.maximum(start - tile, 0).to(tl.int32)
        after = tl.minimum(end - tile, BLOCK).to(tl.int32)
        source = weight + tile - start
        if ALIGNED:
            before = tl.multiple_of(before, 16)
            after = tl.multiple_of(after, 16)
            source = tl.multiple_of(source, 16)
        inside = (lane >= before) & (lane < after)
        grad = tl.load(grad_ptr + source + lane, mask=inside, other=0.0).to(tl.float32)
        if NEED_THETA:
            total += _factor(coef_ptr, gain_ptr, offset, 0, k, row, HAS_COEF, HAS_GAIN) * grad
        if NEED_COEF:
            place = tl.load(entries_ptr + 2 * entry + 1)
            # Elements outside the window may be infinite, and infinity times 0 is not 0.
            found = tl.sum(tl.where(inside, theta * grad, 0.0))
            if HAS_GAIN:
                found *= tl.load(gain_ptr + row).to(tl.float32)
            tl.store(sums_ptr + place, found, mask=place >= 0)
    if NEED_THETA:
        target = d_theta_ptr + tile + lane
        total += tl.load(target, mask=in_bank, other=0.0)
        tl.store(target, total, mask=in_bank)


@triton.jit
def add_sums(target_ptr, places_ptr, sums_ptr, first_ptr, BLOCK: tl.constexpr):
    """Add up the partial sums of one coefficient, in a fixed order."""
    pid = tl.program_id(0)
    low = tl.load(first_ptr + pid)
    high = tl.load(first_ptr + pid + 1)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(low, high, BLOCK):
        total += tl.load(sums_ptr + start + lane, mask=lane < high - start, other=0.0)
    target = target_ptr + tl.load(places_ptr + pid)
    tl.store(target, tl.load(target) + tl.sum(total))


def pick_block(n: int) -> int:
    """Return how many elements a program makes or owns: 8 or 16 for each of its threads.

    A program of 4 warps has 128 threads (256 on AMD), and 8 elements of bfloat16 are 128 bits. A
    smaller bank or weight gets a smaller block, so that no more than half of it is beyond the end.

    Args:
        n: elements of the largest weight, or of the bank.
    """
    return min(2048, max(16, triton.next_power_of_2(n)))


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
) -> list[Launch]:
    """Return the launch that writes all weights of a table into ``out``."""
    key = tuple(table)
    block = pick_block(max(key[3::ROW]))
    made = forward_table(key, block, theta.device)
    return [
        Launch(
            combine_forward,
            (len(made.blocks),),
            {
                "out_ptr": out,
                "theta_ptr": theta,
                "coef_ptr": coef,
                "gain_ptr": theta if gain is None else gain,
                "rows_ptr": made.rows,
                "blocks_ptr": made.blocks,
            },
            {"HAS_COEF": bool(coef.numel()), "HAS_GAIN": gain is not None, "BLOCK": block},
        )
    ]


def accumulate_launches(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> list[Launch]:
    """Return the launches that add the gradients to ``d_theta`` and ``d_coef`` (float32)."""
    key = tuple(table)
    block = pick_block(theta.numel())
    made = inverse_table(key, block, theta.device)
    need_coef = bool(d_coef.numel()) and made.n_sums > 0
    if not need_coef and not d_theta.numel():
        return []
    sums = theta.new_empty(made.n_sums if need_coef else 0, dtype=torch.float32)
    launches = [
        Launch(
            combine_backward,
            (len(made.tiles),),
            {
                "d_theta_ptr": d_theta,
                "sums_ptr": sums,
                "grad_ptr": grad,
                "theta_ptr": theta,
                "coef_ptr": coef,
                "gain_ptr": theta if gain is None else gain,
                "windows_ptr": made.windows,
                "tiles_ptr": made.tiles,
                "first_ptr": made.first,
                "entries_ptr": made.entries,
                "n_bank": theta.numel(),
            },
            {
                "NEED_THETA": bool(d_theta.numel()),
                "NEED_COEF": need_coef,
                "HAS_COEF": bool(coef.numel()),
                "HAS_GAIN": gain is not None,
                "ALIGNED": made.aligned,
                "BLOCK": block,
            },
        )
    ]
    if need_coef:
        launches.append(sum_launch(d_coef, made.coefs, sums, made.sums, made.n_sums))
    return launches


def sum_launch(
    target: torch.Tensor,
    places: torch.Tensor,
    sums: torch.Tensor,
    first: torch.Tensor,
    n_sums: int,
) -> Launch:
    """Return the launch that adds runs of partial sums to elements of a buffer.

    Args:
        target: [C] float32, added to.
        places: [targets] int32, elements of ``target``.
        sums: [n_sums] float32.
        first: [targets + 1] int32: the sums of target i are ``first[i]`` to ``first[i + 1]``.
        n_sums: elements of ``sums``.
    """
    block = pick_block(-(-n_sums // max(1, len(places))))
    arguments = {
        "target_ptr": target,
        "places_ptr": places,
        "sums_ptr": sums,
        "first_ptr": first,
    }
    return Launch(add_sums, (len(places),), arguments, {"BLOCK": block})


def combine(
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Generate the weights of a table; see `npas.kernels.combine.reference.combine`."""
    out = theta.new_empty(output_size(table), dtype=dtype)
    run_all(forward_launches, out, theta, coef, gain, table)
    return out


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add the gradients of bank and coefficients to buffers, of no elements where not wanted."""
    run_all(accumulate_launches, grad, theta, coef, gain, table, d_theta, d_coef)
