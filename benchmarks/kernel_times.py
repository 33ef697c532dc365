"""Rows of ``python -m benchmarks.kernels``: what each op takes, beside what it is compared with.

Each case is timed forward and backward, in rounds in which these take turns:

- the op: forward as it is called, backward as training calls it (``<op>_accumulate``, which adds
  to float32 buffers);
- a copy of as many bytes, reads plus writes, between two tensors that are there already;
- the naive form (`benchmarks.kernel_naive`), backward by autograd into ``.grad``;
- autograd through the reference, likewise;
- for `combine_linear` the same with the weight written by `combine`, the gradients added as it adds
  them (`written`).

Before that, the op and the naive form are compared with the reference in float64. On the CPU the
bytes are what PyTorch's operators read and write (`benchmarks.traffic`). On a CUDA device the op
runs its Triton kernels and rounds are timed by events; the bytes are then None, since it is
``--aot`` that counts those. That path has not been run: no such device was at hand.
"""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernel_cases import (
    BACKWARD,
    BF16,
    FORWARD,
    FP16,
    FP32,
    NAMES,
    Case,
    cases_of,
    combine_sample,
    gather_sample,
    gather_tile_sample,
    linear_sample,
    tile_sample,
)
from benchmarks.kernel_floors import floor_bytes
from benchmarks.kernel_naive import NAIVE
from benchmarks.runner import Call, Times, environment, paired
from benchmarks.traffic import bytes_moved
from npas.kernels import combine
from npas.kernels.combine.table import ROW, starts

Row = dict[str, Any]

#: Largest error allowed, against the largest value expected.
TOLERANCE = {FP32: 1e-5, BF16: 2e-2, FP16: 2e-3}

CASES: tuple[Case, ...] = (
    Case(
        "combine",
        combine_sample("linear 256 x 256, K=4", (0, 65_536, 4, 65_536)),
        quick=True,
    ),
    Case("combine", combine_sample("linear 3072 x 768, K=4", (0, 2_359_296, 4, 2_359_296))),
    Case("combine", combine_sample("linear 3072 x 768, K=1", (0, 0, 1, 2_359_296)), (FP32,)),
    Case(
        "combine",
        combine_sample("linear 768 x 768, K=4, stride n / 2", (0, 294_912, 4, 589_824)),
        (FP32,),
    ),
    Case(
        "combine",
        combine_sample(
            "conv 160 x 160 x 3 x 3, K=4, 8 of them in a call",
            *((28_800 * i, 230_400, 4, 230_400) for i in range(8)),
        ),
        (FP32,),
    ),
    Case("tile_mask", tile_sample("bank 4,096, weight 65,536", 4_096, 65_536), quick=True),
    Case("tile_mask", tile_sample("bank 524,288, weight 3,686,400", 524_288, 3_686_400)),
    Case(
        "tile_mask",
        tile_sample("bank 524,288, weight 3,686,400, repeated", 524_288, 3_686_400, masked=False),
        (FP32,),
    ),
    Case(
        "gather_combine",
        gather_sample("256 x 64, K=4, 64 rows", (0, 16_384, 4, 16_384), 64, (64,)),
        quick=True,
    ),
    Case(
        "gather_combine",
        gather_sample("8192 x 768, K=4, 1,024 rows", (0, 6_291_456, 4, 6_291_456), 768, (8, 128)),
    ),
    Case(
        "gather_tile_mask",
        gather_tile_sample("bank 4,096, 256 x 64, 64 rows", 4_096, 256, 64, (64,)),
        quick=True,
    ),
    Case(
        "gather_tile_mask",
        gather_tile_sample("bank 524,288, 8192 x 768, 1,024 rows", 524_288, 8192, 768, (8, 128)),
    ),
    Case(
        "combine_linear",
        linear_sample("256 x 256, K=4, 1 row", (0, 65_536, 4, 65_536), 256, 1),
        quick=True,
    ),
    *(
        Case(
            "combine_linear",
            linear_sample(
                f"3072 x 768, K={k}, {rows} rows", (0, 2_359_296, k, 2_359_296), 3072, rows
            ),
            (FP32,),
        )
        for k in (1, 4)
        for rows in (1, 8, 128)
    ),
)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A case's tensors on the device, and the gradient of its output."""

    tensors: list[torch.Tensor]
    others: list[Any]
    grad: torch.Tensor


