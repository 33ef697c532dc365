"""What every op's Triton kernels must do, in the interpreter: a test module subclasses it."""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

from npas.kernels.launch import Launch
from npas.kernels.samples import SAMPLES, OpSamples, Sample
from tests.kernels.checks import call_with_gradients, compare, draw_grad
from tests.kernels.op_tests import PRECISIONS, at_most

# The interpreter takes about 2 ms a program.
LARGEST = 20_000


@dataclass
class Launches:
    """The kernels that ran, and the one that leaves out its last program."""

    seen: list[str] = field(default_factory=list)
    broken: str | None = None

    def run(self, launch: Launch) -> None:
        self.seen.append(launch.name)
        grid = launch.grid
        if launch.name == self.broken:
            longest = max(range(len(grid)), key=lambda axis: grid[axis])
            grid = tuple(n - (axis == longest) for axis, n in enumerate(grid))
        if 0 not in grid:
            launch.kernel[grid](**launch.arguments, **launch.constants)


class KernelTests:
    """Tests that the kernels of every op have in common."""

    name: ClassVar[str]

    @property
    def case(self) -> OpSamples:
        """The op, its reference and its samples."""
        return SAMPLES[self.name]

    @property
    def accumulate_op(self) -> Any:
        return getattr(torch.ops.npas, self.name + "_accumulate").default

    @property
    def ragged(self) -> Sample:
        """A sample of several elements of everything, in more than one block."""
        full = (s for s in self.case.samples if min(s.sizes[:-1]) > 2 and sum(s.sizes) <= LARGEST)
        return max(full, key=lambda sample: sum(sample.sizes))

    @at_most(LARGEST)
    @pytest.mark.parametrize(("dtype", "out_dtype"), PRECISIONS, ids=str)
    def test_precision(self, sample: Sample, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
        compare(self.case, sample, dtype, out_dtype, backend="triton")

    @at_most(LARGEST)
    def test_two_runs_are_the_same_bits(self, sample: Sample) -> None:
        tensors = sample.tensors(torch.float32)
        grad = draw_grad(self.case, sample, torch.float32)
        runs = [
            call_with_gradients(self.case.op, sample, tensors, grad, backend="triton")
            for _ in range(2)
        ]
        for one, other in zip(*runs, strict=True):
            assert torch.equal(one, other)

    @at_most(2_000)
    def test_accumulate_adds(self, sample: Sample) -> None:
        tensors, others = sample.tensors(torch.float32), sample.others()
        grad = draw_grad(self.case, sample, torch.float32)
        right = call_with_gradients(self.case.op, sample, tensors, grad)[1:]
        before = [torch.randn_like(tensor) for tensor in tensors]
        for wanted in itertools.product((False, True), repeat=len(tensors)):
            pairs = list(zip(before, wanted, strict=True))
            buffers = [b.clone() if want else b.new_empty(0) for b, want in pairs]
            self.accumulate_op(grad, *tensors, *others, *buffers, "triton")
            for buffer, start, added in zip(buffers, before, right, strict=True):
                if buffer.numel():
                    torch.testing.assert_close(buffer, start + added, rtol=1e-4, atol=1e-4)

    def test_strided_inputs_and_gradient(self) -> None:
        sample = self.ragged
        tensors = sample.tensors(torch.float32)
        drawn = draw_grad(self.case, sample, torch.float32)
        grad = drawn[..., :1].expand(drawn.shape)
        expected = call_with_gradients(
            self.case.op, sample, tensors, grad.contiguous(), backend="triton"
        )
        leaves = [t.repeat_interleave(2)[::2].requires_grad_() for t in tensors]
        out = self.case.op(*leaves, *sample.others(), None, "triton")
        found = [out, *torch.autograd.grad(out, leaves, grad)]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    def test_a_bank_off_its_alignment(self) -> None:
        sample = self.ragged
        tensors = sample.tensors(torch.float32)
        grad = draw_grad(self.case, sample, torch.float32)
        expected = call_with_gradients(self.case.op, sample, tensors, grad, backend="triton")
        moved = [torch.cat([t.new_zeros(1), t])[1:] for t in tensors]
        assert any(t.data_ptr() % 16 for t in moved)
        leaves = [t.requires_grad_() for t in moved]
        out = self.case.op(*leaves, *sample.others(), None, "triton")
        found = [out, *torch.autograd.grad(out, leaves, grad)]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, on inf * 0
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_and_infinity_go_where_the_definition_takes_them(self, value: float) -> None:
        sample = self.ragged
        tensors = sample.tensors(torch.float32)
        tensors[0][len(tensors[0]) // 2] = value
        grad = draw_grad(self.case, sample, torch.float32)
        found = call_with_gradients(self.case.op, sample, tensors, grad, backend="triton")
        right = call_with_gradients(self.case.reference, sample, tensors, grad)
        assert not right[0].isfinite().all() and right[0].isfinite().any()
        for one, other in zip(found, right, strict=True):
            assert torch.equal(one.isnan(), other.isnan())
            assert torch.equal(one.isinf(), other.isinf())

    def test_a_wrong_kernel_is_caught(self, launches: "Launches") -> None:
        """Each kernel in turn leaves out its last program: none may pass the comparison."""
        sample = self.ragged
        compare(self.case, sample, torch.float32, torch.float32, backend="triton")
        names = list(dict.fromkeys(launches.seen))
        assert len(names) >= 2, "forward and backward are different kernels"
        for name in names:
            launches.broken = name
            with pytest.raises(AssertionError, match=r"result \d: error"):
                compare(self.case, sample, torch.float32, torch.float32, backend="triton")
