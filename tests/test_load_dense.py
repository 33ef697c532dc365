"""`npas.load_dense_`: a state dict of the original into a compiled module."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.errors import NpasError, NpasWarning
from tests.test_fit import IDS, MODES, Mixed

pytestmark = pytest.mark.pure


class Normed(nn.Module):
    """Generated weights, and what is kept: biases, a norm and its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(5)))
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layers(x))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", MODES, ids=str)
def test_what_a_module_made_comes_back(options: dict[str, Any]) -> None:
    options = dict(options)
    ssn = npas.compile(Mixed(), options.pop("budget"), groups="single", **options)
    with torch.no_grad():
        for parameter in ssn.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    dense = npas.dense_state_dict(ssn)
    npas.load_dense_(ssn, dense)
    for name, value in npas.dense_state_dict(ssn).items():
        assert float((value - dense[name]).norm()) <= 1e-6 * float(dense[name].norm()), name
    fit = npas.report(ssn).fit
    assert fit is not None and fit.total.relative < 1e-6


def test_a_state_dict_of_the_original_is_fitted_and_the_rest_copied() -> None:
    torch.manual_seed(0)
    model = Normed()
    other = Normed()
    other(torch.randn(16, 32))
    ssn = npas.compile(model, "60%", groups="single")
    parameters = {name: id(p) for name, p in ssn.named_parameters()}
    npas.load_dense_(ssn, other.state_dict())
    assert {name: id(p) for name, p in ssn.named_parameters()} == parameters
    expected = npas.report(npas.fit(other, "60%", groups="single")).fit
    fit = npas.report(ssn).fit
    assert fit is not None and expected is not None
    assert fit.total.relative < expected.total.relative + 0.01
    found = npas.dense_state_dict(ssn)
    for name, value in other.state_dict().items():
        if "layers" not in name or name.endswith("bias"):
            assert torch.equal(found[name], value), name
    x = torch.randn(4, 32)
    torch.testing.assert_close(npas.materialize(ssn).eval()(x), ssn.eval()(x))
    other.load_state_dict(found)


def test_an_optimizer_goes_on_with_the_same_parameters() -> None:
    torch.manual_seed(0)
    ssn = npas.compile(Normed(), "60%", groups="single")
    optimizer = torch.optim.AdamW(ssn.parameters())
    ssn(torch.randn(8, 32)).square().mean().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    npas.load_dense_(ssn, Normed().state_dict())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)
    loaded = npas.dense_state_dict(ssn)["layers.0.weight"]
    ssn(torch.randn(8, 32)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(npas.dense_state_dict(ssn)["layers.0.weight"], loaded)


def test_own_banks_hold_any_weights_exactly_and_in_place_modules_load_too() -> None:
    torch.manual_seed(0)
    given = Mixed()
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.add_(torch.randn_like(parameter))
    ssn = npas.compile_(Mixed(), "100%", groups="own")
    npas.load_dense_(ssn, given.state_dict())
    assert torch.equal(ssn(IDS), given(IDS))


def test_cached_weights_of_evaluation_are_made_anew() -> None:
    torch.manual_seed(0)
    ssn = npas.compile(Normed(), "60%", groups="single").eval()
    x = torch.randn(4, 32)
    with torch.no_grad():
        before = ssn(x)
        npas.load_dense_(ssn, Normed().state_dict())
        assert not torch.equal(ssn(x), before)
        torch.testing.assert_close(ssn(x), npas.materialize(ssn)(x))


def broken(how: str) -> dict[str, Any]:
    found: dict[str, Any] = dict(Normed().state_dict())
    match how:
        case "missing":
            del found["layers.1.weight"]
            del found["norm.running_mean"]
        case "unknown":
            found["layers.7.weight"] = torch.zeros(2)
        case "shape":
            found["layers.1.weight"] = torch.zeros(31, 32)
            found["norm.weight"] = torch.zeros(3)
        case "nan":
            found["layers.4.weight"] = torch.full((32, 32), float("nan"))
        case "integers":
            found["layers.1.weight"] = torch.zeros(32, 32, dtype=torch.int64)
        case "no tensor":
            found["layers.1.weight"] = "w"
    return found


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"layers\.1\.weight is missing; norm\.running_mean is missing"),
        ("unknown", r"layers\.7\.weight is not in the model \(nearest: 'layers\.\d\.weight'"),
        ("shape", r"layers\.1\.weight is \(31, 32\), the model's \(32, 32\)|norm\.weight is"),
        ("nan", r"layers\.4\.weight holds 1024 values that are NaN"),
        ("integers", r"layers\.1\.weight is torch\.int64, the model's float32"),
        ("no tensor", r"layers\.1\.weight is a str, not a tensor"),
    ],
)
def test_errors_name_the_keys_and_nothing_is_changed(how: str, message: str) -> None:
    torch.manual_seed(0)
    ssn = npas.compile(Normed(), "60%", groups="single")
    before, report = state(ssn), npas.report(ssn)
    with pytest.raises(NpasError, match=message):
        npas.load_dense_(ssn, broken(how))
    assert same(state(ssn), before)
    assert npas.report(ssn) == report


def test_tied_weights_must_agree() -> None:
    ssn = npas.compile(Mixed(), "60%", groups="single")
    given = dict(Mixed().state_dict())
    given["head.weight"] = given["head.weight"] + 1
    with pytest.raises(NpasError, match=r"words\.weight and head\.weight are one weight"):
        npas.load_dense_(ssn, given)


def test_only_what_npas_made_can_load() -> None:
    with pytest.raises(NpasError, match="was not compiled by npas"):
        npas.load_dense_(Normed(), Normed().state_dict())
    ssn = npas.compile(Normed(), "60%")
    with pytest.raises(NpasError, match="state_dict is a list"):
        npas.load_dense_(ssn, [])  # pyright: ignore
    with torch.device("meta"):
        hollow = npas.compile(Normed(), "60%")
    with pytest.raises(NpasError, match="on the meta device"):
        npas.load_dense_(hollow, Normed().state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_dict_of_another_dtype_is_cast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    other = Normed().to(dtype)
    ssn = npas.compile(Normed(), "60%", groups="single")
    with warnings.catch_warnings():
        warnings.simplefilter("error", NpasWarning)
        npas.load_dense_(ssn, other.state_dict())
    assert {p.dtype for p in ssn.parameters()} == {torch.float32}
    assert bool(ssn(torch.randn(4, 32)).isfinite().all())
