import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import npas
from tests.interop.nets import WAYS, assert_same, convert, gradients

pytestmark = [
    pytest.mark.pure,
    # The older function says that it is deprecated.
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning"),
]


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def symmetric(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Symmetric())


# Those that change the module, and the two that are hooks.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "parametrize": symmetric,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm by hooks": nn.utils.weight_norm,
    "spectral_norm by hooks": nn.utils.spectral_norm,
}
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
# Graphs of operators do not call hooks, and say so.
CASES = [
    (way, change)
    for way in WAYS
    for change in CHANGES
    if not (way == "export" and change.endswith("hooks"))
]
BOTH = pytest.mark.parametrize(("way", "change"), CASES)


class Layers(nn.Module):
    def __init__(self, change: str) -> None:
        super().__init__()
        self.first = CHANGES[change](nn.Linear(6, 6))
        self.second = nn.Linear(6, 6)
        self.third = CHANGES[change](nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def model(change: str) -> Layers:
    torch.manual_seed(0)
    return Layers(change)


def compiled(change: str, way: str, **options: Any) -> Any:
    return convert(model(change), way, (X,), **{"budget": 0.7, "groups": "single", **options})


@BOTH
def test_with_every_parameter_of_the_original_it_computes_the_same(way: str, change: str) -> None:
    found = compiled(change, way, budget=1.0, groups="own")
    original = model(change)
    for training in (True, False):
        torch.testing.assert_close(found.train(training)(X), original.train(training)(X))


@BOTH
def test_it_computes_what_it_materialises(way: str, change: str) -> None:
    found = compiled(change, way).eval()
    dense = npas.materialize(found)
    assert type(dense) is Layers
    torch.testing.assert_close(found(X), dense(X))
    assert parametrize.is_parametrized(dense.first) == (not change.endswith("hooks"))


@BOTH
def test_it_trains_within_the_budget(way: str, change: str) -> None:
    found = compiled(change, way)
    total = sum(p.numel() for p in model(change).parameters())
    assert sum(p.numel() for p in found.parameters()) <= 0.7 * total
    optimizer = torch.optim.Adam(npas.param_groups(found), 0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (found(X) - X.flip(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    # Spectral norms are estimated in training alone, and by all in the same way.
    found.eval()
    torch.testing.assert_close(found(X), npas.materialize(found)(X))


@BOTH
def test_gradients_are_those_of_the_materialised_model(way: str, change: str) -> None:
    found = compiled(change, way).eval()
    dense = npas.materialize(found)
    assert_same(
        {n: g for n, g in gradients(found, found(X)).items() if n.endswith(".bias")},
        {n: g for n, g in gradients(dense, dense(X)).items() if n.endswith(".bias")},
    )


@pytest.mark.parametrize("change", CHANGES)
def test_uncompiled_the_parametrization_is_there_again(change: str) -> None:
    found = compiled(change, "in place").eval()
    expected = found(X)
    plain = npas.uncompile_(found)
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in model(change).named_parameters()
    }
    torch.testing.assert_close(plain(X), expected)
    if not change.endswith("hooks"):
        parametrize.remove_parametrizations(plain.first, "weight")
        torch.testing.assert_close(plain(X), expected)


# PyTorch itself refuses to copy what the older weight_norm has changed.
@pytest.mark.parametrize("change", [name for name in CHANGES if name != "weight_norm by hooks"])
@pytest.mark.parametrize("way", ["fx", "in place"])
def test_copies(way: str, change: str) -> None:
    found = compiled(change, way).eval()
    torch.testing.assert_close(copy.deepcopy(found)(X), found(X))


@pytest.mark.parametrize("way", WAYS)
def test_weights_may_be_cached_as_parametrize_offers(way: str) -> None:
    found = compiled("parametrize", way)
    expected = found(X)
    with parametrize.cached():
        torch.testing.assert_close(found(X), expected)
        torch.testing.assert_close(found(X), expected)
