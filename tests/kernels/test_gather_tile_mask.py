"""Rows of a weight larger than its bank."""

from typing import Any

import pytest
import torch

from npas.kernels import gather_tile_mask, tile_mask
from npas.kernels.gather_tile_mask import reference
from npas.kernels.samples import Sample
from npas.kernels.tile_mask.tiles import mask_size
from tests.kernels.checks import Op
from tests.kernels.kernel_tests import KernelTests
from tests.kernels.op_tests import OpTests

# Two blocks of the bank, three tiles on a program each, and a run whose 33rd row begins a chunk (of
# 32): the last program of every kernel has something to do.
ONE_ROW = Sample("one row", (1750, mask_size(1750, 3600) + 4, 1), (3600, 3600), ids=((33,), 1))
accumulate = torch.ops.npas.gather_tile_mask_accumulate


def wrong(theta: torch.Tensor, mask: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.gather_tile_mask(theta, mask.roll(1), *others)


@pytest.mark.pure
class TestGatherTileMask(OpTests):
    name = "gather_tile_mask"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        return 2 * n_out, 4 * n_out

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.interpret
class TestGatherTileMaskKernels(KernelTests):
    name = "gather_tile_mask"

    @property
    def ragged(self) -> Sample:
        return ONE_ROW


@pytest.mark.pure
@pytest.mark.parametrize("n_mask", [0, 36])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_all_rows_are_the_weight(n_mask: int, dtype: torch.dtype) -> None:
    theta, mask, coef = (torch.randn(n, dtype=torch.float64) for n in (25, n_mask, 1))
    rows = gather_tile_mask(theta, mask, coef, 104, 8, torch.arange(13, dtype=dtype))
    torch.testing.assert_close(rows.flatten(), tile_mask(theta, mask, coef, [104]))


@pytest.mark.pure
@pytest.mark.parametrize("bad", [-1, 13])
def test_ids_out_of_range(bad: int) -> None:
    empty = torch.empty(0)
    with pytest.raises(IndexError, match=r"ids must lie between 0 and 12.*found"):
        gather_tile_mask(torch.ones(25), empty, torch.ones(1), 104, 8, torch.tensor([bad, 1]))


@pytest.mark.interpret
def test_ids_out_of_range_in_a_kernel() -> None:
    """A GPU does not look at ids: a row that is not there is NaN, and gets no gradient."""
    from npas.kernels.gather_tile_mask import triton  # not on every system

    theta, mask, coef = torch.randn(25), torch.randn(36), torch.randn(1)
    good = torch.tensor([12, 0, 3, 3] + [5] * 40)
    bad = torch.cat([torch.tensor([13, -1, 1 << 40]), good, torch.tensor([-5] * 40)])
    out = triton.gather_tile_mask(theta, mask, coef, 104, 8, bad, torch.float32)
    right = triton.gather_tile_mask(theta, mask, coef, 104, 8, good, torch.float32)
    assert torch.equal(out[3:-40], right)
    assert out[:3].isnan().all() and out[-40:].isnan().all()
    grad = torch.randn_like(right)
    padded = torch.cat([torch.full((3, 8), torch.nan), grad, torch.full((40, 8), torch.nan)])
    buffers = [[torch.zeros_like(t) for t in (theta, mask, coef)] for _ in range(2)]
    triton.accumulate(padded, theta, mask, coef, 104, 8, bad, *buffers[0])
    triton.accumulate(grad, theta, mask, coef, 104, 8, good, *buffers[1])
    for found, expected in zip(*buffers, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.interpret
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, on inf * 0
@pytest.mark.parametrize("which", [0, 1])
def test_infinity_that_is_not_looked_up_stays_out(which: int) -> None:
    tensors = [torch.randn(25), torch.randn(36), torch.randn(1)]
    grad = torch.randn(4, 8)
    # Row 1 holds elements 8 to 15 of tile 0; row 6 holds elements 23 and 24 of tile 1.
    ids = torch.tensor([1, 6, 1, 6])
    right = [torch.zeros_like(t) for t in tensors]
    accumulate(grad, *tensors, 104, 8, ids, *right, "triton")
    # Element 7 of the bank; of the mask, residue 0 of tile 1, residue 6 of tile 2, and tile 3.
    tensors[which][[7] if which == 0 else [0, 15, 18]] = torch.inf
    found = [torch.zeros_like(t) for t in tensors]
    accumulate(grad, *tensors, 104, 8, ids, *found, "triton")
    for one, other in zip(found, right, strict=True):
        assert torch.equal(one, other)


@pytest.mark.interpret
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, on inf * 0
def test_infinity_times_a_gradient_of_zero_is_nan() -> None:
    theta, mask, coef = torch.randn(25), torch.randn(36), torch.randn(1)
    theta[9] = torch.inf
    buffers = [torch.zeros_like(t) for t in (theta, mask, coef)]
    ids = torch.tensor([4])
    accumulate(torch.zeros(1, 8), theta, mask, coef, 104, 8, ids, *buffers, "triton")
    assert buffers[2].isnan() and buffers[1].isnan().tolist() == [i == 0 for i in range(36)]
    assert not buffers[0].any()


@pytest.mark.pure
def test_bad_arguments() -> None:
    theta, mask, coef, ids = torch.ones(25), torch.ones(36), torch.ones(1), torch.tensor([0])
    with pytest.raises(ValueError, match="cols must divide the weight's 104 elements, found 7"):
        gather_tile_mask(theta, mask, coef, 104, 7, ids)
    with pytest.raises(ValueError, match="needs a mask of at least 31 elements"):
        gather_tile_mask(theta, mask[:30], coef, 104, 8, ids)
    with pytest.raises(ValueError, match="n must be larger than the bank"):
        gather_tile_mask(theta, mask, coef, 24, 8, ids)
