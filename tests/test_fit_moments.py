"""Activation-aware weighting: what batches say of each element of a weight."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas
from npas.errors import NpasError
from npas.fitting.moments import second_moments

pytestmark = pytest.mark.pure

DAMPED = 0.01


def damped(moments: torch.Tensor) -> torch.Tensor:
    return moments + DAMPED * moments.mean()


def batches(*shape: int, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) * torch.arange(1, 5) for _ in range(count)]


def test_moments_of_a_linear_layer_are_the_mean_squares_of_its_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    given = batches(5, 7, 4)
    found = second_moments(model, given)
    x = torch.cat(given).flatten(0, 1)
    torch.testing.assert_close(found["0.weight"], damped(x.square().mean(0)))
    hidden = model[0](x).detach()
    torch.testing.assert_close(found["1.weight"], damped(hidden.square().mean(0)))
    assert set(found) == {"0.weight", "1.weight"}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_of_a_convolution_follow_its_groups(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, groups=groups, padding=1)
    x = torch.randn(2, 4, 5, 5) * torch.arange(1, 5).view(4, 1, 1)
    moments = second_moments(conv, [x])["weight"].expand(conv.weight.shape)
    channels = x.square().mean((0, 2, 3))
    width = 4 // groups
    for out in range(8):
        first = out // (8 // groups) * width
        expected = channels[first : first + width]
        ratio = moments[out, :, 0, 0] / expected
        # The damping is one number for all channels.
        assert float((moments[out, :, 0, 0] - expected).std(correction=0)) < 1e-5, out
        assert bool((ratio > 1).all())


@pytest.mark.parametrize("transposed", [nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_moments_of_a_transposed_convolution_are_of_its_rows(transposed: Any) -> None:
    conv = transposed(4, 6, 3)
    x = torch.randn(2, 4, *(5,) * (conv.weight.dim() - 2))
    found = second_moments(conv, [x])["weight"]
    assert found.shape[:2] == (4, 1)
    kept = tuple(d for d in range(x.dim()) if d != 1)
    torch.testing.assert_close(found.flatten(), damped(x.square().mean(kept)))


def test_moments_of_an_embedding_are_shares_of_lookups_with_one_more_of_each_row() -> None:
    model = nn.Embedding(5, 3)
    found = second_moments(model, [torch.tensor([[0, 0, 1], [0, 2, 0]])])["weight"]
    torch.testing.assert_close(found.flatten(), damped(torch.tensor([5.0, 2, 2, 1, 1]) / 11))


def test_a_product_written_by_hand_counts_too() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x @ self.a, self.b)

    x = batches(6, 4, count=1)[0]
    found = second_moments(Raw(), [x])
    torch.testing.assert_close(found["a"].flatten(), damped(x.square().mean(0)))
    assert found["b"].shape == (3,)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    second_moments(model, batches(8, 4))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and all(module.training for module in model)


def test_weighting_lowers_the_error_of_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(6)))
    scales = torch.logspace(-2, 1, 32)
    given = [torch.randn(64, 32) * scales for _ in range(3)]
    held_out = torch.randn(256, 32) * scales
    errors = {}
    for name, weighting in (("weighted", given), ("plain", None)):
        ssn = npas.fit(model, "60%", groups="single", batches=weighting)
        first = npas.dense_state_dict(ssn)["0.weight"]
        expected = F.linear(held_out, model.get_parameter("0.weight").detach())
        errors[name] = float((F.linear(held_out, first) - expected).norm() / expected.norm())
    assert errors["weighted"] < 0.8 * errors["plain"]


def test_the_report_has_both_errors() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    given = batches(8, 4)
    ssn = npas.fit(model, "60%", groups="single", batches=given)
    fit = npas.report(ssn).fit
    assert fit is not None
    moments = second_moments(model, given)
    dense = npas.dense_state_dict(ssn)
    for name, error in fit.layers.items():
        weight = model.get_parameter(name).detach()
        squares = ((dense[name] - weight).square() * moments[name]).sum()
        expected = float((squares / (weight.square() * moments[name]).sum()).sqrt())
        assert error.weighted == pytest.approx(expected, rel=1e-4)
    assert f"({fit.total.weighted:.4f} weighted)" in str(npas.report(ssn))


def test_an_iterable_is_read_once_and_batches_may_be_dicts_or_tuples() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) + self.a(y))

    model = Two()
    x, y = batches(3, 4, count=2)
    fits = [
        npas.report(npas.fit(model, "80%", groups="single", batches=given)).fit
        for given in ([(x, y)], [{"x": x, "y": y}], (pair for pair in [(x, y)]))
    ]
    assert fits[0] == fits[1] == fits[2]


@pytest.mark.parametrize("compiler", ["compile", "compile_"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([torch.zeros(2, 9)], "batch 0 does not run through Sequential"),
        ([torch.zeros(2, 4), (torch.zeros(2, 4), torch.zeros(2))], "batch 1 does not run"),
        ([], "there is no batch"),
        (torch.zeros(2, 4), r"is a Tensor; it must be a list of batches"),
        ((torch.zeros(2, 4),), r"is a tuple; it must be a list"),
        ({"input": torch.zeros(2, 4)}, r"is a dict; it must be a list"),
        (7, r"is a int; it must be a list"),
        ([torch.full((2, 4), float("nan"))], "NaN or infinite on these batches"),
    ],
)
def test_batches_that_do_not_fit_are_refused_before_anything_changes(
    compiler: str, given: Any, message: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NpasError, match=message):
        getattr(npas, compiler)(model, "80%", init="fit", fit_batches=given)
    assert type(model) is nn.Sequential and list(model.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_batches_go_with_a_fit() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    with pytest.raises(NpasError, match="fit_batches goes with init='fit', not with init='random'"):
        npas.compile(model, "80%", fit_batches=[torch.zeros(2, 4)])
