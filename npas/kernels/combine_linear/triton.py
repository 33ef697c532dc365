"""`combine_linear` as Triton kernels: a matrix product whose second operand is generated.

A program of `multiply` makes a tile of the output. For each step of the sum it reads a tile of the
weight's k templates, adds them up in registers in float32, rounds the sum to the input's dtype and
multiplies. The gradient of the input is the same kernel with the weight read the other way round.

A program of `weight_gradient` owns a tile of the weight. It adds up the tile's gradient over all
rows of input and grad, in order, keeps it in registers, adds it to each template (templates are
disjoint, so no other program writes there) and writes the tile's part of each coefficient's
gradient, which a last launch adds up in a fixed order. No atomics.

The weight is read once for each tile of rows of the input: `cost` counts what that takes. A weight
of few output features leaves multiprocessors idle, since the sum over the input's features is not
split between programs.
"""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from npas.kernels.backends import interpreting
from npas.kernels.combine.table import ALIGN, AVERAGE, Row
from npas.kernels.combine.triton import sum_launch
from npas.kernels.combine_linear.cost import block_m
from npas.kernels.gather_combine.triton import coefficient_sums, template_factor
from npas.kernels.launch import Launch, run_all

_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# Templates whose loads are written one after the other, so that they are in flight together; a
# loop for each of more. 8 tiles of 64 x 64 in float32 are what 128 threads have registers for.
_UNROLLED = 8


@triton.jit
def _weight_tile(
    theta_ptr,
    coef_ptr,
    gain_ptr,
    source,
    stride,
    offset,
    lanes,
    inside,
    K: tl.constexpr,
    AVERAGES: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    UNROLLED: tl.constexpr,
):
    """Add up a tile of the templates, in float32."""
    total = tl.zeros(lanes.shape, tl.float32)
    if UNROLLED:
        for t in tl.static_range(K):
            if ALIGNED:
                source = tl.multiple_of(source, 16)
            factor = template_factor(coef_ptr, gain_ptr, offset, t, K, AVERAGES, HAS_GAIN)
            found = tl.load(theta_ptr + source + lanes, mask=inside, other=0.0).to(tl.float32)
            total += factor * found
            source += stride
    else:
        for t in range(K):
            if ALIGNED:
                source = tl.multiple_of(source, 16)
            factor = template_factor(coef_ptr, gain_ptr, offset, t, K, AVERAGES, HAS_GAIN)
            found = tl.load(theta_ptr + source + lanes, mask=inside, other=0.0).to(tl.float32)
            total += factor * found
            source += stride
    return total


