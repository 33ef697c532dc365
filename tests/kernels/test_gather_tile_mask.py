"""Rows of a weight larger than its bank."""

from typing import Any

import pytest
import torch

from npas.kernels import gather_tile_mask, tile_mask
from npas.kernels.gather_tile_mask import reference
from npas.kernels.samples import Sample
from tests.kernels.checks import Op
from tests.kernels.op_tests import OpTests

pytestmark = pytest.mark.pure


def wrong(theta: torch.Tensor, mask: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.gather_tile_mask(theta, mask.roll(1), *others)


class TestGatherTileMask(OpTests):
    name = "gather_tile_mask"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        return 2 * n_out, 4 * n_out

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.parametrize("n_mask", [0, 36])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_all_rows_are_the_weight(n_mask: int, dtype: torch.dtype) -> None:
    theta, mask, coef = (torch.randn(n, dtype=torch.float64) for n in (25, n_mask, 1))
    rows = gather_tile_mask(theta, mask, coef, 104, 8, torch.arange(13, dtype=dtype))
    torch.testing.assert_close(rows.flatten(), tile_mask(theta, mask, coef, [104]))


@pytest.mark.parametrize("bad", [-1, 13])
def test_ids_out_of_range(bad: int) -> None:
    empty = torch.empty(0)
    with pytest.raises(IndexError, match=r"ids must lie between 0 and 12.*found"):
        gather_tile_mask(torch.ones(25), empty, torch.ones(1), 104, 8, torch.tensor([bad, 1]))


def test_bad_arguments() -> None:
    theta, mask, coef, ids = torch.ones(25), torch.ones(36), torch.ones(1), torch.tensor([0])
    with pytest.raises(ValueError, match="cols must divide the weight's 104 elements, found 7"):
        gather_tile_mask(theta, mask, coef, 104, 7, ids)
    with pytest.raises(ValueError, match="needs a mask of at least 31 elements"):
        gather_tile_mask(theta, mask[:30], coef, 104, 8, ids)
    with pytest.raises(ValueError, match="n must be larger than the bank"):
        gather_tile_mask(theta, mask, coef, 24, 8, ids)
