import pytest
import torch
from torch import nn

from npas.special import special

pytestmark = pytest.mark.pure

init = nn.init


def blocks(*weights: torch.Tensor) -> torch.Tensor:
    return torch.cat(weights)


def orthogonal(*shape: int) -> torch.Tensor:
    return init.orthogonal_(torch.empty(shape))


def test_what_is_special_is_named() -> None:
    torch.manual_seed(0)
    gates = torch.randn(256, 64) * torch.tensor([1, 1, 5, 1]).repeat_interleave(64)[:, None]
    for weight, expected in [
        (orthogonal(64, 64), "orthogonal"),
        (3 * orthogonal(256, 64), "orthogonal"),
        (orthogonal(32, 8, 3, 3), "orthogonal"),
        (blocks(*(orthogonal(64, 64) for _ in range(4))), "orthogonal"),  # a gate each
        (orthogonal(64, 64).bfloat16(), "orthogonal"),
        (init.eye_(torch.empty(32, 32)), "zero in 97% of its elements and orthogonal"),
        (
            init.dirac_(torch.empty(16, 16, 3, 3)),
            "zero in 99% of its elements and orthogonal",
        ),
        (torch.full((8, 8), 0.3), "constant"),
        (torch.randn(64, 64) + 1, "of a mean that is not 0"),
        (gates, "of rows of different scale"),
    ]:
        assert special(weight) == expected
    assert special(init.sparse_(torch.empty(64, 64), 0.5)).startswith("zero in 50%")


@pytest.mark.parametrize(
    "shape", [(2, 2), (3, 2), (8, 8), (4, 100), (64, 1, 3, 3), (300, 20), (5,)]
)
def test_independent_draws_are_not_special(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        assert special(torch.randn(shape)) == ""
        assert special(torch.rand(shape) - 0.5) == ""


def test_a_padding_row_is_not_special() -> None:
    torch.manual_seed(0)
    weight = nn.Embedding(10, 32, padding_idx=3).weight
    assert special(weight, 3) == ""
    assert special(weight) == "zero in 10% of its elements"


def test_it_draws_no_random_numbers() -> None:
    weight = torch.randn(64, 64)
    torch.manual_seed(0)
    special(weight)
    found = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(1))
