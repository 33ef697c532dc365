"""Weights as sums of templates."""

from pathlib import Path
from typing import Any

import pytest
import torch

from npas.kernels import combine
from npas.kernels.combine import reference
from npas.kernels.combine.op import combine_accumulate
from npas.kernels.combine.table import AVERAGE, rows_of
from npas.kernels.samples import Sample
from tests.kernels.checks import Op
from tests.kernels.kernel_tests import KernelTests
from tests.kernels.op_tests import OpTests


def wrong(theta: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.combine(theta.roll(1), *others)


@pytest.mark.pure
class TestCombine(OpTests):
    name = "combine"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        rows = list(rows_of(sample.constants[0]))
        forward = sum(2 * row.k * row.n for row in rows)
        # An average has no coefficients to differentiate.
        return forward, forward + sum(2 * row.k * row.n for row in rows if row.offset >= 0)

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.interpret
class TestCombineKernels(KernelTests):
    name = "combine"


def test_the_definition_element_by_element() -> None:
    theta, coef = torch.randn(90).double(), torch.randn(7).double()
    table = (3, 20, 4, 17, 1, 10, 5, 2, 33, 5)
    made = [
        torch.stack(
            [torch.dot(coef[offset : offset + k], theta[base + e :: stride][:k]) for e in range(n)]
        )
        for base, stride, k, n, offset in (table[:5], table[5:])
    ]
    gap = torch.zeros(32 - 17, dtype=torch.float64)
    found = reference.combine(theta, coef, None, table)
    torch.testing.assert_close(found, torch.cat([made[0], gap, made[1]]))
    gain = torch.tensor([2.0, 0.5])
    found = reference.combine(theta, coef, gain, table)
    torch.testing.assert_close(found, torch.cat([made[0] * 2, gap, made[1] / 2]))
    average = reference.combine(theta, coef, None, (3, 20, 4, 17, AVERAGE))
    torch.testing.assert_close(average, theta[3:80].unfold(0, 17, 20).mean(dim=0))


def test_rows_may_share_coefficients() -> None:
    theta = torch.randn(40, dtype=torch.float64, requires_grad=True)
    coef = torch.randn(3, dtype=torch.float64, requires_grad=True)
    table = (0, 10, 3, 15, 0, 5, 7, 2, 12, 1)
    found, right = (f(theta, coef, None, table) for f in (combine, reference.combine))
    grads = [torch.autograd.grad(out.sin().sum(), (theta, coef)) for out in (found, right)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((), "rows of 5 integers"),
        ((0, 4, 2, 4), "found 4 integers"),
        ((0, 4, 2, 4, 0, 1, 4, 3, 2, 0), "row 1 of the table ends at element 11 of a bank of 10"),
        ((-1, 4, 2, 4, 0), "row 0 of the table must have base"),
        ((0, 0, 2, 4, 0), "row 0 of the table must have base"),
        ((0, 4, 0, 4, 0), "row 0 of the table must have base"),
        ((0, 4, 1, 0, 0), "row 0 of the table must have base"),
        ((0, 4, 2, 4, -2), "row 0 of the table must have base"),
        ((0, 4, 2, 4, 2), "row 0 of the table reads coefficient 3 of 3"),
    ],
)
def test_bad_tables(table: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(torch.ones(10), torch.ones(3), None, table)
    with pytest.raises(ValueError, match=message):
        combine(torch.ones(10, device="meta"), torch.ones(3, device="meta"), None, table)


def test_bad_gains() -> None:
    arguments = torch.ones(10), torch.ones(3)
    with pytest.raises(ValueError, match=r"gain must have shape \[1\], found \(2,\)"):
        combine(*arguments, torch.ones(2), (0, 4, 2, 4, 0))
    with pytest.raises(ValueError, match="gain must be a one-dimensional floating tensor on cpu"):
        combine(*arguments, torch.ones(1, device="meta"), (0, 4, 2, 4, 0))


def test_no_coefficients_are_needed_to_average() -> None:
    theta = torch.randn(10, requires_grad=True)
    out = combine(theta, torch.empty(0), torch.tensor([3.0]), (1, 4, 2, 4, AVERAGE))
    torch.testing.assert_close(out, 1.5 * (theta[1:5] + theta[5:9]))
    out.sum().backward()
    assert theta.grad is not None and theta.grad.tolist() == [0.0] + [1.5] * 8 + [0.0]


@pytest.mark.parametrize("stride", [1000, 999, 300, 1])
def test_no_temporary_of_all_templates(stride: int) -> None:
    """With 64 templates of 1,000 a copy of them would be 64,000 elements or more."""
    k, n = 64, 1000
    theta = torch.randn((k - 1) * stride + n, requires_grad=True)
    coef = torch.randn(k, requires_grad=True)
    profile = torch.profiler.profile(profile_memory=True, acc_events=True)
    with profile:
        combine(theta, coef, None, (0, stride, k, n, 0)).sum().backward()
    events = profile.events()
    assert events
    largest = max(event.cpu_memory_usage for event in events)
    assert largest <= 4 * (theta.numel() + n) * 1.1


@pytest.mark.interpret
def test_a_bank_past_2_to_the_31_elements() -> None:
    # Zeros are 4.3 GB of address space; the memory behind them is touched by the interpreter once.
    if available_bytes() < 10 * 2**30:
        pytest.skip("needs 10 GiB of free memory")
    # Whole numbers, so that sums in any order are the same.
    end = torch.randint(-8, 9, (8192,)).bfloat16()
    theta = torch.zeros(2**31 + 8192, dtype=torch.bfloat16)
    theta[-8192:] = end
    coef, grad = torch.tensor([0.5, 2.0, -1.0]), torch.randint(-8, 9, (2048,)).float()
    found = combine(theta, coef, None, (2**31 + 16, 2048, 3, 2048, 0), torch.float32, "triton")
    small = (16, 2048, 3, 2048, 0)
    torch.testing.assert_close(found, combine(end, coef, None, small, torch.float32))
    sums = [torch.zeros(3), torch.zeros(3)]
    none = torch.empty(0)
    big = (2**31 + 16, 2048, 3, 2048, 0)
    accumulate = torch.ops.npas.combine_accumulate
    accumulate(grad, theta, coef, None, big, none, sums[0], "triton")
    accumulate(grad, end, coef, None, small, none, sums[1], "eager")
    torch.testing.assert_close(sums[0], sums[1])


def available_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


@pytest.mark.pure
@pytest.mark.parametrize(("n", "k"), [(50_000, 4), (70_000, 4), (100_000, 1)])
def test_gradients_of_a_long_weight_are_as_near_as_float32_is(n: int, k: int) -> None:
    torch.manual_seed(0)
    theta, coef, grad = torch.randn(n * k + 3), torch.randn(k), torch.randn(n)
    gain, table = torch.tensor([1.5]), (3, n, k, n, 0)
    found = torch.zeros_like(theta), torch.zeros_like(coef)
    combine_accumulate(grad, theta, coef, gain, table, *found, "eager")
    bank, factors = theta.double().requires_grad_(), coef.double().requires_grad_()
    made = reference.combine(bank, factors, gain.double(), table)
    right = torch.autograd.grad(made, (bank, factors), grad.double())
    torch.testing.assert_close(found[0].double(), right[0], rtol=1e-6, atol=1e-6)
    # A sum of n products of size 1, whose standard deviation is the root of n: BLAS adds it up in a
    # few running sums, with an error of up to some 3e-5 of that.
    torch.testing.assert_close(found[1].double(), right[1], rtol=0, atol=1e-4 * n**0.5)
