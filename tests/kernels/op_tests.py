"""What every op must do, tested on its samples: a test module subclasses `OpTests`."""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from npas.errors import NpasError
from npas.kernels.samples import SAMPLES, OpSamples, Sample
from tests.kernels.checks import Op, call_with_gradients, compare, draw_grad

# Dtypes of the bank and of the output.
PRECISIONS = (
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
)


def at_most(n_elements: int) -> Callable[[Any], Any]:
    """Give a slow test only the samples whose float tensors are at most this large together."""

    def mark(test: Any) -> Any:
        test.at_most = n_elements
        return test

    return mark


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

    @property
    def accumulate_op(self) -> Any:
        return getattr(torch.ops.npas, self.name + "_accumulate").default

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
        full = (s for s in self.case.samples if min(s.sizes[:-1]) > 2 and sum(s.sizes) <= 500)
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

    @at_most(120)
    def test_gradcheck(self, sample: Sample) -> None:
        tensors = sample.tensors(torch.float64)
        leaves = [t.requires_grad_() for t in tensors if t.numel()]

        def call(*found: torch.Tensor) -> torch.Tensor:
            given = iter(found)
            filled = (next(given) if t.numel() else t for t in tensors)
            return self.case.op(*filled, *sample.others())

        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)

    # It sees shapes and strides, not sizes.
    @at_most(400)
    def test_opcheck(self, sample: Sample) -> None:
        tensors, others = sample.tensors(torch.float32), sample.others()
        grad = draw_grad(self.case, sample, torch.float32)
        needs = [True, False, True][: len(tensors)]
        torch.library.opcheck(self.backward_op, (grad, *tensors, *others, needs, "auto"))
        buffers = [torch.randn_like(tensor) for tensor in tensors]
        torch.library.opcheck(self.accumulate_op, (grad, *tensors, *others, *buffers, "auto"))
        leaves = [tensor.requires_grad_() for tensor in tensors]
        torch.library.opcheck(self.forward_op, (*leaves, *others, torch.bfloat16, "auto"))
        torch.library.opcheck(self.forward_op, (*leaves, *others, None, "eager"))

    def test_accumulate_adds(self, sample: Sample) -> None:
        tensors, others = sample.tensors(torch.float32), sample.others()
        grad = draw_grad(self.case, sample, torch.float32)
        right = call_with_gradients(self.case.op, sample, tensors, grad)[1:]
        before = [torch.randn_like(tensor) for tensor in tensors]
        for wanted in itertools.product((False, True), repeat=len(tensors)):
            pairs = list(zip(before, wanted, strict=True))
            buffers = [b.clone() if want else b.new_empty(0) for b, want in pairs]
            self.accumulate_op(grad, *tensors, *others, *buffers, "auto")
            for buffer, start, added in zip(buffers, before, right, strict=True):
                if buffer.numel():
                    torch.testing.assert_close(buffer, start + added, rtol=1e-4, atol=1e-4)

    def test_the_reference_on_request(self) -> None:
        sample = self.typical
        leaves = [tensor.requires_grad_() for tensor in sample.tensors(torch.float64)]
        out = self.case.op(*leaves, *sample.others(), None, "reference")
        assert torch.equal(out, self.case.reference(*leaves, *sample.others()))
        # The definition has second derivatives, unlike the kernels.
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        first[0].sum().backward()
        assert all(leaf.grad is not None for leaf in leaves)

    def test_an_unknown_backend_is_named(self) -> None:
        sample = self.typical
        with pytest.raises(NpasError, match="backend='cuda' is unknown"):
            self.case.op(*sample.tensors(torch.float32), *sample.others(), None, "cuda")

    def test_deterministic_with_threads(self, sample: Sample) -> None:
        torch.set_num_threads(2)
        tensors = sample.tensors(torch.float32)
        grad = draw_grad(self.case, sample, torch.float32)
        first = call_with_gradients(self.case.op, sample, tensors, grad)
        second = call_with_gradients(self.case.op, sample, tensors, grad)
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)

    @at_most(2000)
    def test_gradients_of_a_subset(self, sample: Sample) -> None:
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
            self.backward_op(grad[..., :-1], *tensors, *others, needs, "auto")
