import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from benchmarks.traffic import memory_changes
from npas.bank import Bank
from npas.module import Shapeshifter

pytestmark = pytest.mark.pure


def make(budget: float = 0.8, **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 8))
    return npas.compile(model, budget, **{"groups": "single", **options})


def bank_of(ssn: nn.Module) -> Bank:
    (bank,) = (m for m in ssn.modules() if isinstance(m, Bank))
    return bank


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every generation of a whole bank ("all") and of one weight (its name)."""
    found: list[str] = []
    make_all, weight = Bank._generate_all, Bank._weight

    def count_all(bank: Bank) -> Any:
        found.append("all")
        return make_all(bank)

    def count_one(bank: Bank, slot: Any) -> Any:
        found.append(slot.layer.name)
        return weight(bank, slot)

    monkeypatch.setattr(Bank, "_generate_all", count_all)
    monkeypatch.setattr(Bank, "_weight", count_one)
    return found


X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def evaluate(ssn: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return ssn(X)


def test_evaluation_makes_each_weight_once(launches: list[str]) -> None:
    ssn = make().eval()
    first = evaluate(ssn)
    assert launches == ["all"]
    assert torch.equal(evaluate(ssn), first)
    assert launches == ["all"]


def test_a_cached_weight_is_the_same_object() -> None:
    bank = bank_of(make().eval())
    with torch.no_grad():
        assert bank("0.weight") is bank("0.weight")


def sgd_step(ssn: nn.Module) -> None:
    optimizer = torch.optim.SGD(ssn.parameters(), lr=0.5)
    ssn(X).square().sum().backward()
    optimizer.step()


def fused_adam_step(ssn: nn.Module) -> None:
    optimizer = torch.optim.AdamW(ssn.parameters(), lr=0.5, foreach=True)
    ssn(X).square().sum().backward()
    optimizer.step()


def in_place(ssn: nn.Module) -> None:
    with torch.no_grad():
        bank_of(ssn).theta.add_(1.0)


def one_coefficient(ssn: nn.Module) -> None:
    alpha = bank_of(ssn).alpha
    assert alpha is not None
    with torch.no_grad():
        alpha[0] = 7.0


def load_other(ssn: nn.Module) -> None:
    assert isinstance(ssn, Shapeshifter)
    torch.manual_seed(1)
    other = npas.compile(
        nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 8)),
        plan=ssn._npas.plan,
    )
    ssn.load_state_dict(other.state_dict())


def load_assign(ssn: nn.Module) -> None:
    state = {n: t + 0.5 if "gain" not in n else t for n, t in ssn.state_dict().items()}
    ssn.load_state_dict(state, assign=True)


def to_double_and_back(ssn: nn.Module) -> None:
    with torch.no_grad():
        ssn.double()
        bank_of(ssn).theta.mul_(2)
        ssn.float()


def new_parameter(ssn: nn.Module) -> None:
    bank = bank_of(ssn)
    bank.theta = nn.Parameter(bank.theta.detach() * 2)


def clear_and_rewrite(ssn: nn.Module) -> None:
    ssn.train()
    in_place(ssn)
    ssn.eval()


def set_gains(ssn: nn.Module) -> None:
    bank_of(ssn).set_gains(torch.tensor([2.0, 0.5, 1.0]))


def gain_in_place(ssn: nn.Module) -> None:
    bank_of(ssn).gain.mul_(3)


CHANGES: list[Callable[[nn.Module], None]] = [
    sgd_step,
    fused_adam_step,
    in_place,
    one_coefficient,
    load_other,
    load_assign,
    to_double_and_back,
    new_parameter,
    clear_and_rewrite,
    set_gains,
    gain_in_place,
]


@pytest.mark.parametrize("budget", [0.5, 0.8, 3.0])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: Callable[[nn.Module], None], budget: float) -> None:
    ssn = make(budget).eval()
    if change is one_coefficient and bank_of(ssn).alpha is None:
        pytest.skip("no coefficients at this budget")
    before = evaluate(ssn)
    change(ssn)
    after = evaluate(ssn)
    assert not torch.equal(before, after)
    ssn.zero_grad()
    uncached = ssn(X).detach()
    assert torch.allclose(after, uncached, rtol=1e-4, atol=1e-5)


def test_a_write_through_data_needs_refresh() -> None:
    ssn = make().eval()
    before = evaluate(ssn)
    bank_of(ssn).theta.data.mul_(2)
    assert torch.equal(evaluate(ssn), before), "documented: no version counter sees it"
    npas.refresh(ssn)
    assert not torch.equal(evaluate(ssn), before)


def test_refresh_of_a_module_inside_another() -> None:
    ssn = make().eval()
    outer = nn.Sequential(ssn)
    before = evaluate(outer)
    bank_of(ssn).theta.data.mul_(2)
    npas.refresh(outer)
    assert not torch.equal(evaluate(outer), before)


def test_with_grad_nothing_is_cached(launches: list[str]) -> None:
    ssn = make(recompute=True).eval()
    for _ in range(2):
        launches.clear()
        out = ssn(X)
        assert launches == ["0.weight", "2.weight", "3.weight"]
        out.sum().backward()
    evaluate(ssn)
    ssn(X).sum().backward()
    assert bank_of(ssn).theta.grad is not None


def test_training_without_grad_is_not_cached(launches: list[str]) -> None:
    ssn = make()
    evaluate(ssn)
    assert launches == ["0.weight", "2.weight", "3.weight"]
    assert bank_of(ssn)._cache is None


def test_going_back_to_training_frees_the_cache() -> None:
    ssn = make().eval()
    evaluate(ssn)
    assert bank_of(ssn)._cache is not None
    ssn.train()
    assert bank_of(ssn)._cache is None


def test_inference_mode_has_a_cache_of_its_own() -> None:
    ssn = make().eval()
    expected = ssn(X).detach()
    with torch.inference_mode():
        assert torch.allclose(ssn(X), expected, atol=1e-6)
        weight = bank_of(ssn)("0.weight")
        assert isinstance(weight, torch.Tensor) and weight.is_inference()
    with torch.no_grad():
        weight = bank_of(ssn)("0.weight")
        assert isinstance(weight, torch.Tensor) and not weight.is_inference()
    x = X.clone().requires_grad_()
    ssn(x).sum().backward()
    assert x.grad is not None
    sgd_step(ssn)
    with torch.inference_mode():
        assert not torch.allclose(ssn(X), expected, atol=1e-4)


def test_a_bank_of_inference_tensors_is_not_cached() -> None:
    with torch.inference_mode():
        ssn = make().eval()
        before = ssn(X)
        bank_of(ssn).theta.mul_(2)
        assert not torch.equal(ssn(X), before)


def test_the_cache_is_not_copied_pickled_or_saved() -> None:
    ssn = make().eval()
    plain = len(pickle.dumps(ssn))
    keys = list(ssn.state_dict())
    before = evaluate(ssn)
    assert bank_of(ssn)._cache is not None
    assert bank_of(copy.deepcopy(ssn))._cache is None
    assert bank_of(copy.copy(bank_of(ssn)))._cache is None
    pickled = pickle.dumps(ssn)
    assert abs(len(pickled) - plain) < 200
    loaded = pickle.loads(pickled)
    assert bank_of(loaded)._cache is None
    assert torch.equal(evaluate(loaded), before)
    file = io.BytesIO()
    torch.save(ssn, file)
    assert list(ssn.state_dict()) == keys
    # The caches of a copy and of the original are apart.
    copied = copy.deepcopy(ssn)
    with torch.no_grad():
        bank_of(copied).theta.zero_()
    assert torch.equal(evaluate(ssn), before)
    assert not torch.equal(evaluate(copied), before)


def test_a_cached_weight_cannot_be_reached_by_a_later_backward() -> None:
    ssn = make().eval()
    evaluate(ssn)
    bank = bank_of(ssn)
    weight = bank("0.weight")
    assert isinstance(weight, torch.Tensor) and weight.requires_grad


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("budget", [0.5, 0.8, 3.0])
def test_weights_are_made_in_autocasts_dtype(grad: bool, budget: float) -> None:
    ssn = make(budget).eval()
    bank = bank_of(ssn)
    seen: list[Any] = []
    for path in ("0", "2", "3"):
        ssn.get_submodule(path).register_forward_pre_hook(
            lambda module, _: seen.append(module.weight.dtype)
        )
    with torch.set_grad_enabled(grad):
        expected = ssn(X)
        assert seen == [torch.float32] * 3
        with torch.autocast("cpu", torch.bfloat16):
            out = ssn(X)
        assert out.dtype == torch.bfloat16
        assert seen[3:] == [torch.bfloat16] * 3
        assert torch.allclose(out.float(), expected, atol=0.1)
        # And the other way: the cache holds one dtype at a time.
        assert torch.equal(ssn(X), expected)
        assert seen[6:] == [torch.float32] * 3
    assert bank.theta.dtype == torch.float32


def test_autocast_sums_in_float32() -> None:
    # What is cast is the weight, once, not its templates or coefficients.
    bank = bank_of(make(3.0))
    exact = bank.generate("0.weight").detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = bank("0.weight")
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, exact.bfloat16())
    emb = bank_of(make(3.0, downsample="emb"))
    exact = emb.generate("0.weight").detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = emb("0.weight")
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, exact.bfloat16())


def test_layers_that_autocast_does_not_cast_keep_their_dtype() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(40, 16), nn.Linear(16, 16))
    ssn = npas.compile(model, 0.8, groups="single")
    with torch.autocast("cpu", torch.bfloat16):
        rows = bank_of(ssn)("0.weight", rows=torch.tensor([1, 2]))
    assert isinstance(rows, torch.Tensor) and rows.dtype == torch.float32


def test_gradients_under_autocast_reach_the_bank_in_its_dtype() -> None:
    ssn = make()
    with torch.autocast("cpu", torch.bfloat16):
        ssn(X).float().square().sum().backward()
    for name, parameter in ssn.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_bank_has_the_models_dtype_and_gains_stay_float32_or_follow(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).to(dtype)
    ssn = npas.compile(model, 0.8, groups="single")
    bank = bank_of(ssn)
    assert bank.theta.dtype == dtype
    assert bank.generate("0.weight").dtype == dtype
    assert ssn(X.to(dtype)).dtype == dtype


def test_weights_of_a_whole_bank_by_name() -> None:
    bank = bank_of(make(0.5))
    every = bank()
    assert isinstance(every, dict)
    assert list(every) == ["0.weight", "2.weight", "3.weight"] == list(bank.layer_names())
    for name, weight in every.items():
        assert torch.equal(weight, bank.generate(name))
        assert weight.requires_grad
    with torch.no_grad():
        for name, weight in bank.eval()().items():  # pyright: ignore
            assert torch.equal(weight, every[name])
            assert not weight.requires_grad


def test_the_state_of_a_bank() -> None:
    bank = bank_of(make(3.0))
    assert list(bank.state_dict()) == ["theta", "alpha", "gain"]
    emb = bank_of(make(3.0, downsample="emb"))
    assert list(emb.state_dict()) == ["theta", "phi", "projection", "bias", "gain"]
    assert not any(name.endswith("gain") for name, _ in bank.named_parameters())
    small = bank_of(make(0.4))
    assert "mask" in small.state_dict()
    assert "elements" in repr(bank) and "3 layers" in repr(bank)


def test_gains_of_one_make_a_view() -> None:
    bank = bank_of(make(0.8))
    single = [bank.slot_of(name)[0] for name in bank.layer_names()]
    bank.set_gains(torch.ones(3))
    for layer in single:
        weight = bank.generate(layer.name)
        shares = weight.untyped_storage().data_ptr() == bank.theta.untyped_storage().data_ptr()
        assert shares == (layer.k == 1)
    bank.scale_gain("0.weight", 2.0)
    assert bank.gain.tolist() == [2.0, 1.0, 1.0]
    weight = bank.generate("0.weight")
    assert weight.untyped_storage().data_ptr() != bank.theta.untyped_storage().data_ptr()


def test_gradients_of_a_whole_bank_are_written_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 63) for _ in range(20)))
    bank = bank_of(npas.compile(model, 0.5, groups="single", k=2))
    weights: Any = bank()
    loss = torch.stack([weight.square().sum() for weight in weights.values()]).sum()
    changes = memory_changes(loss.backward).changes
    taken = sum(change.n_bytes for change in changes if change.n_bytes > 0)
    total = sum(weight.nbytes for weight in weights.values())
    # Each in a few pieces of its own, and all of them together once, not once a layer.
    assert taken < 5 * total + 3 * bank.theta.nbytes


def test_weights_of_a_whole_bank_may_be_changed_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(9, 7, bias=False) for _ in range(3)))
    bank = bank_of(npas.compile(model, 0.7, groups="single", k=2))
    weights: Any = bank()
    weights["1.weight"].mul_(2)
    alone = [bank(f"{index}.weight") for index in range(3)]
    for index, (weight, expected) in enumerate(zip(weights.values(), alone, strict=True)):
        torch.testing.assert_close(weight, expected * (2 if index == 1 else 1))
    total = torch.stack([weight.sum() for weight in weights.values()]).sum()
    found = torch.autograd.grad(total, bank.theta)
    expected = torch.autograd.grad(alone[0].sum() + 2 * alone[1].sum() + alone[2].sum(), bank.theta)
    torch.testing.assert_close(found, expected)
