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


def bank_at(module: nn.Module, name: str) -> Bank:
    found = module.get_submodule(name)
    assert isinstance(found, Bank)
    return found


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
            of_tables = set(bank_at(ssn, owner).layer_names()) == {"embedding.weight"}
            decays = local == "theta" and not of_tables
            assert (name in decayed) == decays, name
            assert (name in plain) == (not decays), name
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


# What each cannot take: one group with all parameters is its only way, dense gradients, vectors.
_REFUSES = {"LBFGS": "parameter groups", "SparseAdam": "dense gradients", "Muon": "2D"}


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(cls, id=name)
        for name, cls in sorted(vars(torch.optim).items())
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
        if cls is not torch.optim.Optimizer
    ],
)
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_optimizers_take_the_groups(optimizer: Any, power: float) -> None:
    ssn = compiled(budget="60%", groups="single")
    groups = npas.param_groups(ssn, weight_decay=0.1, lr=0.01, sharing_power=power)
    made = None
    try:
        made = optimizer(groups, lr=0.01)
        before = {n: p.detach().clone() for n, p in ssn.named_parameters()}
        ssn(torch.randint(0, 40, (2, 5))).square().sum().backward()
        made.step()
    except (ValueError, RuntimeError) as error:
        assert _REFUSES[optimizer.__name__] in str(error)
        return
    assert optimizer.__name__ not in _REFUSES
    wanted = [(group["weight_decay"], group["lr"]) for group in groups]
    assert [(group["weight_decay"], group["lr"]) for group in made.param_groups] == wanted
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


def test_embedding_tables_do_not_decay() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.bag = nn.Embedding(30, 8), nn.EmbeddingBag(30, 8)
            self.positions = nn.Embedding(30, 8)
            self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 30)
            self.out.weight = self.positions.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.words(ids).mean(1) + self.bag(ids) + self.positions(ids).mean(1)
            return self.out(self.fc(x))

    assert decayed_and_not(Words())[0] == {"fc.weight"}
    tables = {"words|bag": "tables", "positions|fc": "mixed"}
    groups = {f"re:{pattern}": bank for pattern, bank in tables.items()}
    decayed, plain = decayed_and_not(npas.compile(Words(), "60%", groups=groups))
    assert "npas.banks.mixed.theta" in decayed and "npas.banks.tables.theta" in plain


def rates(module: nn.Module, **options: Any) -> dict[str, float]:
    names = {id(p): n for n, p in module.named_parameters()}
    groups = npas.param_groups(module, 0.1, **options)
    assert len(groups) == len({(group["weight_decay"], group["lr"]) for group in groups})
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def linears(budget: str) -> nn.Module:
    """Two layers in one bank, two in another, one alone."""
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(5)))
    torch.manual_seed(0)
    return npas.compile(model, budget, groups={"0": "a", "1": "a", "2": "b", "3": "b"})


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_banks_rate_falls_with_what_is_generated_from_it(power: float) -> None:
    ssn = linears("50%")
    found = rates(ssn, lr=0.1, sharing_power=power)
    for name, rate in found.items():
        if name.endswith("theta"):
            bank = bank_at(ssn, name.rpartition(".")[0])
            degree = len(bank.layer_names()) * 256 / bank.theta.numel()
            assert degree > 1.5
            assert rate == pytest.approx(0.1 / degree**power)
        else:
            assert rate == 0.1


def test_a_bank_that_is_larger_than_its_layers_keeps_its_rate() -> None:
    assert set(rates(linears("300%"), lr=0.1, sharing_power=1.0).values()) == {0.1}


def test_without_a_power_there_is_one_rate() -> None:
    ssn = linears("50%")
    assert all("lr" not in group for group in npas.param_groups(ssn, 0.1))
    assert set(rates(ssn, lr=0.1).values()) == {0.1}
    assert len(npas.param_groups(ssn, 0.1, lr=0.1)) == 2


def test_the_model_of_a_search_is_sorted_as_a_compiled_one() -> None:
    torch.manual_seed(0)
    ssn = npas.search_model(nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))))
    decayed, plain = decayed_and_not(ssn)
    assert {name.rpartition(".")[2] for name in decayed} == {"theta"}
    assert {name.rpartition(".")[2] for name in plain} == {"phi", "projection", "bias"}
    found = rates(ssn, lr=0.1, sharing_power=1.0)
    assert found.pop(next(iter(decayed))) == pytest.approx(0.1 / 4)
    assert set(found.values()) == {0.1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sharing_power": 0.5}, "pass lr="),
        ({"lr": -1.0}, r"lr=-1\.0 must be 0 or more"),
        ({"lr": float("nan")}, "lr=nan must be"),
        ({"lr": 0.1, "sharing_power": -1.0}, r"sharing_power=-1\.0 must be"),
        ({"weight_decay": float("inf")}, "weight_decay=inf must be"),
    ],
)
def test_bad_arguments_name_the_argument(options: dict[str, Any], match: str) -> None:
    with pytest.raises(npas.NpasError, match=match):
        npas.param_groups(nn.Linear(4, 4), **options)
