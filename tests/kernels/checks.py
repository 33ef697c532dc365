"""What every op must do, tested on its samples: a test module subclasses `OpTests`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from npas.kernels.samples import SAMPLES, OpSamples, Sample

Op = Callable[..., torch.Tensor]
# Dtypes of the bank and of the output.
PRECISIONS = (
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
)


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
) -> list[torch.Tensor]:
    """Return the output and the gradient of every tensor, zeros where there is none."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = op(*leaves, *sample.others(), dtype)
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
) -> None:
    """Compare output and gradients with the reference in float64, on the same rounded inputs.

    A result in half precision may be wrong by its one rounding, since sums are kept in float32.
    Otherwise it may be wrong by twice what the reference is in that dtype, and 16 units of the root
    of the sum of squares of what is summed: a result near zero by cancellation is as wrong as a
    large one. (Every op is linear in each tensor, so that squared inputs give those sums.)

    Args:
        case: the op and its reference.
        sample: arguments.
        dtype: of the float tensors.
        out_dtype: of the output.
        op: what to compare with the reference instead of the case's op.

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
        found = call_with_gradients(op, sample, tensors, grad, out_dtype)
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
            allowed += 0.5 * torch.finfo(wanted).eps * right.abs().max().item()
        error = (ours.double() - right).abs().max().item()
        # Written so that NaN fails.
        assert error <= allowed, f"result {index}: error {error:.3g}, allowed {allowed:.3g}"


def small(sample: Sample, limit: int) -> bool:
    """Whether a sample has few enough elements for a slow check."""
    return sum(sample.sizes) <= limit


class OpTests:
    """Tests that every op has in common."""

    name: ClassVar[str]

    @property
    def case(self) -> OpSamples:
        """The op, its reference and its samples."""
        return SAMPLES[self.name]

    @property
    def forward_op(self) -> Any:
        return getattr(torch.ops.npas, self.name).default

    @property
    def backward_op(self) -> Any:
        return getattr(torch.ops.npas, self.name + "_backward").default

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        """FLOPs of the forward and of the whole backward op."""
        raise NotImplementedError

    @property
    def wrong(self) -> Op:
        """An op that computes something close to what the reference computes."""
        raise NotImplementedError

    @property
    def typical(self) -> Sample:
        """A sample with several elements of everything."""
        full = (s for s in self.case.samples if min(s.sizes[:-1]) > 2 and small(s, 500))
        return max(full, key=lambda sample: sum(sample.sizes))

    def test_fp64(self, sample: Sample) -> None:
        compare(self.case, sample, torch.float64, torch.float64)

    @pytest.mark.parametrize(("dtype", "out_dtype"), PRECISIONS, ids=str)
    def test_precision(self, sample: Sample, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
        compare(self.case, sample, dtype, out_dtype)

    def test_comparison_catches_a_wrong_op(self) -> None:
        with pytest.raises(AssertionError, match="result 0: error"):
            compare(self.case, self.typical, torch.float64, torch.float64, self.wrong)

    def test_comparison_catches_a_wrong_gradient(self) -> None:
        def wrong(theta: torch.Tensor, *others: Any) -> torch.Tensor:
            right = self.case.op(theta, *others)
            return right + 1e-9 * (right - right.detach())

        with pytest.raises(AssertionError, match="result 1: error"):
            compare(self.case, self.typical, torch.float64, torch.float64, wrong)

    def test_comparison_catches_an_element_not_written(self) -> None:
        def wrong(*arguments: Any) -> torch.Tensor:
            right = self.case.op(*arguments)
            end = torch.empty_like(right.flatten()[:1])
            return torch.cat([right.flatten()[:-1], end]).view(right.shape)

        with pytest.raises(AssertionError, match="result 0: error nan"):
            compare(self.case, self.typical, torch.float64, torch.float64, wrong)

    def test_gradcheck(self, sample: Sample) -> None:
        if not small(sample, 120):
            pytest.skip("too large for finite differences")
        leaves = [t.requires_grad_() for t in sample.tensors(torch.float64) if t.numel()]
        empty = [t for t in sample.tensors(torch.float64) if not t.numel()]

        def call(*found: torch.Tensor) -> torch.Tensor:
            filled = (*found[:1], *empty, *found[1:])
            return self.case.op(*filled, *sample.others())

        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)

    def test_opcheck(self, sample: Sample) -> None:
        if not small(sample, 400):
            pytest.skip("opcheck sees shapes and strides, not sizes")
        tensors, others = sample.tensors(torch.float32), sample.others()
        grad = draw_grad(self.case, sample, torch.float32)
        needs = [True, False, True][: len(tensors)]
        torch.library.opcheck(self.backward_op, (grad, *tensors, *others, needs))
        leaves = [tensor.requires_grad_() for tensor in tensors]
        torch.library.opcheck(self.forward_op, (*leaves, *others, torch.bfloat16))
        torch.library.opcheck(self.forward_op, (*leaves, *others))

    def test_deterministic(self, sample: Sample) -> None:
        tensors = sample.tensors(torch.float32)
        grad = draw_grad(self.case, sample, torch.float32)
        first = call_with_gradients(self.case.op, sample, tensors, grad)
        second = call_with_gradients(self.case.op, sample, tensors, grad)
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)

    def test_gradients_of_a_subset(self, sample: Sample) -> None:
        if not small(sample, 2000):
            pytest.skip("eight runs of a large sample say no more than one")
        grad = draw_grad(self.case, sample, torch.float32)
        tensors = sample.tensors(torch.float32)
        whole = call_with_gradients(self.case.op, sample, tensors, grad)[1:]
        for needs in itertools.product((False, True), repeat=len(tensors)):
            leaves = [t.clone().requires_grad_(n) for t, n in zip(tensors, needs, strict=True)]
            out = self.case.op(*leaves, *sample.others())
            assert out.requires_grad == any(needs)
            if any(needs):
                out.backward(grad)
            for leaf, need, expected in zip(leaves, needs, whole, strict=True):
                assert (leaf.grad is not None) == need
                assert leaf.grad is None or torch.equal(leaf.grad, expected)

    def test_output_is_no_view(self, sample: Sample) -> None:
        tensors = sample.tensors(torch.float32)
        ones = [torch.ones_like(tensor) for tensor in tensors]
        for inputs in (tensors, ones):
            out = self.case.op(*inputs, *sample.others())
            starts = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            assert not out.numel() or out.untyped_storage().data_ptr() not in starts

    def test_meta(self, sample: Sample) -> None:
        tensors = [t.requires_grad_() for t in sample.tensors(torch.float32, device="meta")]
        out = self.case.op(*tensors, *sample.others(device="meta"), torch.bfloat16)
        real = self.case.reference(*sample.tensors(torch.float32), *sample.others())
        assert (out.device.type, out.shape, out.dtype) == ("meta", real.shape, torch.bfloat16)
        out.sum().backward()
        assert all(t.grad is not None and t.grad.shape == t.shape for t in tensors)

    def test_strided_inputs_and_gradient(self) -> None:
        sample = self.typical
        tensors = sample.tensors(torch.float64)
        drawn = draw_grad(self.case, sample, torch.float64)
        grad = drawn[..., :1].expand(drawn.shape)
        expected = call_with_gradients(self.case.op, sample, tensors, grad.contiguous())
        leaves = [t.repeat_interleave(2)[::2].requires_grad_() for t in tensors]
        out = self.case.op(*leaves, *sample.others())
        found = [out, *torch.autograd.grad(out, leaves, grad)]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    def test_mixed_dtypes(self) -> None:
        sample = self.typical
        tensors = sample.tensors(torch.bfloat16)
        tensors[-1] = tensors[-1].float()
        grad = draw_grad(self.case, sample, torch.bfloat16)
        found = call_with_gradients(self.case.op, sample, tensors, grad)
        wanted = [torch.bfloat16, *(tensor.dtype for tensor in tensors)]
        assert [result.dtype for result in found] == wanted

    def test_autocast_changes_nothing(self) -> None:
        sample = self.typical
        tensors = sample.tensors(torch.float32)
        grad = draw_grad(self.case, sample, torch.float32)
        expected = call_with_gradients(self.case.op, sample, tensors, grad)
        with torch.autocast("cpu", torch.bfloat16):
            found = call_with_gradients(self.case.op, sample, tensors, grad)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == torch.float32 and torch.equal(one, other)

    def test_second_derivative_is_an_error(self) -> None:
        sample = self.typical
        leaves = [tensor.requires_grad_() for tensor in sample.tensors(torch.float32)]
        out = self.case.op(*leaves, *sample.others())
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"npas::{self.name} has no second"):
            first[0].sum().backward()

    def test_compiles_to_one_graph(self) -> None:
        sample = self.typical
        others = sample.others()

        def call(*tensors: torch.Tensor) -> torch.Tensor:
            return self.case.op(*tensors, *others)

        grad = draw_grad(self.case, sample, torch.float32)
        tensors = sample.tensors(torch.float32)
        expected = call_with_gradients(self.case.op, sample, tensors, grad)
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        leaves = [tensor.requires_grad_() for tensor in tensors]
        out = compiled(*leaves)
        found = [out, *torch.autograd.grad(out, leaves, grad)]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    def test_function_transforms(self) -> None:
        sample = self.typical
        tensors = sample.tensors(torch.float64)
        grads = torch.stack([draw_grad(self.case, sample, torch.float64)] * 2)
        grads[1] *= 2
        argnums = tuple(range(len(tensors)))
        others = sample.others()

        def loss(*arguments: torch.Tensor) -> torch.Tensor:
            *inputs, grad = arguments
            return (self.case.op(*inputs, *others) * grad).sum()

        expected = call_with_gradients(self.case.op, sample, tensors, grads[0])[1:]
        per_sample = torch.func.vmap(
            torch.func.grad(loss, argnums), in_dims=(*(None for _ in tensors), 0)
        )
        for found, right in zip(per_sample(*tensors, grads), expected, strict=True):
            torch.testing.assert_close(found, torch.stack([right, 2 * right]))
        banks = torch.stack([tensors[0], -tensors[0]])
        out = torch.func.vmap(lambda bank: self.case.op(bank, *tensors[1:], *others))
        right = self.case.op(*tensors, *others)
        torch.testing.assert_close(out(banks), torch.stack([right, -right]))

    def test_flops(self, sample: Sample) -> None:
        leaves = [t.requires_grad_() for t in sample.tensors(torch.float32, device="meta")]
        with FlopCounterMode(display=False) as counter:
            out = self.case.op(*leaves, *sample.others(device="meta"))
            out.sum().backward()
        counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        forward, backward = self.flops(sample, out.numel())
        names = f"npas.{self.name}", f"npas.{self.name}_backward"
        assert [counted.get(name, 0) for name in names] == [forward, backward]

    def test_bad_tensors(self) -> None:
        sample = self.typical
        others = sample.others()
        tensors = sample.tensors(torch.float32)
        for index, name in enumerate(self.case.tensors):
            bad = (tensors[index].view(1, -1), tensors[index].long(), tensors[index].to("meta"))
            for tensor in bad:
                inputs = [*tensors[:index], tensor, *tensors[index + 1 :]]
                # The device is the bank's: with another one every other tensor is the wrong one.
                wrong = self.case.tensors[1] if index == 0 and tensor.is_meta else name
                with pytest.raises(ValueError, match=f"{self.name}: {wrong} must be"):
                    self.case.op(*inputs, *others)
        grad = draw_grad(self.case, sample, torch.float32)
        needs = [True] * len(tensors)
        with pytest.raises(ValueError, match="grad must have shape"):
            self.backward_op(grad[..., :-1], *tensors, *others, needs)
