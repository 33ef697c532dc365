"""Compiled models that share a module: they work, or nothing is changed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas import NpasError
from tests.faults.nets import banks
from tests.invariants import assert_equal_bits
from tests.test_semantics import Snapshot

pytestmark = pytest.mark.pure

X = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


class Parent(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.middle(self.shared(x))))


def two() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    return shared, Parent(shared), Parent(shared)


def whole(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return outputs and gradients."""
    module.zero_grad()
    out = module(X)
    out.square().mean().backward()
    grads = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return {"output": out.detach(), **grads}


def test_compiled_from_models_that_share_a_module() -> None:
    shared, one, other = two()
    before = Snapshot(shared)
    compiled = [npas.compile(model, "50%", groups="single") for model in (one, other)]
    before.check(rng=False)
    pointers = [{p.data_ptr() for p in module.parameters()} for module in compiled]
    assert not pointers[0] & pointers[1]
    expected = whole(compiled[1])
    step_of(compiled[0])
    assert_equal_bits(whole(compiled[1]), expected)


def step_of(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    optimizer.zero_grad()
    module(X).square().mean().backward()
    optimizer.step()


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "plan": lambda m: npas.plan(m, "50%", groups="single"),
    "compile": lambda m: npas.compile(m, "50%", groups="single"),
    "compile_": lambda m: npas.compile_(m, "50%", groups="single"),
    "search_model": npas.search_model,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_model_that_shares_a_module_with_one_compiled_in_place(call: str) -> None:
    """It goes on as it is, with the banks of the other; compiling it is refused."""
    shared, one, other = two()
    npas.compile_(one, "50%", groups="single")
    expected = {model: whole(model) for model in (one, other)}
    before = [Snapshot(model) for model in (one, other)]
    for model, name in ((other, "shared.0"), (shared, "weights of 0 "), (shared[0], "Linear")):
        with pytest.raises(NpasError, match=name) as caught:
            CALLS[call](model)
        assert "npas.uncompile_" in str(caught.value)
    for snapshot in before:
        snapshot.check()
    for model, found in expected.items():
        assert_equal_bits(whole(model), found)
    # One step moves both.
    step_of(one)
    assert not torch.equal(whole(other)["output"], expected[other]["output"])
    # What the message says helps.
    output = whole(other)["output"]
    npas.uncompile_(one)
    assert_equal_bits({"output": whole(other)["output"]}, {"output": output})
    CALLS[call](other)


def test_both_as_one() -> None:
    _, one, other = two()
    both = npas.compile_(nn.ModuleList([one, other]), "50%", groups="single")
    dense: Any = npas.materialize(both)
    for i in range(2):
        torch.testing.assert_close(both[i](X), dense[i](X))
    loss = torch.stack([part(X).square().mean() for part in both]).sum()
    loss.backward()
    assert all(p.grad is not None for p in both.parameters())
    npas.uncompile_(both)
    assert one.shared is other.shared and not banks(both)


def test_a_model_compiled_in_place_inside_of_two_others() -> None:
    shared, one, other = two()
    npas.compile_(shared, "60%", groups="single")
    for model in (one, other):
        before = Snapshot(model)
        for call in CALLS.values():
            with pytest.raises(NpasError, match="compiled by npas already"):
                call(model)
        before.check()
        names = [n for n, _ in model.named_parameters()]
        assert any(n.startswith("shared.npas.banks.") for n in names)
    copied = copy.deepcopy(other)
    output = whole(other)["output"]
    step_of(one)  # the banks belong to what both hold
    assert not torch.equal(whole(other)["output"], output)
    assert torch.equal(whole(copied)["output"], output)
    output = whole(other)["output"]
    npas.uncompile_(shared)
    assert torch.equal(whole(other)["output"], output)


@pytest.mark.parametrize("undo", [npas.uncompile_, npas.materialize])
def test_undoing_where_another_model_generates_a_part(undo: Callable[[Any], Any]) -> None:
    """With own banks nothing shows that a module belongs to a compiled model: it may be taken."""
    _, one, other = two()
    npas.compile_(one, "100%", groups="own")
    npas.compile_(other, "50%", groups="single")
    before = [Snapshot(model) for model in (one, other)]
    expected = whole(one), whole(other)
    before = [Snapshot(model) for model in (one, other)]
    with pytest.raises(NpasError, match=r"shared\.0\.weight comes from the banks of another"):
        undo(one)
    for snapshot in before:
        snapshot.check()
    assert_equal_bits(whole(one), expected[0])
    assert_equal_bits(whole(other), expected[1])
    npas.uncompile_(other)
    plain = undo(one)
    assert torch.equal(whole(plain)["output"], expected[0]["output"])
    assert type(plain) is Parent


def test_a_copy_of_a_part_has_banks_of_its_own() -> None:
    shared, one, _ = two()
    npas.compile_(one, "50%", groups="single")
    part = copy.deepcopy(shared)
    expected = part(X)
    step_of(one)
    assert torch.equal(part(X), expected)
    assert not torch.equal(shared(X), expected)
