"""Weights that evaluation keeps are never older than what they are made from."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import npas
from tests.faults.nets import CASES, IDS, KINDS, banks, compiled, evaluated, loss_of, truth

pytestmark = pytest.mark.pure

every_case = pytest.mark.parametrize(("way", "kind"), CASES)
every_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "own"])


def assert_fresh(module: nn.Module) -> None:
    """Evaluate twice, so that the second one reads the cache."""
    expected = truth(module)
    for _ in range(2):
        assert torch.equal(evaluated(module), expected)


def full(way: str, kind: str) -> Any:
    """Return a module in evaluation whose cache is full."""
    module = compiled(way, kind).eval()
    evaluated(module)
    assert all(bank._cache is not None for bank in banks(module))
    return module


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def _optimizers() -> dict[str, Make]:
    found: dict[str, Make] = {}
    for name in ("Adam", "AdamW", "SGD", "Adagrad"):
        for how in ("foreach", "fused", "for-loop"):
            given = {"foreach": how == "foreach"} | ({"fused": True} if how == "fused" else {})
            found[f"{name} {how}"] = lambda p, name=name, given=given: getattr(torch.optim, name)(
                p, lr=0.1, **given
            )
    for name in ("RMSprop", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop", "Adafactor"):
        for how in (True, False):
            found[f"{name} {'foreach' if how else 'for-loop'}"] = lambda p, name=name, how=how: (
                getattr(torch.optim, name)(p, lr=0.1, foreach=how)
            )
    found["LBFGS"] = lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2)
    return found


OPTIMIZERS = _optimizers()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["templates", "views"])
def test_an_optimizer_that_steps_in_evaluation(name: str, kind: str) -> None:
    module = full("fx", kind)
    optimizer: Any = OPTIMIZERS[name](list(module.parameters()))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(module)
        loss.backward()
        return loss

    before = evaluated(module)
    for _ in range(2):
        closure()
        assert torch.equal(evaluated(module), before)  # between backward and step
        optimizer.step(closure if name == "LBFGS" else None)
        assert_fresh(module)
        assert not torch.equal(evaluated(module), before), "the optimizer took no step"
        before = evaluated(module)


@every_case
def test_an_optimizer_that_steps_between_modes(way: str, kind: str) -> None:
    module = full(way, kind)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module.train()
    loss_of(module).backward()
    module.eval()
    before = evaluated(module)  # filled again before the step
    optimizer.step()
    assert_fresh(module)
    assert not torch.equal(evaluated(module), before)


def _noise(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn_like(tensor)


def _averaged_by_state(module: nn.Module) -> None:
    """As timm's ModelEma does."""
    for value in module.state_dict().values():
        value.copy_(value * 1.25 if value.is_floating_point() else value)


def _out_of_place(p: nn.Parameter) -> None:
    p.data = _noise(p)


def _in_inference_mode(p: nn.Parameter) -> None:
    with torch.inference_mode():
        p.mul_(1.5)


EDITS: dict[str, Callable[[nn.Parameter], object]] = {
    "mul_": lambda p: p.mul_(1.5),
    "copy_": lambda p: p.copy_(_noise(p)),
    "lerp_": lambda p: p.lerp_(_noise(p), 0.1),
    "normal_": lambda p: nn.init.normal_(p),
    "uniform_": lambda p: nn.init.uniform_(p),
    "one element": lambda p: p.view(-1)[:1].add_(0.5),
    "through a view": lambda p: p.view(-1)[1:].mul_(1.5),
    "through detach()": lambda p: p.detach().mul_(1.5),
    "out=": lambda p: torch.mul(p, 1.5, out=p),
    "set_": lambda p: p.set_(_noise(p)),  # pyright: ignore
    "in inference mode": _in_inference_mode,
    "data = other": _out_of_place,
}
FOREACH: Any = torch
MANY: dict[str, Callable[[nn.Module], object]] = {
    "foreach_mul_": lambda m: FOREACH._foreach_mul_(list(m.parameters()), 1.5),
    "foreach_lerp_": lambda m: FOREACH._foreach_lerp_(
        list(m.parameters()), [_noise(p) for p in m.parameters()], 0.1
    ),
    "foreach_copy_": lambda m: FOREACH._foreach_copy_(
        list(m.parameters()), [_noise(p) for p in m.parameters()]
    ),
    "vector_to_parameters": lambda m: vector_to_parameters(
        _noise(parameters_to_vector(m.parameters())), m.parameters()
    ),
    "averaged by its state dict": _averaged_by_state,
    "to another dtype and back": lambda m: m.bfloat16().float(),
}


@pytest.mark.parametrize("edit", EDITS)
@every_kind
def test_a_parameter_that_is_edited(kind: str, edit: str) -> None:
    module = full("fx", kind)
    for bank in banks(module):
        for parameter in bank.parameters():
            before = evaluated(module)
            with torch.no_grad():
                EDITS[edit](parameter)
            assert_fresh(module)
            assert not torch.equal(evaluated(module), before)


@pytest.mark.parametrize("edit", MANY)
@every_case
def test_all_parameters_that_are_edited(way: str, kind: str, edit: str) -> None:
    module = full(way, kind)
    before = evaluated(module)
    with torch.no_grad():
        MANY[edit](module)
    assert_fresh(module)
    assert not torch.equal(evaluated(module), before)


@every_case
def test_a_population_in_one_matrix(way: str, kind: str) -> None:
    """What evolution does: candidates are rows, which have one storage and no version to tell."""
    module = full(way, kind)
    start = parameters_to_vector(module.parameters()).detach()
    population = torch.stack([start + 0.1 * _noise(start) for _ in range(4)])
    seen: list[torch.Tensor] = []
    for row in population:
        vector_to_parameters(row, module.parameters())
        assert_fresh(module)
        assert not any(torch.equal(evaluated(module), other) for other in seen)
        seen.append(evaluated(module))