@triton.jit
def _dot(a, b, total, DTYPE: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr):
    """Add the product of two tiles, rounded to DTYPE, in float32."""
    a = a.to(DTYPE)
    b = b.to(DTYPE)
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def multiply(
    out_ptr,
    a_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    base,
    stride,
    offset,
    n_rows,
    n_cols,
    n_sum,
    ADD: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    K: tl.constexpr,
    AVERAGES: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    UNROLLED: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Make a tile of a W^T, or of a W where TRANSPOSED: a is [n_rows, n_sum]."""
    pid = tl.program_id(0).to(tl.int64)
    # Tiles of the same columns run side by side, and find the templates in the second-level cache.
    tiles = tl.cdiv(n_rows, BLOCK_M)
    row = (pid % tiles) * BLOCK_M
    col = (pid // tiles) * BLOCK_N
    rows = tl.arange(0, BLOCK_M)[:, None]
    cols = tl.arange(0, BLOCK_N)[None, :]
    steps = tl.arange(0, BLOCK_K)
    in_rows = rows < tl.minimum(n_rows - row, BLOCK_M).to(tl.int32)
    in_cols = cols < tl.minimum(n_cols - col, BLOCK_N).to(tl.int32)
    # The weight is [n_cols, n_sum] in memory, or [n_sum, n_cols] where TRANSPOSED.
    if TRANSPOSED:
        lanes = steps[:, None] * n_cols + cols
        source = base + col
        step = BLOCK_K * n_cols
    else:
        lanes = steps[:, None] + cols * n_sum
        source = base + col * n_sum
        step = BLOCK_K
    a_source = row * n_sum
    a_lanes = rows * n_sum + steps[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in tl.range(0, n_sum, BLOCK_K, num_stages=STAGES):
        in_sum = first + steps < n_sum
        a = tl.load(a_ptr + a_source + a_lanes, mask=in_rows & in_sum[None, :], other=0.0)
        weight = _weight_tile(
            theta_ptr,
            coef_ptr,
            gain_ptr,
            source,
            stride,
            offset,
            lanes,
            in_sum[:, None] & in_cols,
            K,
            AVERAGES,
            HAS_GAIN,
            ALIGNED,
            UNROLLED,
        )
        total = _dot(a, weight, total, DTYPE, WIDEN, PRECISION)
        a_source += BLOCK_K
        source += step
    inside = in_rows & in_cols
    target = out_ptr + (row * n_cols + col) + (rows * n_cols + cols)
    if ADD:
        total += tl.load(target, mask=inside, other=0.0).to(tl.float32)
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def weight_gradient(
    d_theta_ptr,
    sums_ptr,
    grad_ptr,
    input_ptr,
    theta_ptr,
    coef_ptr,
    gain_ptr,
    base,
    stride,
    offset,
    n_rows,
    n_out,
    n_in,
    n_programs,
    NEED_THETA: tl.constexpr,
    NEED_COEF: tl.constexpr,
    K: tl.constexpr,
    AVERAGES: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Add the gradient of a tile of the weight, [BLOCK_N, BLOCK_K], to its templates."""
    pid = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(n_in, BLOCK_K)
    out = (pid // tiles) * BLOCK_N
    col = (pid % tiles) * BLOCK_K
    outs = tl.arange(0, BLOCK_N)
    cols = tl.arange(0, BLOCK_K)
    rows = tl.arange(0, BLOCK_M)[:, None]
    in_out = outs < tl.minimum(n_out - out, BLOCK_N).to(tl.int32)
    in_cols = cols < tl.minimum(n_in - col, BLOCK_K).to(tl.int32)
    grads = grad_ptr + out
    inputs = input_ptr + col
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for first in tl.range(0, n_rows, BLOCK_M, num_stages=STAGES):
        in_rows = first + rows < n_rows
        g = tl.load(grads + (rows * n_out + outs[None, :]), mask=in_rows & in_out[None, :], other=0)
        x = tl.load(
            inputs + (rows * n_in + cols[None, :]), mask=in_rows & in_cols[None, :], other=0
        )
        total = _dot(tl.trans(g), x, total, DTYPE, WIDEN, PRECISION)
        grads += BLOCK_M * n_out
        inputs += BLOCK_M * n_in
    inside = in_out[:, None] & in_cols[None, :]
    lanes = outs[:, None] * n_in + cols[None, :]
    place = base + out * n_in + col
    for t in range(K):
        if ALIGNED:
            place = tl.multiple_of(place, 16)
        if NEED_COEF:
            theta = tl.load(theta_ptr + place + lanes, mask=inside, other=0.0).to(tl.float32)
            # Outside the weight an infinity of input times 0 of grad may have left NaN.
            found = tl.sum(tl.where(inside, theta * total, 0.0))
            if HAS_GAIN:
                found *= tl.load(gain_ptr).to(tl.float32)
            tl.store(sums_ptr + t * n_programs + pid, found)
        if NEED_THETA:
            factor = template_factor(coef_ptr, gain_ptr, offset, t, K, AVERAGES, HAS_GAIN)
            target = d_theta_ptr + place + lanes
            tl.store(target, tl.load(target, mask=inside, other=0.0) + factor * total, mask=inside)
        place += stride


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a program's tiles: M rows of input, N output columns, K elements of the sum."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def pick_config(m: int, itemsize: int, template_bytes: int) -> Config:
    """Return the tiles of `multiply`.

    Chosen from what the compiler reports, for want of times: no spills on sm_80, sm_90, sm_100 and
    gfx942, at most 80 kB of shared memory. Float32 is multiplied without matrix instructions on
    NVIDIA, where two stages, or 128 rows, spill. Few rows get narrow tiles, so that there are
    programs enough.

    Args:
        m: rows of the input.
        itemsize: bytes of an element of the input.
        template_bytes: k times the bytes of an element of the bank: what is in flight for each
            element of the weight.
    """
    rows = block_m(m, itemsize)
    if itemsize > 2:
        return Config(rows, 64, 32, 4 if rows <= 16 else 8, 1)
    stages = 2 if template_bytes <= 8 else 1
    return Config(rows, 32 if rows <= 16 else 64, 64, 4 if rows <= 16 else 8, stages)


def pick_gradient_config(m: int, itemsize: int) -> Config:
    """Return the tiles of `weight_gradient`: N x K is the tile of the weight.

    Args:
        m: rows of the input.
        itemsize: bytes of an element of the input.
    """
    return Config(16 if m <= 16 else 32 if itemsize > 2 else 64, 64, 64, 8, 1 if m <= 64 else 2)


def precision(dtype: torch.dtype) -> str:
    """Return how float32 is multiplied: as PyTorch's own products are set to be.

    Args:
        dtype: of the input. Others than float32 are multiplied exactly.
    """
    # On ROCm float32 has matrix instructions of its own, and tf32 is not there on every card.
    allowed = torch.backends.cuda.matmul.fp32_precision == "tf32" and torch.version.hip is None
    return "tf32" if allowed and dtype == torch.float32 else "ieee"


def _modes(
    row: Row, in_features: int, gain: torch.Tensor | None, dtype: torch.dtype
) -> dict[str, object]:
    """Return the constants that both kernels take."""
    stride = row.stride if row.k > 1 else 0
    return {
        "K": row.k,
        "AVERAGES": row.offset == AVERAGE,
        "HAS_GAIN": gain is not None,
        "ALIGNED": not any(value % ALIGN for value in (row.base, stride, in_features)),
        "DTYPE": _DTYPES[dtype],
        # Triton 3.9's interpreter multiplies the bits of bfloat16: there the same in float32.
        "WIDEN": dtype == torch.bfloat16 and interpreting(),
        "PRECISION": precision(dtype),
    }


def _multiply_launch(
    out: torch.Tensor,
    a: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    row: Row,
    out_features: int,
    dtype: torch.dtype,
    *,
    transposed: bool,
) -> Launch:
    """Return the launch of a product with W^T, or with W: added to ``out`` then."""
    in_features = row.n // out_features
    n_cols, n_sum = (in_features, out_features) if transposed else (out_features, in_features)
    n_rows = a.numel() // n_sum
    config = pick_config(n_rows, dtype.itemsize, row.k * theta.dtype.itemsize)
    return Launch(
        multiply,
        (triton.cdiv(n_rows, config.m) * triton.cdiv(n_cols, config.n),),
        {
            "out_ptr": out,
            "a_ptr": a,
            "theta_ptr": theta,
            "coef_ptr": coef,
            "gain_ptr": theta if gain is None else gain,
            "base": row.base,
            "stride": row.stride,
            "offset": row.offset,
            "n_rows": n_rows,
            "n_cols": n_cols,
            "n_sum": n_sum,
        },
        {
            **_modes(row, in_features, gain, dtype),
            "ADD": transposed,
            "TRANSPOSED": transposed,
            "UNROLLED": row.k <= _UNROLLED,
            "STAGES": config.stages,
            "BLOCK_M": config.m,
            "BLOCK_N": config.n,
            "BLOCK_K": config.k,
        },
        config.warps,
    )


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
) -> list[Launch]:
    """Return the launch that writes the product into ``out``."""
    row = Row(*table_row)
    return [
        _multiply_launch(
            out, input, theta, coef, gain, row, out_features, input.dtype, transposed=False
        )
    ]


def accumulate_launches(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
    d_input: torch.Tensor,
) -> list[Launch]:
    """Return the launches that add the gradients to the buffers (float32)."""
    row, dtype = Row(*table_row), input.dtype
    launches = []
    if d_input.numel():
        launches.append(
            _multiply_launch(
                d_input, grad, theta, coef, gain, row, out_features, dtype, transposed=True
            )
        )
    need_coef = bool(d_coef.numel()) and row.offset != AVERAGE
    in_features = row.n // out_features
    n_rows = input.numel() // in_features
    if not n_rows or not (need_coef or d_theta.numel()):
        return launches
    config = pick_gradient_config(n_rows, dtype.itemsize)
    n_programs = triton.cdiv(out_features, config.n) * triton.cdiv(in_features, config.k)
    sums = theta.new_empty(row.k * n_programs if need_coef else 0, dtype=torch.float32)
    launches.append(
        Launch(
            weight_gradient,
            (n_programs,),
            {
                "d_theta_ptr": d_theta,
                "sums_ptr": sums,
                "grad_ptr": grad,
                "input_ptr": input,
                "theta_ptr": theta,
                "coef_ptr": coef,
                "gain_ptr": theta if gain is None else gain,
                "base": row.base,
                "stride": row.stride,
                "offset": row.offset,
                "n_rows": n_rows,
                "n_out": out_features,
                "n_in": in_features,
                "n_programs": n_programs,
            },
            {
                **_modes(row, in_features, gain, dtype),
                "NEED_THETA": bool(d_theta.numel()),
                "NEED_COEF": need_coef,
                "STAGES": config.stages,
                "BLOCK_M": config.m,
                "BLOCK_N": config.n,
                "BLOCK_K": config.k,
            },
            config.warps,
        )
    )
    if need_coef:
        places, first = coefficient_sums(row.offset, row.k, n_programs, theta.device)
        launches.append(sum_launch(d_coef, places, sums, first, len(sums)))
    return launches


def combine_linear(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return [M, out_features] of a flat ``input``; see the reference."""
    in_features = Row(*table_row).n // out_features
    out = input.new_empty(input.numel() // in_features, out_features, dtype=dtype)
    run_all(forward_launches, out, theta, coef, input, gain, table_row, out_features)
    return out


def accumulate(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
    d_input: torch.Tensor,
) -> None:
    """Add the gradients to buffers, of no elements where not wanted; see `eager.accumulate`."""
    run_all(
        accumulate_launches,
        grad,
        theta,
        coef,
        input,
        gain,
        table_row,
        out_features,
        d_theta,
        d_coef,
        d_input,
    )