def rows(
    *, device: torch.device, rounds: int, quick: bool = False, op: str | None = None
) -> list[Row]:
    """Check and time the cases.

    Args:
        device: the CPU, where the op's backend is eager, or a CUDA device, where it is triton.
        rounds: how often each variant is timed.
        quick: only the cases that ``--quick`` looks at.
        op: only its cases.
    """
    found: list[Row] = []
    where = environment(device)
    for case in cases_of("benchmarks.kernel_times", quick=quick, op=op):
        for dtype in case.dtypes:
            check(case, dtype, device)
            for direction in (FORWARD, BACKWARD):
                found.append(_row(case, direction, dtype, device, rounds) | where)
    return found


def _row(case: Case, direction: str, dtype: torch.dtype, device: torch.device, rounds: int) -> Row:
    given = _prepare(case, dtype, device)
    floor = floor_bytes(case.op, case.sample, direction, dtype)
    variants = _forward(case, given) if direction == FORWARD else _backward(case, given)
    if case.op == "combine_linear":
        variants["written"] = _written(direction, given)
    source = torch.ones(floor // 8, device=device)
    target = torch.empty_like(source)
    times = paired(variants | {"copy": lambda: target.copy_(source)}, device, rounds)
    return {
        "op": case.op,
        "shape": case.sample.label,
        "direction": direction,
        "dtype": NAMES[dtype],
        "backend": backend_of(device),
        "bytes": bytes_moved(_eager(case, direction, given)) if device.type == "cpu" else None,
        "floor_bytes": floor,
        **timings(times),
    }


def timings(times: Times, op: str = "op", copy: str = "copy") -> Row:
    """Return the columns that come from the clock.

    Args:
        times: with the variants ``naive`` and ``reference``.
        op: the variant that the row is about.
        copy: the one that moves as many bytes.
    """
    return {
        "ms": times.ms(op),
        "spread": times.spread(op),
        "ratio_copy": times.ratio(op, copy),
        "ratio_naive": times.ratio(op, "naive"),
        "ratio_reference": times.ratio(op, "reference"),
        "ratio_written": times.ratio(op, "written"),
    }


def backend_of(device: torch.device) -> str:
    """Return what runs where."""
    return "triton" if device.type == "cuda" else "eager"


def _prepare(case: Case, dtype: torch.dtype, device: torch.device) -> _Prepared:
    tensors = case.sample.tensors(dtype, device=str(device))
    others = case.sample.others(device=str(device))
    out = _op(case, tensors, others, "eager")
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return _Prepared(tensors, others, grad.to(device, dtype))


def _op(case: Case, tensors: Sequence[torch.Tensor], others: Sequence[Any], backend: str) -> Any:
    module = importlib.import_module(f"npas.kernels.{case.op}.op")
    return module._op.call(*tensors, *others, None, backend)


def _forward(case: Case, given: _Prepared) -> dict[str, Call]:
    backend = backend_of(given.grad.device)
    return {
        "op": lambda: _op(case, given.tensors, given.others, backend),
        "naive": lambda: NAIVE[case.op](given.tensors, given.others),
        "reference": lambda: _op(case, given.tensors, given.others, "reference"),
    }


def _backward(case: Case, given: _Prepared) -> dict[str, Call]:
    backend = backend_of(given.grad.device)
    accumulate = getattr(torch.ops.npas, f"{case.op}_accumulate")
    buffers = [torch.zeros_like(t, dtype=FP32) for t in given.tensors]

    def by_autograd(make: Any) -> Call:
        leaves = [t.detach().clone().requires_grad_() for t in given.tensors]
        outs = make(leaves)
        grads = pieces(case, given) if isinstance(outs, list) else [given.grad]
        outs = outs if isinstance(outs, list) else [outs]
        return lambda: torch.autograd.backward(outs, grads, retain_graph=True)

    return {
        "op": lambda: accumulate(given.grad, *given.tensors, *given.others, *buffers, backend),
        "naive": by_autograd(lambda leaves: NAIVE[case.op](leaves, given.others)),
        "reference": by_autograd(lambda leaves: _op(case, leaves, given.others, "reference")),
    }


def _written(direction: str, given: _Prepared) -> Call:
    """Return a product whose weight, and its gradient, are written."""
    (theta, coef, flat), (gain, row, out_features) = given.tensors, given.others
    backend = backend_of(given.grad.device)
    rows = flat.view(given.grad.shape[0], -1)
    buffers = [torch.zeros_like(t, dtype=FP32) for t in given.tensors]

    def forward() -> torch.Tensor:
        weight = combine(theta, coef, gain, row, None, backend)
        return F.linear(rows, weight.view(out_features, -1))

    def backward() -> None:
        weight = combine(theta, coef, gain, row, None, backend).view(out_features, -1)
        buffers[2].view(rows.shape).add_(given.grad @ weight)
        d_weight = (given.grad.t() @ rows).view(-1)
        torch.ops.npas.combine_accumulate(
            d_weight, theta, coef, gain, row, buffers[0], buffers[1], backend
        )

    return forward if direction == FORWARD else backward


def _eager(case: Case, direction: str, given: _Prepared) -> Call:
    """Return the op without its custom op, whose inside a dispatch mode does not see."""
    module = importlib.import_module(f"npas.kernels.{case.op}.eager")
    if direction == FORWARD:
        return lambda: getattr(module, case.op)(*given.tensors, *given.others, given.grad.dtype)
    buffers = [torch.zeros_like(t, dtype=FP32) for t in given.tensors]
    return lambda: module.accumulate(given.grad, *given.tensors, *given.others, *buffers)


def pieces(case: Case, given: _Prepared) -> list[torch.Tensor]:
    """Return the gradient of each of the naive form's outputs."""
    if case.op not in ("combine", "tile_mask"):
        return [given.grad]
    sizes = given.others[1][3::ROW] if case.op == "combine" else given.others[0]
    places = starts(sizes)[0]
    return [given.grad[start : start + n] for start, n in zip(places, sizes, strict=True)]


def check(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Compare the op and the naive form, and their gradients, with the reference in float64.

    Raises:
        AssertionError: naming the case and what differs.
    """
    given = _prepare(case, dtype, device)
    exact = [t.detach().cpu().double().requires_grad_() for t in given.tensors]
    others = [o.cpu() if isinstance(o, torch.Tensor) else o for o in given.others]
    expected = _op(case, exact, others, "reference")
    expected.backward(given.grad.cpu().double())
    wanted = [expected, *(t.grad for t in exact)]
    backend = backend_of(device)
    accumulate = getattr(torch.ops.npas, f"{case.op}_accumulate")
    buffers = [torch.zeros_like(t, dtype=FP32) for t in given.tensors]
    accumulate(given.grad, *given.tensors, *given.others, *buffers, backend)
    made = _op(case, given.tensors, given.others, backend)
    n = given.grad.numel()
    _compare(f"{case.op} ({case.sample.label})", dtype, [made, *buffers], wanted, n)
    leaves = [t.detach().clone().requires_grad_() for t in given.tensors]
    outs, grads = NAIVE[case.op](leaves, given.others), pieces(case, given)
    torch.autograd.backward(outs, grads)
    parts = pieces(case, _Prepared(given.tensors, given.others, expected.detach()))
    # The naive form sums in the dtype itself, so that its error is larger.
    _compare("its naive form", dtype, outs, parts, n, slack=16)
    _compare("its naive form", dtype, (t.grad for t in leaves), wanted[1:], n, slack=16)


def _compare(
    what: str,
    dtype: torch.dtype,
    found: Iterable[torch.Tensor | None],
    expected: Iterable[torch.Tensor | None],
    n_terms: int,
    slack: float = 1,
) -> None:
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b is None or not b.numel():
            continue
        assert a is not None, f"{what}: no gradient {index}"
        error = float((a.detach().cpu().double().view(-1) - b.detach().view(-1)).abs().max())
        # A sum of many products of unit normals may cancel: its size is what it would be otherwise.
        size = max(float(b.detach().abs().max()), (n_terms / b.numel()) ** 0.5)
        bound = slack * TOLERANCE[dtype] * size
        assert error <= bound, f"{what}, {NAMES[dtype]}: result {index} is off by {error:.2e}"
