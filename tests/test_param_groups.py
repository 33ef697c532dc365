from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.bank import Bank

pytestmark = pytest.mark.pure


class Net(nn.Module):
    """Every kind of parameter that is kept, beside some that are allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.mha = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.norm, self.plane = nn.LayerNorm(16), nn.LayerNorm([5, 16])
        self.kept = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.fc = nn.Linear(16, 16)
        self.head = nn.Linear(16, 40)
        self.head.weight = self.embedding.weight
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.token
        x = x + self.mha(x, x, x, need_weights=False)[0]
        x = self.plane(self.norm(self.lstm(x)[0]))
        return self.head(self.fc(self.frozen(self.kept(x)))) * self.scale


_PLANS: list[dict[str, Any]] = [
    {"budget": "60%"},
    {"budget": "60%", "groups": "single"},
    {"budget": "45%", "groups": "single"},
    {"budget": "150%", "groups": "single"},
    {"budget": "150%", "groups": "single", "downsample": "emb"},
    {"budget": "60%", "groups": "single", "overrides": {"fc": {"scale": True}}},
    {"budget": "100%", "groups": "own"},
]


def compiled(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return npas.compile(Net(), ignored_modules=["kept"], **options)


def decayed_and_not(module: nn.Module) -> tuple[set[str], set[str]]:
    names = {id(p): n for n, p in module.named_parameters()}
    with_decay, without = npas.param_groups(module, weight_decay=0.1)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.1, 0.0)
    first, second = ({names[id(p)] for p in group["params"]} for group in (with_decay, without))
    return first, second


@pytest.mark.parametrize("options", _PLANS)
def test_every_trainable_parameter_is_in_exactly_one_group(options: dict[str, Any]) -> None:
    ssn = compiled(**options)
    groups = npas.param_groups(ssn, weight_decay=0.1)
    placed = [id(p) for group in groups for p in group["params"]]
    assert len(placed) == len(set(placed))
    assert set(placed) == {id(p) for p in ssn.parameters() if p.requires_grad}


@pytest.mark.parametrize("options", _PLANS)
def test_only_banks_and_whole_weights_decay(options: dict[str, Any]) -> None:
    ssn = compiled(**options)
    decayed, plain = decayed_and_not(ssn)
    assert "kept.weight" in decayed
    banks = {n for n, m in ssn.named_modules() if isinstance(m, Bank)}
    for name in ssn.state_dict():
        owner, _, local = name.rpartition(".")
        if owner in banks and local != "gain":
            assert (name in decayed) == (local == "theta"), name
            assert (name in plain) == (local != "theta"), name
    for name in decayed | plain:
        if name.endswith(("bias", "_l0")) or name.startswith("norm."):
            assert name in plain or name.startswith(("plane.", "lstm.weight")), name
    assert "scale" in plain


def test_a_norm_of_two_dimensions_does_not_decay() -> None:
    decayed, plain = decayed_and_not(compiled(budget="60%"))
    assert {"plane.weight", "plane.bias"} <= plain
    assert not any(name.startswith("plane") for name in decayed)


def test_a_vector_of_three_dimensions_does_not_decay() -> None:
    # Class tokens and the like are kept because they are vectors.
    assert "token" in decayed_and_not(compiled(budget="60%"))[1]


def test_there_is_something_of_every_sort_to_sort() -> None:
    found = {n for options in _PLANS for n in compiled(**options).state_dict() if "npas" in n}
    locals_ = {name.rpartition(".")[2] for name in found}
    sorts = {"theta", "alpha", "phi", "projection", "bias", "scale", "gain"}
    assert locals_ >= sorts | {"mask"} or locals_ >= sorts


def test_frozen_parameters_are_in_none() -> None:
    ssn = compiled(budget="60%")
    placed = set.union(*decayed_and_not(ssn))
    assert not any(name.startswith("frozen") for name in placed)
    for parameter in ssn.parameters():
        parameter.requires_grad_(False)
    assert npas.param_groups(ssn, weight_decay=0.1) == []


def test_a_group_that_would_be_empty_is_left_out() -> None:
    groups = npas.param_groups(nn.Linear(4, 4, bias=False), weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [1]
    groups = npas.param_groups(nn.LayerNorm(4), weight_decay=0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.0)]


def test_any_module_and_modules_that_hold_a_compiled_one() -> None:
    decayed, plain = decayed_and_not(nn.Sequential(compiled(budget="60%"), nn.Linear(4, 4)))
    assert {"1.weight", "0.kept.weight"} <= decayed and "1.bias" in plain
    assert any(name.endswith("theta") for name in decayed)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_optimizers_take_the_groups(optimizer: Any) -> None:
    ssn = compiled(budget="60%")
    made = optimizer(npas.param_groups(ssn, weight_decay=0.1), lr=0.01)
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.0]
    before = {n: p.detach().clone() for n, p in ssn.named_parameters()}
    ssn(torch.randint(0, 40, (2, 5))).square().sum().backward()
    made.step()
    for name, parameter in ssn.named_parameters():
        if name.startswith("frozen"):
            assert torch.equal(parameter, before[name])
        elif parameter.grad is not None and parameter.grad.any():
            assert not torch.equal(parameter, before[name]), name


def test_coefficients_do_not_shrink_and_banks_do() -> None:
    ssn = compiled(budget="150%", groups="single")
    made = torch.optim.SGD(npas.param_groups(ssn, weight_decay=0.5), lr=0.1)
    before = {n: p.detach().clone() for n, p in ssn.named_parameters()}
    for parameter in ssn.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    after = dict(ssn.named_parameters())
    assert torch.equal(after["npas.banks.b0.alpha"], before["npas.banks.b0.alpha"])
    torch.testing.assert_close(after["npas.banks.b0.theta"], before["npas.banks.b0.theta"] * 0.95)


def test_no_weight_decay_by_default() -> None:
    assert {g["weight_decay"] for g in npas.param_groups(compiled(budget="60%"))} == {0.0}
