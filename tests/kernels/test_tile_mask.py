"""Weights larger than their bank, tiled and masked."""

from typing import Any

import pytest
import torch

from npas.kernels import tile_mask
from npas.kernels.samples import Sample
from npas.kernels.tile_mask import reference
from npas.kernels.tile_mask.tiles import mask_size
from tests.kernels.checks import Op
from tests.kernels.kernel_tests import KernelTests
from tests.kernels.op_tests import OpTests


def wrong(theta: torch.Tensor, mask: torch.Tensor, *others: Any) -> torch.Tensor:
    return reference.tile_mask(theta, mask.roll(1), *others)


@pytest.mark.pure
class TestTileMask(OpTests):
    name = "tile_mask"

    def flops(self, sample: Sample, n_out: int) -> tuple[int, int]:
        del n_out
        made = sum(sample.constants[0])
        return 2 * made, 4 * made

    @property
    def wrong(self) -> Op:
        return wrong


@pytest.mark.interpret
class TestTileMaskKernels(KernelTests):
    name = "tile_mask"


@pytest.mark.parametrize(("bank", "n"), [(1, 3), (4, 11), (9, 31), (20, 47), (20, 60)])
def test_the_definition_element_by_element(bank: int, n: int) -> None:
    window = min(9, bank)
    size = mask_size(bank, n)
    theta, mask, coef = (torch.randn(k).double() for k in (bank, size, 1))
    expected, read = [], set()
    for e in range(n):
        tile, position = divmod(e, bank)
        value = coef[0] * theta[position]
        if tile:
            read.add(window * (tile - 1) + position % window)
            value = value * mask[window * (tile - 1) + position % window]
        expected.append(value)
    torch.testing.assert_close(reference.tile_mask(theta, mask, coef, [n]), torch.stack(expected))
    assert read == set(range(size))


def test_a_mask_of_ones_repeats() -> None:
    theta, coef = torch.randn(15), torch.randn(1)
    ones = torch.ones(mask_size(15, 100))
    repeated = tile_mask(theta, torch.empty(0), coef, [100])
    assert torch.equal(repeated, tile_mask(theta, ones, coef, [100]))
    assert torch.equal(repeated, (theta * coef).repeat(7)[:100])


def test_what_the_mask_has_too_much_gets_zero() -> None:
    mask = torch.randn(mask_size(15, 40) + 5, requires_grad=True)
    tile_mask(torch.ones(15), mask, torch.ones(1), [40]).sum().backward()
    assert mask.grad is not None
    assert mask.grad[:-5].all() and not mask.grad[-5:].any()


def test_bad_sizes() -> None:
    theta, coef = torch.ones(10), torch.ones(1)
    with pytest.raises(ValueError, match="n must be larger than the bank, found n = 10"):
        tile_mask(theta, torch.ones(9), coef, [10])
    with pytest.raises(ValueError, match=r"needs a mask of at least 14 elements .* found 13"):
        tile_mask(theta, torch.ones(13), coef, [25])
    with pytest.raises(ValueError, match=r"one element for each of the 1 weights.*\(2,\)"):
        tile_mask(theta, torch.ones(14), torch.ones(2), [25])
    with pytest.raises(ValueError, match="at least one"):
        tile_mask(theta, torch.ones(14), coef[:0], [])


def test_several_weights_are_the_weights_one_by_one() -> None:
    theta, mask, coef = torch.randn(15), torch.randn(mask_size(15, 100)), torch.randn(2)
    found = tile_mask(theta, mask, coef, [40, 100])
    assert torch.equal(found[:40], tile_mask(theta, mask, coef[:1], [40]))
    assert torch.equal(found[40:48], torch.zeros(8))
    assert torch.equal(found[48:], tile_mask(theta, mask, coef[1:], [100]))
