"""Gradients that are NaN or infinite: what was skipped leaves nothing behind."""

import copy

import pytest
import torch

from tests.faults.nets import (
    CASES,
    assert_trains_as,
    banks,
    compiled,
    evaluated,
    loss_of,
    step,
    values,
)
from tests.invariants import assert_equal_bits

pytestmark = pytest.mark.pure

every_case = pytest.mark.parametrize(("way", "kind"), CASES)
BROKEN = (float("nan"), float("inf"))


@every_case
@pytest.mark.parametrize("broken", BROKEN)
def test_a_step_that_is_skipped(way: str, kind: str, broken: float) -> None:
    """As a loop with a loss scale does it: look at the gradients, and leave the step out."""
    module = compiled(way, kind)
    twin = copy.deepcopy(module)
    step(module)
    step(twin)
    (loss_of(module) * broken).backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert not all(bool(grad.isfinite().all()) for grad in grads)
    module.zero_grad()
    loss_of(twin)  # a forward pass counts in batch norm
    assert_trains_as(module, twin)


@every_case
def test_clipping_refuses_and_then_goes_on(way: str, kind: str) -> None:
    module = compiled(way, kind)
    twin = copy.deepcopy(module)
    (loss_of(module) * float("nan")).backward()
    before = values(module)
    with pytest.raises(RuntimeError, match="non-finite"):
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0, error_if_nonfinite=True)
    assert_equal_bits(values(module), before)
    module.zero_grad()
    loss_of(twin)
    assert_trains_as(module, twin)


@every_case
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_bank_of_nan_is_healthy_once_it_is_loaded(
    way: str, kind: str, mode: bool, broken: float
) -> None:
    module = compiled(way, kind)
    twin = copy.deepcopy(module)
    good = copy.deepcopy(module.state_dict())
    module.train(mode)
    (loss_of(module) * broken).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    torch.optim.SGD(module.parameters(), 0.1).step()
    module.eval()
    assert not evaluated(module).isfinite().any()  # and the cache is full of it
    if banks(module):
        assert all(bank._cache is not None for bank in banks(module))
    module.zero_grad()
    module.load_state_dict(good)
    assert torch.equal(evaluated(module), evaluated(twin.eval()))
    assert_trains_as(module.train(), twin.train())


@pytest.mark.parametrize("kind", ["templates", "masked tiles"])
def test_gains_of_nan_are_healthy_once_they_are_loaded(kind: str) -> None:
    module = compiled("fx", kind).eval()
    good, expected = copy.deepcopy(module.state_dict()), evaluated(module)
    for bank in banks(module):
        bank.gain.fill_(float("nan"))
    assert evaluated(module).isnan().all()
    module.load_state_dict(good)
    assert torch.equal(evaluated(module), expected)
