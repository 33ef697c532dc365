"""load_state_dict with what does not fit: the original's messages, and nothing old is left."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.faults.nets import Net, assert_trains_as, banks, compiled, evaluated, truth, values
from tests.invariants import assert_equal_bits

pytestmark = pytest.mark.pure

State = dict[str, Any]


def _without(*names: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n not in names}


CHANGES: dict[str, Callable[[State], State]] = {
    "nothing": dict,
    "missing": _without("up.weight", "norm.running_mean"),
    "unexpected": lambda state: {**state, "up.gain": torch.ones(3), "new": torch.ones(1)},
    "both": lambda state: {**_without("head.bias")(state), "head.biases": torch.ones(20)},
    "another shape": lambda state: {**state, "down.weight": torch.ones(3, 8)},
    "all of it": lambda state: {"x": torch.ones(1), "up.weight": torch.ones(2)},
    "no tensor": lambda state: {**state, "up.bias": [1.0]},
    "another dtype": lambda state: {n: t.double() for n, t in state.items()},
    "nothing at all": lambda state: {},
}
every_change = pytest.mark.parametrize("change", CHANGES)
strictly = pytest.mark.parametrize("strict", [True, False])
assigned = pytest.mark.parametrize("assign", [True, False])


def outcome(module: nn.Module, state: State, **how: bool) -> str:
    """Return what loading says, in the end."""
    try:
        return str(module.load_state_dict(state, **how))
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize("way", ["fx", "opaque", "in place"])
@every_change
@strictly
@assigned
def test_own_banks_say_and_do_what_the_original_does(
    way: str, change: str, strict: bool, assign: bool
) -> None:
    module = compiled(way, "own").eval()
    torch.manual_seed(0)
    model = Net().eval()
    model.load_state_dict(module.state_dict())
    state = CHANGES[change]({n: t + 1 for n, t in model.state_dict().items()})
    evaluated(module)
    theirs = copy.deepcopy(state)
    found = outcome(module, state, strict=strict, assign=assign)
    assert found == outcome(model, theirs, strict=strict, assign=assign)
    assert_equal_bits(values(module), values(model))
    kept = [n for n, p in module.named_parameters() if p.data_ptr() == _address(state.get(n))]
    same = [n for n, p in model.named_parameters() if p.data_ptr() == _address(theirs.get(n))]
    assert kept == same
    assert bool(kept) is (assign and bool(theirs) and change != "all of it")
    if change != "another dtype" or not assign:
        assert torch.equal(evaluated(module), evaluated(model))


def _address(value: object) -> int | None:
    return value.data_ptr() if isinstance(value, torch.Tensor) else None


def _bank_of(state: State, local: str) -> str:
    return next(n for n in state if n.startswith("npas.banks.") and n.endswith(f".{local}"))


SHARED: dict[str, tuple[Callable[[State], State], str, str]] = {
    "nothing": (dict, "", ""),
    "a bank is missing": (
        lambda s: _without(_bank_of(s, "theta"))(s),
        "Missing key(s)",
        "theta",
    ),
    "gains are missing": (lambda s: _without(_bank_of(s, "gain"))(s), "Missing key(s)", "gain"),
    "a dense weight": (lambda s: {**s, "up.weight": torch.ones(16, 8)}, "Unexpected", "up.weight"),
    "a bank of another size": (
        lambda s: {**s, _bank_of(s, "theta"): torch.ones(5)},
        "size mismatch",
        "theta",
    ),
    "gains of another number": (
        lambda s: {**s, _bank_of(s, "gain"): torch.ones(1)},
        "size mismatch",
        "gain",
    ),
}


@pytest.mark.parametrize("way", ["fx", "in place"])
@pytest.mark.parametrize("kind", ["templates", "views"])
@pytest.mark.parametrize("change", SHARED)
@strictly
@assigned
def test_shared_banks_load_what_fits_and_keep_nothing_old(
    way: str, kind: str, change: str, strict: bool, assign: bool
) -> None:
    """As any module: what fits is loaded, also where the rest is an error."""
    module = compiled(way, kind).eval()
    evaluated(module)
    own, good = values(module), copy.deepcopy(module.state_dict())
    change_of, says, name = SHARED[change]
    other = {n: t * 1.5 if t.is_floating_point() else t + 2 for n, t in good.items()}
    state = change_of(other)
    found = outcome(module, state, strict=strict, assign=assign)
    if says and (strict or "size" in says):
        assert says in found and name in found and type(module).__name__ in found
    elif not says:
        assert found == "<All keys matched successfully>"
    for key, now in values(module).items():
        fits = key in state and state[key].shape == own[key].shape
        assert torch.equal(now, state[key] if fits else own[key]), key
    for _ in range(2):
        assert torch.equal(evaluated(module), truth(module))
    module.load_state_dict(good)
    twin = compiled(way, kind).eval()
    assert torch.equal(evaluated(module), evaluated(twin))
    assert_trains_as(module.train(), twin.train())


@assigned
def test_loading_that_is_interrupted(assign: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anywhere: what was loaded counts, and the same call goes on."""
    module = compiled("fx", "views").eval()
    state = {n: t * 2 for n, t in module.state_dict().items()}
    whole = compiled("fx", "views").eval()
    whole.load_state_dict(state)
    copies, load = 0, type(banks(module)[0])._load_from_state_dict
    for local in ("theta", "gain"):
        evaluated(module)

        def interrupted(bank: Any, given: State, prefix: str, *rest: Any) -> None:
            nonlocal copies
            copies += 1
            with torch.no_grad():
                getattr(bank, local).copy_(given[prefix + local])  # noqa: B023
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(type(banks(module)[0]), "_load_from_state_dict", interrupted)
            with pytest.raises(KeyboardInterrupt):
                module.load_state_dict(state, assign=assign)
        assert torch.equal(evaluated(module), truth(module))
    assert copies == 2
    assert type(banks(module)[0])._load_from_state_dict is load
    module.load_state_dict(state, assign=assign)
    assert torch.equal(evaluated(module), evaluated(whole))