@every_kind
def test_data_that_is_replaced_again_before_it_is_read(kind: str) -> None:
    """The storage that is let go of is often where the next one but one is made."""
    module = full("fx", kind)
    (bank,) = banks(module)
    for _ in range(40):
        evaluated(module)
        for _ in range(2):
            bank.theta.data = _noise(bank.theta)
        assert torch.equal(evaluated(module), truth(module))


@every_kind
def test_an_average_that_is_swapped_in_and_out(kind: str) -> None:
    module = full("fx", kind)
    average = {n: p.detach() * 0.9 for n, p in module.named_parameters()}
    own = evaluated(module)
    expected: torch.Tensor | None = None
    for turn in range(4):
        for name, parameter in module.named_parameters():
            parameter.data, average[name] = average[name], parameter.data
        assert_fresh(module)
        found = evaluated(module)
        expected = found if expected is None else expected
        assert torch.equal(found, own if turn % 2 else expected)
    assert not torch.equal(own, expected)  # pyright: ignore


@every_kind
@pytest.mark.parametrize("mode", [True, False])
def test_gains_that_are_replaced(kind: str, mode: bool) -> None:
    """By functional_call, or by hand: another tensor may have the version that was noted."""
    module = full("fx", kind).train(mode)
    (bank,) = banks(module)
    other = bank.gain * 3
    while other._version < bank.gain._version:
        other.add_(0)
    name = next(n for n, b in module.named_buffers() if b is bank.gain)
    expected = copy.deepcopy(module)
    banks(expected)[0].set_gains(other)
    own = truth(module)
    with torch.no_grad():
        state = dict(module.named_parameters()) | dict(module.named_buffers()) | {name: other}
        found = torch.func.functional_call(
            module, {n: t.clone() if "norm" in n else t for n, t in state.items()}, (IDS,)
        )
    assert torch.equal(found, truth(expected))
    assert torch.equal(truth(module), own)
    bank.gain = other
    assert torch.equal(truth(module), truth(expected))
    assert torch.equal(evaluated(module), truth(expected))


UNSEEN: dict[str, Callable[[torch.Tensor], object]] = {
    ".data": lambda t: t.data.mul_(1.5),
    "NumPy": lambda t: t.detach().numpy().__imul__(1.5),
}


@pytest.mark.parametrize(
    ("kind", "what"),
    # Those of "views" are the bank itself, and change with it.
    [(k, w) for k in ("templates", "masked tiles") for w in ("theta", "gain")]
    + [("views", "gain")],
)
@pytest.mark.parametrize("how", UNSEEN)
def test_a_write_that_is_not_counted_needs_refresh(kind: str, what: str, how: str) -> None:
    """The exception that docs/limits.md names."""
    module = full("fx", kind)
    (bank,) = banks(module)
    with torch.no_grad():
        before = bank("up.weight").clone()
        UNSEEN[how](getattr(bank, what))
        assert torch.equal(bank("up.weight"), before)
        npas.refresh(module)
        assert not torch.equal(bank("up.weight"), before)
    assert_fresh(module)


def test_refresh_reaches_all_modules_inside_of_another() -> None:
    """Each has a bank of the same name."""
    both = nn.ModuleList([full("fx", "templates"), full("in place", "templates")])
    before = [evaluated(module) for module in both]
    for module in both:
        banks(module)[0].theta.data.mul_(1.5)
    npas.refresh(both)
    for module, old in zip(both, before, strict=True):
        assert not torch.equal(evaluated(module), old)
        assert_fresh(module)


def test_an_interrupt_while_gains_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at again: views of the bank would leave them out."""
    module = compiled("fx", "views")
    (bank,) = banks(module)
    bank.gain.mul_(3)
    expected = truth(module)
    with monkeypatch.context() as patch:

        def interrupted(self: torch.Tensor) -> Any:
            raise KeyboardInterrupt

        patch.setattr(torch.Tensor, "tolist", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module(IDS)
    assert torch.equal(evaluated(module), expected)


@pytest.mark.parametrize("when", ["before", "between", "after"])
@every_kind
def test_a_step_that_is_not_counted(kind: str, when: str) -> None:
    """Fused optimizers count no change: from a pass with grad on, evaluation caches nothing."""
    module = full("fx", kind)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        old = evaluated(module)
        loss = loss_of(module)
        if when == "before":
            evaluated(module)
        loss.backward()
        if when == "between":
            evaluated(module)
        optimizer.step()
        if when == "after":
            optimizer.zero_grad()
        assert_fresh(module)
        assert not torch.equal(evaluated(module), old)
    # Once it is said that training is over, the cache is back.
    module.eval()
    evaluated(module)
    assert banks(module)[0]._cache is not None


def test_a_step_of_a_gradient_from_before_needs_refresh() -> None:
    """The other exception: by eval() training was over."""
    module = compiled("fx")
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    loss_of(module).backward()
    module.eval()
    before = evaluated(module)
    optimizer.step()
    npas.refresh(module)
    assert_fresh(module)
    assert not torch.equal(evaluated(module), before)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_of_the_input_alone_leave_the_cache(frozen: bool) -> None:
    module = full("fx", "templates").requires_grad_(not frozen)
    (bank,) = banks(module)
    module.embedding.register_forward_hook(lambda m, i, o: o.detach().requires_grad_())
    module(IDS).sum().backward()
    evaluated(module)
    assert (bank._cache is not None) is frozen
