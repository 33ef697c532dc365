"""A compiled module behaves as the original, whatever captured it, and also in place."""

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import npas
from npas.bank import Bank
from tests.invariants import assert_equal_bits, loss_of

pytestmark = pytest.mark.pure

HOWS = ("fx", "export", "opaque", "in place")
BUDGETS = ("own", "shared")
every_how = pytest.mark.parametrize("how", HOWS)
every_budget = pytest.mark.parametrize("budget", BUDGETS)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.linear(x)))


class Base(nn.Module):
    family = "base"

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.fc = nn.Linear(16, 16)

    @classmethod
    def created(cls) -> str:
        return f"{cls.__name__} of {cls.family}"

    @staticmethod
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.fc(x))

    def describe(self) -> str:
        return "a base"


class Rich(Base):
    """Everything a model of users does that all front ends can capture."""

    family = "rich"

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.dropout = dropout
        self.blocks = nn.ModuleList([Block(), Block()])
        self.again = nn.Linear(16, 16)
        self.heads = nn.ModuleDict(
            {"plain": nn.Linear(16, 16, bias=False), "biased": nn.Linear(16, 16)}
        )
        self.list = nn.ParameterList([torch.randn(16), torch.randn(16, 16) / 4])
        self.dict = nn.ParameterDict({"up": torch.randn(16, 16) / 4})
        self.raw = nn.Parameter(torch.randn(16, 16) / 4)
        self.register_parameter("nothing", None)
        self.head = nn.Linear(16, 30)
        self.head.weight = self.embedding.weight
        self.shared: torch.Tensor
        self.hidden: torch.Tensor
        self.steps: torch.Tensor
        self.register_buffer("shared", torch.full((16,), 1.5))
        self.blocks[0].register_buffer("shared", self.shared)
        self.register_buffer("hidden", torch.full((16,), 0.5), persistent=False)
        self.register_buffer("steps", torch.zeros(()))
        self.config = {"names": ["a"]}

    @property
    def width(self) -> int:
        return self.fc.in_features

    @property
    def norm_of_fc(self) -> torch.Tensor:
        return self.fc.weight.square().sum()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x) + self.hidden

    def describe(self) -> str:
        return f"rich, but {super().describe()}"

    def forward(
        self,
        ids: torch.Tensor,
        x: torch.Tensor,
        shift: float = 0.0,
        *,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.encode(self.embedding(ids) + x)
        for block in self.blocks:
            x = block(x) * self.blocks[0].shared
        x = self.again(torch.relu(self.again(x)))
        x = F.dropout(x, self.dropout, self.training)
        if self.training:
            self.steps.add_(1)
            x = x + 1
        x = self.heads["plain"](x) + self.heads["biased"](x) * self.list[0]
        x = x @ self.list[1] + x @ self.dict["up"] + x @ self.raw
        if scale is not None:
            x = x * scale
        return self.head(x) * self.shared.mean() + shift


def _inputs(batch: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 30, (batch,), generator=generator)
    return ids, torch.randn(batch, 16, generator=generator)


INPUTS = _inputs()


def make(model: nn.Module, how: str, budget: str, inputs: Any = INPUTS, **options: Any) -> Any:
    """Compile; the model given is not changed, also where it is done in place."""
    share, groups = (1.0, "own") if budget == "own" else (0.5, "single")
    if how == "in place":
        return npas.compile_(copy.deepcopy(model), share, groups=groups, **options)
    examples = {"example_inputs": inputs} if how in ("export", "auto") else {}
    return npas.compile(model, share, groups=groups, frontend=how, **examples, **options)


def pair(how: str, budget: str, model: nn.Module | None = None) -> tuple[Any, Any]:
    """Return a compiled module and an ordinary one that must behave the same."""
    torch.manual_seed(0)
    model = Rich() if model is None else model
    ssn = make(model, how, budget)
    return ssn, model if budget == "own" else npas.materialize(ssn)


def outcome(
    model: nn.Module, inputs: Any = INPUTS, *, grad: bool = True, **kwargs: Any
) -> dict[str, torch.Tensor]:
    """Return outputs, buffers and gradients by name."""
    given = [_leaf(value) for value in inputs]
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        outputs = [t for t in tree_leaves(model(*given, **kwargs)) if torch.is_tensor(t)]
    found = {f"output {i}": value.detach() for i, value in enumerate(outputs)}
    found |= {
        f"buffer {name}": value.clone()
        for name, value in model.named_buffers()
        if not name.startswith("npas.")
    }
    if grad:
        model.zero_grad()
        torch.stack([loss_of(t) for t in outputs if t.requires_grad]).sum().backward()
        found |= gradients(model)
        for i, value in enumerate(given):
            if torch.is_tensor(value) and value.grad is not None:
                found[f"gradient of input {i}"] = value.grad
    return found


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"gradient of {name}": p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def _leaf(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone().requires_grad_(value.is_floating_point())


def assert_behaves(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare by name, bit for bit, everything that both modules have."""
    names = [n for n in expected if n in found]
    kept = [n for n in expected if n.startswith(("output", "buffer", "gradient of input"))]
    assert set(kept) <= set(names), set(kept) - set(names)
    extra = {n for n in found if n not in expected and not n.startswith("gradient of npas.")}
    assert not extra, extra
    assert_equal_bits({n: found[n] for n in names}, {n: expected[n] for n in names})


def assert_own(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert_behaves(found, expected)


def hooks_are_gone(ssn: Any) -> bool:
    autograd: Any = getattr(torch._C, "_autograd")  # noqa: B009
    outside = autograd._top_saved_tensors_default_hooks(True) is None
    return outside and ssn._npas.live._pass.banks is None


def banks_of(ssn: nn.Module) -> list[Bank]:
    return [module for module in ssn.modules() if isinstance(module, Bank)]


# Modes, branches and buffers.


@every_how
@every_budget
def test_training_and_evaluation_take_their_branches(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    for mode in (True, False, True):
        assert ssn.train(mode) is ssn
        assert all(module.training is mode for module in ssn.modules())
        found, expected = outcome(ssn), outcome(model.train(mode))
        (assert_own if budget == "own" else assert_behaves)(found, expected)
    assert_behaves(outcome(ssn.eval(), grad=False), outcome(model.eval(), grad=False))
    assert not npas.report(ssn).fallbacks


@every_how
def test_a_shared_model_has_banks_that_all_get_gradients(how: str) -> None:
    ssn, _ = pair(how, "shared")
    assert len(banks_of(ssn)) == 1
    outcome(ssn)
    for name, parameter in ssn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_how
@every_budget
def test_buffers_advance_as_in_the_original(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    for step in range(3):
        for module in (ssn, model):
            torch.manual_seed(step)
            module(*_inputs(seed=step))
    assert float(ssn.steps) == 3 and float(model.steps) == 3
    state = model.state_dict()
    for name, value in ssn.state_dict().items():
        if not name.startswith("npas.") and name in dict(model.named_buffers()):
            assert torch.equal(value, state[name]), name


@every_how
@every_budget
def test_a_shared_buffer_stays_one(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    assert ssn.blocks[0].shared is ssn.shared
    for module in (ssn, model):
        module.shared.mul_(2)
    assert_behaves(outcome(ssn), outcome(model))


class Counts(nn.Module):
    """Changes attributes in forward, as models that log or cache do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.calls = 0
        self.last: torch.Tensor | None = None

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.fc(x)
        self.last = x.detach()
        return x


@pytest.mark.parametrize("how", [*HOWS, "auto"])
@every_budget
def test_attributes_that_forward_changes(how: str, budget: str) -> None:
    torch.manual_seed(0)
    try:
        ssn = make(Counts(), how, budget)
    except npas.TraceError:
        assert how in ("fx", "export")  # these may say that they cannot
        return
    out = [ssn(*INPUTS) for _ in range(3)][-1]
    assert ssn.calls == 3
    assert isinstance(ssn.last, torch.Tensor) and torch.equal(ssn.last, out)


class Rebinds(Counts):
    """Puts a new tensor where its buffer was."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.5 * self.mean + x.detach().mean(0)
        return self.fc(x) + self.mean


@pytest.mark.parametrize("how", [*HOWS, "auto"])
@every_budget
def test_a_buffer_that_forward_replaces(how: str, budget: str) -> None:
    try:
        ssn, model = pair(how, budget, Rebinds())
    except npas.TraceError:
        assert how in ("fx", "export")
        return
    for _ in range(3):
        assert torch.equal(ssn(*INPUTS), model(*INPUTS))
    assert torch.equal(ssn.state_dict()["mean"], model.state_dict()["mean"])


@every_how
@every_budget
@pytest.mark.parametrize("when", ["before compiling", "after"])
def test_parts_in_evaluation_while_the_root_trains(how: str, budget: str, when: str) -> None:
    torch.manual_seed(0)
    model = Rich()
    if when == "before compiling":
        model.blocks[0].get_submodule("norm").eval()
    ssn, expected = pair(how, budget, model)
    if when == "after":
        for module in (ssn, expected):
            module.blocks[0].norm.eval()
    assert ssn.training and not ssn.blocks[0].norm.training
    before = ssn.blocks[0].norm.running_mean.clone()
    assert_behaves(outcome(ssn), outcome(expected))
    assert torch.equal(ssn.blocks[0].norm.running_mean, before)


# Hooks.

HOOKED = ("", "fc", "blocks.0", "again", "heads.plain", "head")


class Log:
    """What hooks saw, with the path of their module."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def take(self) -> list[tuple[Any, ...]]:
        events, self.events = self.events, []
        return events

    def note(self, *what: Any) -> None:
        self.events.append(tuple(_plain(value) for value in what))

    def register(self, model: nn.Module, paths: tuple[str, ...] = HOOKED) -> None:
        for path in paths:
            module = model.get_submodule(path)
            module.register_forward_hook(lambda m, a, o, p=path: self.note(p, "forward", a, o))
            module.register_forward_hook(
                lambda m, a, k, o, p=path: self.note(p, "forward with kwargs", a, k, o),
                with_kwargs=True,
            )
            module.register_forward_pre_hook(lambda m, a, p=path: self.note(p, "before", a))
            module.register_forward_pre_hook(
                lambda m, a, k, p=path: self.note(p, "before with kwargs", a, k), with_kwargs=True
            )
            module.register_full_backward_hook(
                lambda m, i, o, p=path: self.note(p, "backward", i, o)
            )
            module.register_full_backward_pre_hook(
                lambda m, o, p=path: self.note(p, "before backward", o)
            )


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        values = None if value.is_meta else value.detach().flatten().tolist()
        return ("tensor", tuple(value.shape), values)
    if isinstance(value, tuple | list):
        return tuple(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _hooked_run(log: Log, model: nn.Module, **kwargs: Any) -> list[tuple[Any, ...]]:
    log.take()
    outcome(model, **kwargs)
    return log.take()


def _assert_same_events(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    assert [event[:2] for event in found] == [event[:2] for event in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == theirs, mine[:2]


@every_how
@every_budget
@pytest.mark.parametrize("path", HOOKED)
def test_hooks_registered_after_compiling_see_what_they_see_on_the_original(
    how: str, budget: str, path: str
) -> None:
    ssn, model = pair(how, budget)
    log = Log()
    for module in (ssn, model):
        log.register(module, (path,))
    for mode in (True, False):
        expected = _hooked_run(log, model.train(mode), shift=0.0)
        assert len(expected) == (12 if path == "again" else 6)
        _assert_same_events(_hooked_run(log, ssn.train(mode), shift=0.0), expected)


@every_how
@every_budget
@pytest.mark.parametrize("path", HOOKED)
def test_hooks_registered_before_compiling_see_what_they_see_on_the_original(
    how: str, budget: str, path: str
) -> None:
    torch.manual_seed(0)
    log, original = Log(), Rich()
    log.register(original, (path,))
    if how == "export" and path:
        with pytest.raises(npas.TraceError, match="hooks"):
            make(original, how, budget)
        return
    ssn, model = pair(how, budget, original)
    if budget == "shared":
        assert model.get_submodule(path)._forward_hooks
    for mode in (True, False):
        expected = _hooked_run(log, model.train(mode))
        assert len(expected) == (12 if path == "again" else 6)
        _assert_same_events(_hooked_run(log, ssn.train(mode)), expected)


@every_how
@every_budget
def test_hooks_on_all_modules_at_once_run_in_the_order_of_the_original(
    how: str, budget: str
) -> None:
    ssn, model = pair(how, budget)
    log = Log()
    for module in (ssn, model):
        log.register(module)
    _assert_same_events(_hooked_run(log, ssn), _hooked_run(log, model))


@every_how
@every_budget
@pytest.mark.parametrize("path", HOOKED)
def test_hooks_that_replace_inputs_outputs_and_gradients(how: str, budget: str, path: str) -> None:
    ssn, model = pair(how, budget)
    for root in (ssn, model):
        module = root.get_submodule(path)
        module.register_forward_pre_hook(lambda m, a: (*a[:-1], a[-1] * 1.5))
        module.register_forward_hook(lambda m, a, o: o * 2)
        module.register_full_backward_hook(
            lambda m, i, o: tuple(None if g is None else g * 3 for g in i)
        )
    assert_behaves(outcome(ssn), outcome(model))


@every_how
@every_budget
def test_a_hook_that_is_removed_is_gone(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    handles = [ssn.get_submodule(path).register_forward_hook(lambda *_: 1 / 0) for path in HOOKED]
    with pytest.raises(ZeroDivisionError):
        ssn(*INPUTS)
    for handle in handles:
        handle.remove()
    for name, buffer in ssn.named_buffers():
        if name in dict(model.named_buffers()):
            model.get_buffer(name).copy_(buffer)
    assert_behaves(outcome(ssn), outcome(model))


def test_handles_of_hooks_of_before_compiling_in_place_still_remove_them() -> None:
    torch.manual_seed(0)
    model, fired = Rich(), []
    handles = [
        model.get_submodule(path).register_forward_hook(lambda *_, p=path: fired.append(p))
        for path in HOOKED
    ]
    npas.compile_(model, 0.5, groups="single")
    model(*INPUTS)
    assert sorted(fired) == sorted((*HOOKED, "again"))
    for handle in handles:
        handle.remove()
    fired.clear()
    model(*INPUTS)
    assert not fired


# State.


@every_how
def test_own_banks_have_the_originals_state_and_parameters_in_its_order(how: str) -> None:
    ssn, model = pair(how, "own")
    assert list(ssn.state_dict()) == list(model.state_dict())
    assert [n for n, _ in ssn.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in ssn.named_buffers()] == [n for n, _ in model.named_buffers()]
    assert [n for n, _ in ssn.named_modules()] == [n for n, _ in model.named_modules()]
    assert [n for n, _ in ssn.named_children()] == [n for n, _ in model.named_children()]
    other = Rich()
    assert "matched" in str(ssn.load_state_dict(other.state_dict(), strict=True))
    assert_own(outcome(ssn), outcome(other))
    assert "matched" in str(other.load_state_dict(ssn.state_dict(), strict=True))


@every_how
def test_shared_banks_come_after_the_originals_state_in_its_order(how: str) -> None:
    ssn, model = pair(how, "shared")
    keys, theirs = list(ssn.state_dict()), list(model.state_dict())
    gone = [key for key in theirs if key not in keys]
    n_kept = len(theirs) - len(gone)
    assert keys[:n_kept] == [key for key in theirs if key in keys]
    assert all(key.startswith("npas.banks.") for key in keys[n_kept:])
    assert sorted(gone) == sorted(
        name for layer in ssn._npas.plan.layers for name in (layer.name, *layer.aliases)
    )
    dense = npas.dense_state_dict(ssn)
    assert_equal_bits(dense, model.state_dict())
    assert dense["head.weight"].data_ptr() == dense["embedding.weight"].data_ptr()


@every_how
def test_loading_a_shared_state_is_strict(how: str) -> None:
    (ssn, _), (other, _) = pair(how, "shared"), pair(how, "shared")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    ssn.load_state_dict(other.state_dict(), strict=True)
    assert_equal_bits(outcome(ssn), outcome(other))
    state = other.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        ssn.load_state_dict({n: t for n, t in state.items() if n != "fc.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ssn.load_state_dict({**state, "fc.weight": torch.zeros(16, 16)})
    with pytest.raises(RuntimeError, match=r"Missing key.*npas"):
        ssn.load_state_dict(Rich().state_dict())


@every_how
@every_budget
@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_behave_the_same_and_share_nothing(
    how: str, budget: str, copier: Callable[[Any], Any]
) -> None:
    ssn, model = pair(how, budget)
    copied = copier(ssn)
    assert isinstance(copied, Rich) and type(copied).__name__ == "Rich"
    assert list(copied.state_dict()) == list(ssn.state_dict())
    mine = {t.untyped_storage().data_ptr() for t in (*ssn.parameters(), *ssn.buffers())}
    for tensor in (*copied.parameters(), *copied.buffers()):
        assert tensor.untyped_storage().data_ptr() not in mine
    assert copied.blocks[0].shared is copied.shared
    for mode in (True, False):
        assert_behaves(outcome(copied.train(mode)), outcome(model.train(mode)))
    assert all(p.grad is None for p in ssn.parameters())
    assert copied.config == ssn.config and copied.config is not ssn.config


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_model_compiled_in_place_can_be_uncompiled(
    copier: Callable[[Any], Any],
) -> None:
    ssn, model = pair("in place", "shared")
    plain = npas.uncompile_(copier(ssn))
    assert type(plain) is Rich and type(plain.fc) is nn.Linear
    assert_own(outcome(plain), outcome(model))
    assert isinstance(ssn, Rich) and banks_of(ssn)


# Moving.


@every_how
@every_budget
@pytest.mark.parametrize(
    ("dtype", "move"),
    [
        (torch.float64, lambda m: m.double()),
        (torch.float64, lambda m: m.to(torch.float64)),
        (torch.bfloat16, lambda m: m.bfloat16()),
        (torch.float16, lambda m: m.half()),
    ],
    ids=["double", "to", "bfloat16", "half"],
)
def test_other_dtypes(
    how: str, budget: str, dtype: torch.dtype, move: Callable[[nn.Module], nn.Module]
) -> None:
    ssn, model = pair(how, budget)
    assert move(ssn) is ssn
    move(model)
    inputs = INPUTS[0], INPUTS[1].to(dtype)
    assert all(p.dtype == dtype for p in ssn.parameters())
    for mode in (True, False):
        found, expected = outcome(ssn.train(mode), inputs), outcome(model.train(mode), inputs)
        assert found["output 0"].dtype == dtype
        if budget == "own":
            assert_own(found, expected)
        else:
            rough = 1e-5 if dtype == torch.float64 else 0.1
            theirs = expected["output 0"]
            scale = rough * float(theirs.abs().max())
            torch.testing.assert_close(found["output 0"], theirs, rtol=rough, atol=scale)


@every_how
@every_budget
def test_freezing_and_thawing(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    assert ssn.requires_grad_(False) is ssn
    out = ssn(*INPUTS)
    assert not out.requires_grad and not any(p.requires_grad for p in ssn.parameters())
    x = INPUTS[1].clone().requires_grad_()
    ssn(INPUTS[0], x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in ssn.parameters())
    ssn.requires_grad_(True)
    for _ in range(2):
        model(*INPUTS)
    assert_behaves(outcome(ssn), outcome(model))


@every_how
@every_budget
def test_through_the_meta_device_and_back(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    inputs = tuple(t.to("meta") for t in INPUTS)
    for module in (ssn, model):
        state = {n: t.clone() for n, t in module.state_dict().items()}
        module.to("meta")
        assert all(t.is_meta for t in (*module.parameters(), *module.buffers()))
        out = module.eval()(*inputs)
        assert out.shape == (4, 30) and out.is_meta
        module.to_empty(device="cpu").train()
        assert "matched" in str(module.load_state_dict(state, strict=True))
        module.hidden.fill_(0.5)
    assert_behaves(outcome(ssn), outcome(model))


# The class, its attributes and methods.


@every_how
@every_budget
def test_attributes_properties_and_methods_of_the_root(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    assert isinstance(ssn, Rich) and isinstance(ssn, Base)
    assert type(ssn).__name__ == "Rich" and type(ssn).__module__ == Rich.__module__
    assert ssn.width == 16 and ssn.dropout == 0.3 and ssn.nothing is None
    assert ssn.config == {"names": ["a"]}
    assert ssn.created() == "Rich of rich" == type(ssn).created()
    assert ssn.describe() == "rich, but a base"
    assert torch.equal(ssn.twice(INPUTS[1]), 2 * INPUTS[1])
    assert isinstance(ssn.fc, nn.Linear) and isinstance(ssn.blocks, nn.ModuleList)
    assert len(ssn.blocks) == 2 and list(ssn.heads) == ["plain", "biased"]
    assert len(ssn.list) == 2 and list(ssn.dict) == ["up"]
    assert torch.equal(ssn.list[1], model.list[1]) and torch.equal(ssn.dict["up"], model.dict["up"])
    assert torch.equal(ssn.raw, model.raw) and torch.equal(ssn.fc.weight, model.fc.weight)
    assert torch.equal(ssn.norm_of_fc, model.norm_of_fc)
    assert ssn.heads["plain"].bias is None
    with pytest.raises(AttributeError, match="missing"):
        _ = ssn.missing


@every_how
@every_budget
def test_iterating_over_lists_and_dicts_of_parameters(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    for mine, theirs in (
        (list(ssn.list), list(model.list)),
        (list(ssn.dict.values()), list(model.dict.values())),
        ([v for _, v in ssn.dict.items()], [v for _, v in model.dict.items()]),
        ([ssn.list[-1], *ssn.list[:1]], [model.list[-1], *model.list[:1]]),
    ):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a, b)


@every_how
def test_tied_weights_stay_tied(how: str) -> None:
    ssn, model = pair(how, "own")
    assert ssn.head.weight is ssn.embedding.weight
    ssn, model = pair(how, "shared")
    assert torch.equal(ssn.head.weight, ssn.embedding.weight)
    dense = npas.materialize(ssn)
    assert dense.get_parameter("head.weight") is dense.get_parameter("embedding.weight")
    assert model.head.weight is model.embedding.weight


@every_how
@every_budget
def test_methods_outside_forward_get_gradients(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    found = []
    for module in (ssn, model):
        x = INPUTS[1].clone().requires_grad_()
        out = module.encode(x)
        loss_of(out).backward()
        assert x.grad is not None
        found.append({"out": out.detach(), "x": x.grad, "bias": module.fc.bias.grad})
    assert_equal_bits(found[0], found[1])
    if budget == "own":
        assert_equal_bits(gradients(ssn), gradients(model))
    else:
        (bank,) = banks_of(ssn)
        assert bank.theta.grad is not None and bank.theta.grad.any()


@every_how
@every_budget
def test_a_weight_read_outside_forward_gets_the_gradient_of_its_regulariser(
    how: str, budget: str
) -> None:
    ssn, model = pair(how, budget)
    if budget == "own":
        for module in (ssn, model):
            torch.manual_seed(1)
            loss = loss_of(module(*INPUTS)) + module.fc.weight.square().sum() + module.norm_of_fc
            loss.backward()
        assert_equal_bits(gradients(ssn), gradients(model))
        return
    # Autograd differentiates the reference's own operators.
    torch.manual_seed(0)
    reference = make(Rich(), how, budget, backend="reference")
    reference.load_state_dict(ssn.state_dict())
    torch.testing.assert_close(reference.fc.weight, ssn.fc.weight)
    for module in (ssn, reference):
        torch.manual_seed(1)
        loss = loss_of(module(*INPUTS)) + module.fc.weight.square().sum() + module.norm_of_fc
        loss.backward()
    found, expected = gradients(ssn), gradients(reference)
    assert list(found) == list(expected)
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * scale)
    theta = found["gradient of npas.banks.b0.theta"]
    ssn.zero_grad()
    torch.manual_seed(1)
    loss_of(ssn(*INPUTS)).backward()
    assert not torch.allclose(gradients(ssn)["gradient of npas.banks.b0.theta"], theta)


@every_how
@every_budget
def test_a_weight_is_read_and_multiplied_by_the_training_loop(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    for module in (ssn, model):
        assert module.fc.weight.shape == (16, 16) and module.fc.weight.dtype == torch.float32
        assert module.fc.weight.requires_grad and module.fc.weight.device.type == "cpu"
    assert torch.equal(INPUTS[1] @ ssn.fc.weight.T, INPUTS[1] @ model.fc.weight.T)
    with torch.no_grad():
        assert torch.equal(ssn.fc.weight, model.fc.weight)


# Calls.


@every_how
@every_budget
def test_calls_by_position_by_name_and_with_options(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    ids, x = INPUTS
    scale = torch.rand(16)
    for args, kwargs in (
        ((ids, x), {}),
        ((ids,), {"x": x}),
        ((), {"x": x, "ids": ids}),
        ((ids, x, 0.0), {}),
        ((ids, x, 0.5), {}),
        ((ids, x), {"shift": 2}),
        ((ids, x), {"shift": torch.ones(())}),
        ((ids, x), {"scale": scale}),
        ((ids, x), {"scale": None}),
        ((), {"ids": ids, "x": x, "shift": -1.0, "scale": scale}),
    ):
        assert torch.equal(ssn(*args, **kwargs), model(*args, **kwargs)), kwargs


WRONG: dict[str, Callable[[Any, Any], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "nothing": lambda ids, x: ((), {}),
    "too few": lambda ids, x: ((ids,), {}),
    "a keyword-only argument by position": lambda ids, x: ((ids, x, 0.0, None), {}),
    "too many": lambda ids, x: ((ids, x, 0.0, None, None), {}),
    "an unknown keyword": lambda ids, x: ((ids, x), {"shfit": 1.0}),
    "an argument twice": lambda ids, x: ((ids, x), {"x": x}),
    "None": lambda ids, x: ((ids, None), {}),
    "another width": lambda ids, x: ((ids, x[:, :5]), {}),
    "ids out of range": lambda ids, x: ((ids + 100, x), {}),
    "ids that are floats": lambda ids, x: ((x, x), {}),
}


@every_how
@every_budget
@pytest.mark.parametrize("call", list(WRONG))
def test_wrong_calls_raise_what_the_original_raises(how: str, budget: str, call: str) -> None:
    ssn, model = pair(how, budget)
    args, kwargs = WRONG[call](*INPUTS)
    with pytest.raises((TypeError, RuntimeError, IndexError)) as expected:
        model(*args, **kwargs)
    with pytest.raises(expected.type) as found:
        ssn(*args, **kwargs)
    if "forward()" not in str(expected.value):
        assert str(found.value).splitlines()[0] == str(expected.value).splitlines()[0]
    assert hooks_are_gone(ssn)


@every_how
@every_budget
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (3, 5)])
def test_other_batch_sizes_and_dimensions(how: str, budget: str, shape: tuple[int, ...]) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    if len(shape) > 1:
        for module in (ssn, model):
            for block in module.blocks:
                block.norm = nn.Identity()
    ids, x = torch.zeros(shape, dtype=torch.long), torch.ones(*shape, 16)
    assert torch.equal(ssn(ids, x), model(ids, x))


@every_how
@every_budget
def test_other_dtypes_of_inputs(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    ids, x = INPUTS
    for given in ((ids.int(), x), (ids, x.half()), (ids, x > 0), (ids, (9 * x).long())):
        assert torch.equal(ssn(*given), model(*given))


@every_how
@every_budget
def test_autocast(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = ssn(*INPUTS).detach(), model(*INPUTS).detach()
    assert found.dtype == expected.dtype
    if budget == "own":
        assert torch.equal(found, expected)
    else:
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * scale)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return self.attention(q, k, k)[0]


@every_how
def test_examples_that_are_one_tensor_do_not_tie_the_arguments(how: str) -> None:
    torch.manual_seed(0)
    model = Two()
    a, b = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    ssn = make(model, how, "own", (a, a))
    assert torch.equal(ssn(a, a), model(a, a))
    assert torch.equal(ssn(a, b), model(a, b))
    ssn = make(model, how, "own", (a, b))
    assert torch.equal(ssn(a, a), model(a, a))
    assert torch.equal(ssn(a, b), model(a, b))


# Outputs.


@dataclass
class Record:
    value: torch.Tensor
    extra: Any = None


class Named(NamedTuple):
    value: torch.Tensor
    extra: Any


RETURNS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tuple": lambda y: (y, y + 1),
    "list": lambda y: [y, y + 1],
    "dict": lambda y: {"y": y, "more": {"z": y + 1}},
    "named tuple": lambda y: Named(y, y + 1),
    "dataclass": lambda y: Record(y, y + 1),
    "None": lambda y: None,
    "nested": lambda y: {"a": (y, [None, Named(y + 1, 3)]), "n": 2.5, "text": "ok"},
    "the same twice": lambda y: (y, y),
    "empty": lambda y: (),
}


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.kind = kind

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> Any:
        return RETURNS[self.kind](self.fc(x))


def _assert_same_structure(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, Record):
        _assert_same_structure(vars(found), vars(expected))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            _assert_same_structure(found[key], value)
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            _assert_same_structure(mine, theirs)
    else:
        assert found == expected


@pytest.mark.parametrize("how", [*HOWS, "auto"])
@every_budget
@pytest.mark.parametrize("kind", list(RETURNS))
def test_outputs_of_any_structure(how: str, budget: str, kind: str) -> None:
    ssn, model = pair(how, budget, Returns(kind))
    for mode in (True, False):
        _assert_same_structure(ssn.train(mode)(*INPUTS), model.train(mode)(*INPUTS))
    found, expected = ssn(*INPUTS), model(*INPUTS)
    if kind == "the same twice":
        assert expected[0] is expected[1] and found[0] is found[1]


# What no graph captures.


class Depends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positive, self.negative = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.positive(x)
        steps = int(ids.max()) % 3 + 1
        for _ in range(steps):
            x = torch.tanh(self.negative(x))
        return x


class Inside(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(16, 16), inner

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.inner(ids, self.first(x)) + 1


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return 2 * grads[0] @ weight, 2 * grads[0].T @ x


class Custom(nn.Module):
    """A function of the user's with another gradient than autograd's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return Doubled.apply(x, self.fc.weight) + self.fc.bias  # type: ignore[no-any-return]


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.more = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for _ in range(3):
            x = torch.tanh(self.more(self.fc(x)))
            yield x


@pytest.mark.parametrize("how", ["opaque", "in place", "auto"])
@every_budget
def test_control_flow_that_depends_on_values(how: str, budget: str) -> None:
    ssn, model = pair(how, budget, Depends())
    ids, x = INPUTS
    for given in ((ids, x.abs()), (ids, -x.abs()), (ids + 1, -x.abs())):
        found, expected = outcome(ssn, given), outcome(model, given)
        assert_behaves(found, expected)


@pytest.mark.parametrize("how", ["fx", "export"])
def test_front_ends_refuse_control_flow_that_depends_on_values(how: str) -> None:
    with pytest.raises(npas.TraceError):
        make(Depends(), how, "own")


@pytest.mark.parametrize("how", ["fx", "opaque", "in place", "auto"])
@every_budget
def test_control_flow_that_depends_on_values_inside_a_submodule(how: str, budget: str) -> None:
    ssn, model = pair(how, budget, Inside(Depends()))
    ids, x = INPUTS
    for given in ((ids, 9 * x), (ids, -9 * x), (ids + 1, -x)):
        assert_behaves(outcome(ssn, given), outcome(model, given))


@pytest.mark.parametrize("how", ["opaque", "in place", "auto"])
@pytest.mark.parametrize("inside", [False, True])
@every_budget
def test_a_custom_autograd_function(how: str, inside: bool, budget: str) -> None:
    torch.manual_seed(0)
    ssn, model = pair(how, budget, Inside(Custom()) if inside else Custom())
    assert_behaves(outcome(ssn), outcome(model))
    if budget == "shared":
        (bank,) = banks_of(ssn)
        assert bank.theta.grad is not None and bank.theta.grad.any()


@pytest.mark.parametrize("how", ["fx", "export"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_custom_autograd_function_is_captured_right_or_refused(how: str, inside: bool) -> None:
    torch.manual_seed(0)
    model = Inside(Custom()) if inside else Custom()
    try:
        ssn = make(model, how, "own")
    except npas.TraceError:
        return
    assert_own(outcome(ssn), outcome(model))


@pytest.mark.parametrize("how", ["opaque", "in place", "auto"])
@every_budget
def test_a_forward_that_returns_a_generator(how: str, budget: str) -> None:
    ssn, model = pair(how, budget, Generator())
    results = []
    for module in (ssn, model):
        steps = module(*INPUTS)
        first = next(steps)
        module(*INPUTS)  # another call in between
        found = [first, *steps]
        assert len(found) == 3
        loss_of(torch.stack(found)).backward()
        results.append([step.detach() for step in found])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
    assert hooks_are_gone(ssn)
    if budget == "own":
        assert_equal_bits(gradients(ssn), gradients(model))
    else:
        assert all(p.grad is not None and p.grad.any() for p in ssn.parameters())


@pytest.mark.parametrize("how", ["fx", "export"])
def test_front_ends_refuse_a_forward_that_returns_a_generator(how: str) -> None:
    with pytest.raises(npas.TraceError):
        make(Generator(), how, "own")


# Threads and exceptions.


@every_how
@every_budget
@pytest.mark.parametrize("mode", [True, False])
def test_two_threads_at_once(how: str, budget: str, mode: bool) -> None:
    torch.manual_seed(0)
    ssn, _ = pair(how, budget, Rich(dropout=0.0))
    ssn.train(mode)
    batches = [_inputs(seed=i) for i in range(4)]
    wanted = ssn.fc.bias if budget == "own" else banks_of(ssn)[0].theta

    def run(i: int) -> tuple[torch.Tensor, ...]:
        ids, x = batches[i]
        if i % 2 and not mode:
            with torch.no_grad():
                return (ssn(ids, x),)
        x = x.clone().requires_grad_()
        out = ssn(ids, x)
        return out.detach(), *torch.autograd.grad(loss_of(out), (x, wanted))

    expected = [run(i) for i in range(4)]
    with ThreadPoolExecutor(2) as pool:
        for i, found in zip([*range(4)] * 10, pool.map(run, [*range(4)] * 10), strict=True):
            for mine, theirs in zip(found, expected[i], strict=True):
                assert torch.equal(mine, theirs)
    assert hooks_are_gone(ssn)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(16, 16), Bad(), nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.first(x)) + self.first(x))


class Bad(nn.Module):
    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if self.broken:
            raise KeyError("broken")
        return x


@pytest.mark.parametrize("how", ["opaque", "in place"])
@every_budget
def test_an_exception_in_forward_leaves_nothing_behind(how: str, budget: str) -> None:
    torch.manual_seed(0)
    ssn, model = pair(how, budget, Fails())
    for mode in (True, False):
        ssn.train(mode)
        model.train(mode)
        ssn.inner.broken = True
        with pytest.raises(KeyError, match="broken"):
            ssn(*INPUTS)
        assert hooks_are_gone(ssn)
        ssn.inner.broken = False
        assert_behaves(outcome(ssn), outcome(model))


@every_how
@every_budget
@pytest.mark.parametrize("grad", [True, False])
def test_an_operator_that_fails_leaves_nothing_behind(how: str, budget: str, grad: bool) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    with torch.set_grad_enabled(grad):
        for wrong in ((INPUTS[0], INPUTS[1][:, :5]), (INPUTS[0] + 100, INPUTS[1])):
            with pytest.raises((RuntimeError, IndexError)):
                ssn(*wrong)
            assert hooks_are_gone(ssn)
    assert_behaves(outcome(ssn), outcome(model))


@every_how
@every_budget
def test_a_hook_that_raises_leaves_nothing_behind(how: str, budget: str) -> None:
    ssn, model = pair(how, budget)
    ssn.eval()
    model.eval()
    for path in HOOKED:
        handle = ssn.get_submodule(path).register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ssn(*INPUTS)
        handle.remove()
        assert hooks_are_gone(ssn)
    assert_behaves(outcome(ssn), outcome(model))


@every_budget
def test_falling_back_to_another_front_end_prints_nothing(
    budget: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert npas.report(make(Depends(), "auto", budget)).front_end == "opaque"
    assert capfd.readouterr() == ("", "")


# What is not changed.


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Return everything that identifies a model and its parts."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path} class"] = type(module)
        found[f"{path} id"] = id(module)
        found[f"{path} keys"] = list(module.__dict__)
        for name, value in module.__dict__.items():
            if isinstance(value, dict):
                found[f"{path}.{name}"] = id(value), [(k, id(v)) for k, v in value.items()]
            elif isinstance(value, list):
                found[f"{path}.{name}"] = id(value), [id(v) for v in value]
            elif isinstance(value, bool | int | float | str):
                found[f"{path}.{name}"] = value
            else:
                found[f"{path}.{name}"] = id(value)
    return found


class Snapshot:
    """A model as it is: identities, values, versions and gradients, and the random generators."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attributes = _attributes(model)
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.values = {n: (t.detach().clone(), t._version, t.requires_grad) for n, t in tensors}
        self.grads = {n: None if t.grad is None else t.grad.clone() for n, t in tensors}
        self.torch = torch.get_rng_state()
        self.others = random.getstate(), str(np.random.get_state())

    def check(self, *, rng: bool = True, versions: bool = True) -> None:
        assert _attributes(self.model) == self.attributes
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            value, version, requires_grad = self.values[name]
            assert torch.equal(tensor, value), name
            assert tensor.requires_grad is requires_grad, name
            assert tensor._version == version or not versions, name
            grad = self.grads[name]
            assert tensor.grad is grad is None or (
                grad is not None and tensor.grad is not None and torch.equal(tensor.grad, grad)
            )
        assert (random.getstate(), str(np.random.get_state())) == self.others
        if rng:
            assert torch.equal(torch.get_rng_state(), self.torch)


def _used(model: nn.Module) -> nn.Module:
    """Give a model gradients, hooks and parts in other modes."""
    outcome(model)
    Log().register(model, ("", "fc") if isinstance(model, Rich) else ("",))
    if isinstance(model, Rich):
        model.blocks[1].eval()
        model.fc.bias.requires_grad_(False)
    return model


def _other_plan() -> npas.Plan:
    torch.manual_seed(0)
    return npas.plan(nn.Sequential(nn.Linear(8, 8)), 0.9)


FAILURES: dict[str, Callable[[], dict[str, Any]]] = {
    "a budget that is none": lambda: {"budget": "much"},
    "no budget": dict,
    "a budget too small": lambda: {"budget": 3},
    "a budget too large": lambda: {"budget": 10**12},
    "a plan of another model": lambda: {"plan": _other_plan()},
    "a plan and a budget": lambda: {"plan": _other_plan(), "budget": 0.5},
    "an unknown argument": lambda: {"budget": 0.5, "buget": 1},
    "an unknown group": lambda: {"budget": 0.5, "groups": "mine"},
    "an unknown backend": lambda: {"budget": 0.5, "backend": "cuda"},
    "a pattern without match": lambda: {"budget": 0.5, "target_modules": ["nothing_here"]},
    "examples that do not run": lambda: {"budget": 0.5, "example_inputs": (torch.ones(2),)},
    "a calibration batch that does not run": lambda: {
        "budget": 0.5,
        "groups": "single",
        "calibrate": (torch.ones(2),),
    },
}


@pytest.mark.parametrize("why", list(FAILURES))
def test_compiling_in_place_that_fails_leaves_the_model_as_it_was(why: str) -> None:
    torch.manual_seed(0)
    model, arguments = _used(Rich()), FAILURES[why]()
    before = Snapshot(model)
    with pytest.raises((npas.NpasError, TypeError, RuntimeError)):
        npas.compile_(model, **arguments)
    calibrated = "calibrat" in why  # it ran, and its buffers were put back
    before.check(rng=not calibrated, versions=not calibrated)
    assert type(model) is Rich
    npas.compile_(model, 0.5, groups="single")
    assert banks_of(model)


@pytest.mark.parametrize("how", ["compile", "compile_"])
def test_a_model_with_an_attribute_of_our_name_is_refused_and_left_as_it_was(how: str) -> None:
    torch.manual_seed(0)
    model: Any = _used(Rich())
    model.npas = "mine"
    before = Snapshot(model)
    with pytest.raises(npas.NpasError, match="npas"):
        getattr(npas, how)(model, 0.5, groups="single")
    before.check()
    assert model.npas == "mine"


def test_compiling_in_place_twice_is_refused_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = npas.compile_(Rich(), 0.5, groups="single")
    before = Snapshot(model)
    with pytest.raises(npas.NpasError, match="compiled by npas already"):
        npas.compile_(model, 0.5, groups="single")
    before.check()


@every_budget
def test_compiling_in_place_keeps_parameters_buffers_hooks_and_modes(budget: str) -> None:
    torch.manual_seed(0)
    model = _used(Rich())
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    modes = [module.training for module in model.modules()]
    modules = list(model.modules())
    classes = [type(module) for module in modules]
    share, groups = (1.0, "own") if budget == "own" else (0.5, "single")
    assert npas.compile_(model, share, groups=groups) is model
    assert [m.training for m in modules] == modes
    for name, parameter in model.named_parameters():
        assert name.startswith("npas.") or parameter is parameters[name]
    for name, buffer in model.named_buffers():
        assert name.startswith("npas.") or buffer is buffers[name]
    for module, cls in zip(modules, classes, strict=True):
        assert isinstance(module, cls) and type(module).__name__ == cls.__name__


@every_budget
def test_uncompiling_gives_back_the_exact_classes_and_orders(budget: str) -> None:
    torch.manual_seed(0)
    model: Any = _used(Rich())
    before = Snapshot(model)
    classes = {path: type(module) for path, module in model.named_modules()}
    keys = {path: list(module.__dict__) for path, module in model.named_modules()}
    names = [list(d) for d in (dict(model.named_parameters()), dict(model.named_buffers()))]
    state, parameters = list(model.state_dict()), dict(model.named_parameters())
    share, groups = (1.0, "own") if budget == "own" else (0.5, "single")
    npas.compile_(model, share, groups=groups)
    generated = {layer.name for layer in model._npas.plan.layers} if budget == "shared" else set()
    dense = npas.dense_state_dict(model)
    assert list(dense) == state
    dense = {name: tensor.clone() for name, tensor in dense.items()}
    expected = outcome(model.train(), grad=False)
    model.load_state_dict({n: t for n, t in dense.items() if n in model.state_dict()}, strict=False)
    assert npas.uncompile_(model) is model
    assert {path: type(module) for path, module in model.named_modules()} == classes
    assert {path: list(module.__dict__) for path, module in model.named_modules()} == keys
    assert [list(d) for d in (dict(model.named_parameters()), dict(model.named_buffers()))] == names
    assert list(model.state_dict()) == state
    assert_equal_bits(model.state_dict(), dense)
    for name, parameter in model.named_parameters():
        assert (parameter is parameters[name]) is (name not in generated), name
        assert parameter.requires_grad is parameters[name].requires_grad
    assert model.head.weight is model.embedding.weight
    assert_behaves(outcome(model.train(), grad=False), expected)
    if budget == "own":
        before.model.load_state_dict({n: v[0] for n, v in before.values.items()}, strict=False)
        assert {k: v for k, v in _attributes(model).items() if not k.endswith(".training")} == {
            k: v for k, v in before.attributes.items() if not k.endswith(".training")
        }


@pytest.mark.parametrize("how", ["fx", "export", "opaque"])
@every_budget
def test_compiling_never_changes_the_original(how: str, budget: str) -> None:
    torch.manual_seed(0)
    model: Any = _used(Rich()) if how != "export" else Rich()
    if how == "export":
        outcome(model)
        model.blocks[1].eval()
    before = Snapshot(model)
    ssn = make(model, how, budget)
    # A bank that is drawn takes random numbers.
    before.check(rng=budget == "own")
    after = Snapshot(model)
    outcome(ssn)
    ssn.half().eval()
    assert not {t.untyped_storage().data_ptr() for t in (*ssn.parameters(), *ssn.buffers())} & {
        t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())
    }
    after.check(rng=False)


class Breaks(Rich):
    """Changes much before it does what no graph captures."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.cache: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._forward(*args, **kwargs)

    def _forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache.append(x)
        self.config["names"].append("b")
        self.made = x
        self.steps.add_(1)
        self.shared.mul_(2)
        self.blocks[0].eval()
        x = self.blocks[1](self.encode(self.embedding(ids) + x)) * torch.rand(())
        random.random()
        np.random.random()
        if x.sum() > 0:
            x = x + 1
        return self.head(x)


class BreaksByName(Breaks):
    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self._forward(ids, x)


@pytest.mark.parametrize("kind", [Breaks, BreaksByName])
@pytest.mark.parametrize("how", ["fx", "export", "auto"])
def test_a_front_end_that_fails_midway_leaves_the_original_as_it_was(
    how: str, kind: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    model = kind()
    outcome(model)
    model.train()
    before = Snapshot(model)
    examples: dict[str, Any] = {"example_inputs": INPUTS}
    if how == "auto":
        ssn = npas.compile(model, 1.0, groups="own", frontend="auto", **examples)
        assert npas.report(ssn).front_end == "opaque"
    else:
        with pytest.raises(npas.TraceError):
            npas.compile(model, 1.0, groups="own", frontend=how, **examples)
    before.check()


@pytest.mark.parametrize("how", [*HOWS, "auto"])
def test_compiling_does_not_call_the_hooks_of_the_original(how: str) -> None:
    torch.manual_seed(0)
    model, log = Rich(), Log()
    log.register(model, ("",))
    if how == "in place":
        npas.compile_(model, 1.0, groups="own", example_inputs=INPUTS)
    else:
        npas.compile(model, 1.0, groups="own", frontend=how, example_inputs=INPUTS)
    assert [event[:2] for event in log.take()] == []


@pytest.mark.filterwarnings("ignore:calibrate left:npas.NpasWarning")
def test_calibrating_in_place_changes_no_buffer_and_no_mode() -> None:
    torch.manual_seed(0)
    model = Rich()
    model.blocks[1].eval()
    before = {n: b.clone() for n, b in model.named_buffers()}
    modes = {n: m.training for n, m in model.named_modules()}
    npas.compile_(model, 0.5, groups="single", calibrate=INPUTS)
    assert_equal_bits({n: b for n, b in model.named_buffers() if n in before}, before)
    assert {n: m.training for n, m in model.named_modules() if n in modes} == modes


@pytest.mark.parametrize("kind", [Rich, BreaksByName])
def test_planning_never_changes_the_model(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = _used(kind()) if kind is Rich else kind()
    before = Snapshot(model)
    npas.plan(model, 0.5, groups="single", example_inputs=INPUTS)
    before.check()
