"""Comparison of an op with its reference: output and every gradient."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from npas.kernels.samples import OpSamples, Sample

Op = Callable[..., torch.Tensor]


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """Let ``torch.empty`` return NaN, so that an element never written cannot look right."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def call_with_gradients(
    op: Op,
    sample: Sample,
    tensors: Sequence[torch.Tensor],
    grad: torch.Tensor,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> list[torch.Tensor]:
    """Return the output and the gradient of every tensor, zeros where there is none."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = op(*leaves, *sample.others(), dtype, *([backend] if backend != "auto" else []))
    assert out.shape == grad.shape
    grads = torch.autograd.grad(out, leaves, grad.to(out.dtype), materialize_grads=True)
    return [out.detach(), *grads]


def draw_grad(case: OpSamples, sample: Sample, dtype: torch.dtype) -> torch.Tensor:
    """Draw a gradient for the output, of unit normals rounded to ``dtype``."""
    meta = case.op(*sample.tensors(dtype, device="meta"), *sample.others(device="meta"))
    source = torch.Generator().manual_seed(1)
    return torch.randn(meta.shape, generator=source, dtype=torch.float64).to(dtype)


def compare(
    case: OpSamples,
    sample: Sample,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    op: Op | None = None,
    backend: str = "auto",
) -> None:
    """Compare output and gradients with the reference in float64, on the same rounded inputs.

    A result in half precision may be wrong by its one rounding, since sums are kept in float32; by
    two where the op rounds a weight on the way.
    Otherwise it may be wrong by twice what the reference is in that dtype, and 16 units of the root
    of the sum of squares of what is summed: a result near zero by cancellation is as wrong as a
    large one. (Every op is linear in each tensor, so that squared inputs give those sums.)

    Args:
        case: the op and its reference.
        sample: arguments.
        dtype: of the float tensors.
        out_dtype: of the output.
        op: what to compare with the reference instead of the case's op.
        backend: of the op.

    Raises:
        AssertionError: naming what differs, by how much, and what was allowed.
    """
    op, reference = op or case.op, case.reference
    tensors, grad = sample.tensors(dtype), draw_grad(case, sample, out_dtype)
    exact_inputs = [tensor.double() for tensor in tensors]
    exact = call_with_gradients(reference, sample, exact_inputs, grad.double())
    squares = [tensor.square() for tensor in exact_inputs]
    sums = call_with_gradients(reference, sample, squares, grad.double().square())
    eager = call_with_gradients(reference, sample, tensors, grad, out_dtype)
    with uninitialised_is_nan():
        found = call_with_gradients(op, sample, tensors, grad, out_dtype, backend)
    for index, (ours, theirs, right, total) in enumerate(
        zip(found, eager, exact, sums, strict=True)
    ):
        wanted = out_dtype if index == 0 else dtype
        assert ours.dtype == wanted, f"result {index} is {ours.dtype}, not {wanted}"
        if not right.numel():
            continue
        kept = torch.promote_types(wanted, torch.float32)
        # In float64 the reference, which is no nearer to the truth than we are, has its share.
        units = 64 if kept == torch.float64 else 16
        allowed = units * torch.finfo(kept).eps * total.max().sqrt().item()
        if wanted == kept:
            allowed += 2 * (theirs.double() - right).abs().max().item()
        else:
            # Triton's interpreter cuts off where a GPU and PyTorch round: a whole unit.
            cut = backend == "triton" and (index == 0 or case.roundings > 1)
            unit = case.roundings * (1.0 if cut else 0.5)
            allowed += unit * torch.finfo(wanted).eps * right.abs().max().item()
        error = (ours.double() - right).abs().max().item()
        # Written so that NaN fails.
        assert error <= allowed, f"result {index}: error {error:.3g}, allowed {allowed:.3g}"
