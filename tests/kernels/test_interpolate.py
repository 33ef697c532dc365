"""Weights larger than their bank, resized from it."""

import pytest
import torch
import torch.nn.functional as F

from npas.kernels import interpolate
from npas.kernels.interpolate.grid import grid_of
from npas.kernels.samples import SAMPLES, Sample
from tests.kernels.checks import Op
from tests.kernels.op_tests import OpTests

pytestmark = pytest.mark.pure


def wrong(
    theta: torch.Tensor,
    coef: torch.Tensor,
    rows: int,
    cols: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    r, c = grid_of(theta.numel(), rows, cols)
    point = torch.arange(r * c, device=theta.device) % theta.numel()
    image = theta[point].view(1, 1, r, c)
    return coef * F.interpolate(image, size=(rows, cols), mode="bilinear").flatten()


class TestInterpolate(OpTests):
    name = "interpolate"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        return 8 * n_out, 8 * n_out

    @property
    def wrong(self) -> Op:
        return wrong

    def test_every_element_counts(self, sample: Sample) -> None:
        theta = sample.tensors(torch.float32)[0].requires_grad_()
        interpolate(theta, torch.ones(1), *sample.constants).sum().backward()
        assert theta.grad is not None and (theta.grad > 1e-4).all()

    def test_corners_are_the_grids(self, sample: Sample) -> None:
        theta = sample.tensors(torch.float64)[0]
        rows, cols = sample.constants
        r, c = grid_of(theta.numel(), rows, cols)
        weight = interpolate(theta, torch.ones(1), rows, cols).view(rows, cols)
        last = theta[(r * c - 1) % theta.numel()]
        assert torch.equal(weight[0, 0], theta[0])
        # One row or column of many is sampled at its beginning.
        if (r == 1 or rows > 1) and (c == 1 or cols > 1):
            torch.testing.assert_close(weight[-1, -1], last)


def test_grids_hold_the_bank_and_fit_the_weight() -> None:
    assert grid_of(9_020, 10, 1_000) == (10, 902)  # 9 rows of the weight's proportions hold 9,000
    for rows in (1, 2, 10, 15, 64):
        for cols in (1, 3, 63, 576):
            sizes = {1, 2, 7, rows, cols, rows * cols // 3, rows * cols - 1, rows * cols}
            for bank in sizes | {rows * cols * 902 // 1_000}:
                if 0 < bank <= rows * cols:
                    r, c = grid_of(bank, rows, cols)
                    assert 1 <= r <= rows and 1 <= c <= cols and bank <= r * c
                    assert r * c < bank + r or r * c < bank + c


def test_a_bank_of_the_weights_size_is_the_weight() -> None:
    case = next(s for s in SAMPLES["interpolate"].samples if s.label == "same size")
    theta = case.tensors(torch.float32)[0]
    assert torch.equal(interpolate(theta, torch.ones(1), *case.constants), theta)


def test_a_weight_smaller_than_the_bank() -> None:
    with pytest.raises(ValueError, match=r"must be at least the bank's size, found 3 \* 3"):
        interpolate(torch.ones(10), torch.ones(1), 3, 3)
