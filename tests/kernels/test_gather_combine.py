"""Rows of a weight that is a sum of templates."""

import math
from typing import Any

import pytest
import torch

from npas.kernels import combine, gather_combine
from npas.kernels.gather_combine import reference
from npas.kernels.samples import Sample
from tests.kernels.checks import Op
from tests.kernels.kernel_tests import KernelTests
from tests.kernels.op_tests import OpTests

TABLE_ROW = (2, 20, 2, 40, 0)


def wrong(theta: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.gather_combine(theta.roll(1), *others)


@pytest.mark.pure
class TestGatherCombine(OpTests):
    name = "gather_combine"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        _, _, k, _, offset = sample.constants[0]
        return 2 * k * n_out, (4 if offset >= 0 else 2) * k * n_out

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.interpret
class TestGatherCombineKernels(KernelTests):
    name = "gather_combine"

    @property
    def ragged(self) -> Sample:
        # The last program of every kernel has something to do: the last position begins a chunk.
        return next(s for s in self.case.samples if s.label == "one row, more than a chunk")


@pytest.mark.pure
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_all_rows_are_the_weight(dtype: torch.dtype) -> None:
    theta, coef = torch.randn(62, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    rows = gather_combine(theta, coef, None, TABLE_ROW, 5, torch.arange(8, dtype=dtype))
    torch.testing.assert_close(rows.flatten(), combine(theta, coef, None, TABLE_ROW))


@pytest.mark.pure
def test_rows_that_repeat_add_up() -> None:
    theta, coef = torch.ones(62, requires_grad=True), torch.ones(2)
    gather_combine(theta, coef, None, TABLE_ROW, 5, torch.tensor([[3, 3], [3, 0]])).sum().backward()
    assert theta.grad is not None
    assert theta.grad[17:22].tolist() == [3] * 5 and theta.grad[22:27].tolist() == [1] * 5
    assert math.isclose(theta.grad.sum().item(), 4 * 5 * 2)


@pytest.mark.pure
@pytest.mark.parametrize("bad", [-1, 8])
def test_ids_out_of_range(bad: int) -> None:
    with pytest.raises(IndexError, match=r"ids must lie between 0 and 7.*found"):
        gather_combine(torch.ones(62), torch.ones(2), None, TABLE_ROW, 5, torch.tensor([0, bad]))


@pytest.mark.pure
def test_bad_arguments() -> None:
    theta, coef, ids = torch.ones(62), torch.ones(2), torch.tensor([0])
    with pytest.raises(ValueError, match="cols must divide the weight's 40 elements, found 7"):
        gather_combine(theta, coef, None, TABLE_ROW, 7, ids)
    with pytest.raises(ValueError, match=r"ids must be int64 or int32 on cpu, found torch.float32"):
        gather_combine(theta, coef, None, TABLE_ROW, 5, ids.float())
    with pytest.raises(ValueError, match="table_row must hold 5 integers, found 10"):
        gather_combine(theta, coef, None, TABLE_ROW * 2, 5, ids)
    with pytest.raises(ValueError, match="row 0 of the table ends at element 62"):
        gather_combine(theta[1:], coef, None, TABLE_ROW, 5, ids)
