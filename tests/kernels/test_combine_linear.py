"""A product with a weight that is never written, and when it pays."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from npas.kernels import combine, combine_linear
from npas.kernels.combine.table import AVERAGE, Row
from npas.kernels.combine_linear import eager, reference
from npas.kernels.combine_linear.cost import block_m, fused, fusing_pays, written
from npas.kernels.combine_linear.op import combine_linear_flat, supported
from npas.kernels.samples import Sample
from tests.kernels.checks import Op
from tests.kernels.kernel_tests import KernelTests
from tests.kernels.op_tests import OpTests

ROW = (2, 20, 2, 15, 0)
CUDA = torch.device("cuda")


def wrong(theta: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.combine_linear_flat(theta.roll(1), *others)


@pytest.mark.pure
class TestCombineLinear(OpTests):
    name = "combine_linear"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        table_row, out_features = sample.constants
        row = Row(*table_row)
        weight, product = 2 * row.k * row.n, 2 * (n_out // out_features) * row.n
        learned = row.offset != AVERAGE
        return weight + product, 2 * product + (3 if learned else 2) * weight

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.interpret
class TestCombineLinearKernels(KernelTests):
    name = "combine_linear"


@pytest.mark.pure
@pytest.mark.parametrize("stride", [20, 7])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_it_is_a_linear_layer_with_that_weight(stride: int, shape: tuple[int, ...]) -> None:
    """Also where templates overlap: there the weight is written."""
    row = (2, stride, 2, 15, 1)
    assert supported(row) == (stride >= 15)
    tensors = [torch.randn(size, dtype=torch.float64) for size in ((40,), (3,), shape)]
    gain = torch.tensor([1.5])
    found, right = [], []
    for results, multiply in (
        (found, lambda t, c, x: combine_linear(t, c, x, gain, row, 3)),
        (right, lambda t, c, x: F.linear(x, combine(t, c, gain, row).view(3, 5))),
    ):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = multiply(*leaves)
        results += [out, *torch.autograd.grad(out.sin().sum(), leaves)]
    torch.testing.assert_close(found, right)


@pytest.mark.pure
def test_the_weight_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "BLOCK_ELEMENTS", 4_000)
    theta, coef, x = torch.randn(64_000), torch.randn(1), torch.randn(800)
    row = (0, 64_000, 1, 64_000, 0)
    buffers = [torch.zeros_like(t) for t in (theta, coef, x)]
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        out = eager.combine_linear(theta, coef, x, None, row, 640, torch.float32)
        eager.accumulate(out, theta, coef, x, None, row, 640, *buffers)
    events = profile.events()
    assert events and buffers[0].any()
    # A block of the weight, and the output: 8 rows of 640.
    assert max(event.cpu_memory_usage for event in events) < 4 * 6_000


@pytest.mark.pure
def test_bad_arguments() -> None:
    theta, coef, x = torch.ones(40), torch.ones(2), torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"input must be a floating tensor of shape \[..., 5\]"):
        combine_linear(theta, coef, x[:, :4], None, ROW, 3)
    with pytest.raises(ValueError, match=r"found torch.int64 of shape \(3, 5\)"):
        combine_linear(theta, coef, x.long(), None, ROW, 3)
    with pytest.raises(ValueError, match="out_features must divide the weight's 15 elements"):
        combine_linear(theta, coef, x, None, ROW, 4)
    with pytest.raises(ValueError, match="table_row must hold 5 integers, found 10"):
        combine_linear(theta, coef, x, None, ROW * 2, 3)
    with pytest.raises(ValueError, match="row 0 of the table ends at element 37 of a bank of 30"):
        combine_linear(theta[:30], coef, x, None, ROW, 3)
    with pytest.raises(ValueError, match="input must have a multiple of 5 elements, found 14"):
        combine_linear_flat(theta, coef, x.view(-1)[:14], None, ROW, 3)
    with pytest.raises(ValueError, match="templates of table_row must not overlap"):
        combine_linear_flat(theta, coef, x.view(-1), None, (2, 7, 2, 15, 0), 3)


@pytest.mark.pure
@pytest.mark.parametrize("itemsize", [2, 4])
def test_costs_are_the_bytes_of_the_kernels(itemsize: int) -> None:
    n, k, m = 1 << 16, 3, 1000
    tiles = -(-m // (128 if itemsize == 2 else 64))
    one, other = (f(m, k, n, itemsize, training=False) for f in (fused, written))
    assert one.n_bytes == tiles * k * n * itemsize
    assert other.n_bytes == (k + 2) * n * itemsize
    assert (one.flops, other.flops) == (2 * n * (tiles * k + m), 2 * n * (k + m))
    both = [f(m, k, n, itemsize, training=True) for f in (fused, written)]
    # Written: made twice and read twice, its gradient written and read, and the templates read.
    assert both[1].n_bytes == (2 * (k + 2) + 2 + k) * n * itemsize + 8 * k * n
    assert both[0].n_bytes == (2 * tiles * k + k) * n * itemsize + 8 * k * n


@pytest.mark.pure
@pytest.mark.parametrize(
    ("m", "k", "training", "pays"),
    [
        (1, 1, False, True),
        (128, 8, False, True),
        (129, 1, False, True),
        (129, 2, False, False),
        (129, 2, True, True),
        (129, 3, True, False),
        (257, 1, False, False),
        (257, 1, True, True),
        (385, 1, True, False),
        (4096, 1, True, False),
    ],
)
def test_when_it_pays(m: int, k: int, training: bool, pays: bool) -> None:
    assert fusing_pays(m, k, 1 << 20, 2, training=training, device=CUDA) == pays
    assert not fusing_pays(m, k, 1 << 20, 2, training=training, device=torch.device("cpu"))


@pytest.mark.pure
@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_more_rows_the_less_it_pays(itemsize: int) -> None:
    for k in (1, 2, 4, 8):
        for training in (False, True):
            paying = [
                fusing_pays(m, k, 4096, itemsize, training=training, device=CUDA)
                for m in range(1, 600)
            ]
            assert paying == sorted(paying, reverse=True) and paying[0]


@pytest.mark.pure
def test_tiles_of_rows() -> None:
    assert [block_m(m, 2) for m in (1, 16, 17, 64, 65, 1000)] == [16, 16, 32, 64, 128, 128]
    assert [block_m(m, 4) for m in (1, 33, 65)] == [16, 64, 64]
