"""`combine_linear` with PyTorch's own operators: the CPU path, and the fallback elsewhere.

The weight is made some output features at a time, and each block is multiplied before the next one
is made in its place: what is held at once is a block, not the weight.
"""

from collections.abc import Iterator, Sequence

import torch

from npas.kernels.accumulate import autocast_off, sum_dtype
from npas.kernels.combine import eager
from npas.kernels.combine.table import Row

# Elements of the weight that are made at a time: 2 MB of float32, which the second-level caches of
# two cores hold. A weight of 4096 x 1024 takes 0.9 ms for one row of input (k = 1), 1.7 ms in
# blocks of 2^17, 2.3 ms in blocks of 2^16: each block costs a few calls. Written and then
# multiplied it takes 2.2 ms.
BLOCK_ELEMENTS = 1 << 19


def _blocks(row: Row, out_features: int) -> Iterator[tuple[slice, Row]]:
    """Cut a weight into blocks of rows: which, and the row of the table that makes them."""
    in_features = row.n // out_features
    step = max(1, BLOCK_ELEMENTS // in_features)
    for first in range(0, out_features, step):
        last = min(first + step, out_features)
        part = row._replace(base=row.base + first * in_features, n=(last - first) * in_features)
        yield slice(first, last), part


def _buffer(row: Row, out_features: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return room for the largest block."""
    _, part = next(_blocks(row, out_features))
    return torch.empty(part.n, dtype=dtype, device=device)


def _make(
    buffer: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    part: Row,
    in_features: int,
) -> torch.Tensor:
    """Make a block of the weight in the buffer: [rows, in_features]."""
    weight = buffer[: part.n]
    kept = sum_dtype(theta, coef)
    factors = eager.factors_of(part, coef, None if gain is None else gain[0], kept)
    eager.combine_into(weight, theta, factors, part)
    return weight.view(-1, in_features)


def combine_linear(
    theta: torch.Tensor,
    coef: torch.Tensor,
    input: torch.Tensor,
    gain: torch.Tensor | None,
    table_row: Sequence[int],
    out_features: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return [M, out_features]; see `npas.kernels.combine_linear.reference.combine_linear`.

    Here ``input`` is flat: M rows of in_features elements.
    """
    row, theta = Row(*table_row), theta.contiguous()
    in_features = row.n // out_features
    rows = input.reshape(-1, in_features)
    out = input.new_empty(len(rows), out_features, dtype=dtype)
    buffer = _buffer(row, out_features, input.dtype, theta.device)
    with autocast_off(theta):
        for features, part in _blocks(row, out_features):
            weight = _make(buffer, theta, coef, gain, part, in_features)
            if dtype == input.dtype:
                torch.mm(rows, weight.t(), out=out[:, features])
            else:
                out[:, features] = rows @ weight.t()
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
    """Add the gradients to buffers, of no elements where not wanted.

    Args:
        grad: [M, out_features], of the output.
        theta: [N] the bank.
        coef: [C] coefficients.
        input: [M * in_features] flat.
        gain: [1] or None.
        table_row: (base, stride, k, n, coef_offset).
        out_features: rows of the weight.
        d_theta: [N] or [0], added to.
        d_coef: [C] or [0], added to.
        d_input: [M * in_features] or [0], added to.
    """
    row, theta = Row(*table_row), theta.contiguous()
    in_features = row.n // out_features
    rows = input.reshape(-1, in_features)
    grad = grad.to(input.dtype)
    need_weight = d_theta.numel() > 0 or d_coef.numel() > 0
    target = d_input.view(-1, in_features)
    buffer = _buffer(row, out_features, input.dtype, theta.device)
    with autocast_off(theta):
        for features, part in _blocks(row, out_features):
            some = grad[:, features]
            if d_input.numel():
                weight = _make(buffer, theta, coef, gain, part, in_features)
                if target.dtype == input.dtype:
                    target.addmm_(some, weight)
                else:
                    target += some @ weight
            if need_weight:
                d_weight = buffer[: part.n]
                torch.mm(some.t(), rows, out=d_weight.view(-1, in_features))
                eager.accumulate(d_weight, theta, coef, gain, part, d_theta, d_coef)
