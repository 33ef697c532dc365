"""Exceptions in hooks and in the backward pass: the next step is right."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.faults.nets import CASES, IDS, assert_trains_as, banks, compiled, loss_of, step
from tests.test_semantics import hooks_are_gone

pytestmark = pytest.mark.pure

#: As `CASES`, and banks that are made again for the backward pass, or all at once.
HOWS: list[tuple[str, str, dict[str, Any]]] = [
    *((way, kind, {}) for way, kind in CASES),
    ("fx", "templates", {"recompute": True}),
    ("in place", "templates", {"recompute": True}),
    ("fx", "templates", {"schedule": "bank"}),
    ("fx", "templates", {"backend": "reference"}),
]


class Stop(BaseException):
    """Neither an Exception nor one that anything else raises."""


def stop(*_: object) -> Any:
    raise Stop


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise Stop


def _in_hook(register: Callable[[Any], Any]) -> Callable[[Any], None]:
    def run(module: Any) -> None:
        handle = register(module)
        try:
            loss_of(module).backward()
        finally:
            handle.remove()

    return run


def _in_loss(module: Any) -> None:
    _FailsBackward.apply(loss_of(module)).backward()  # pyright: ignore


def _in_the_middle(module: Any) -> None:
    handle = module.down.register_forward_hook(lambda m, i, o: _FailsBackward.apply(o))
    try:
        loss_of(module).backward()
    finally:
        handle.remove()


def _in_a_gradient_hook(module: Any) -> None:
    """The bank's gradient comes last."""
    wanted = banks(module)[0].theta if banks(module) else module.up.weight
    handle = wanted.register_hook(stop)
    try:
        loss_of(module).backward()
    finally:
        handle.remove()


def _in_evaluation(module: Any) -> None:
    module.eval()
    handle = module.down.register_forward_hook(stop)
    try:
        with torch.no_grad():
            module(IDS)
    finally:
        handle.remove()
        module.train()


FAULTS: dict[str, Callable[[Any], None]] = {
    "forward hook": _in_hook(lambda m: m.down.register_forward_hook(stop)),
    "forward pre-hook": _in_hook(lambda m: m.down.register_forward_pre_hook(stop)),
    "hook of the root": _in_hook(lambda m: m.register_forward_hook(stop)),
    "backward hook": _in_hook(lambda m: m.down.register_full_backward_hook(stop)),
    "backward pre-hook": _in_hook(lambda m: m.up.register_full_backward_pre_hook(stop)),
    "hook of the bank's gradient": _in_a_gradient_hook,
    "backward of the loss": _in_loss,
    "backward in the middle": _in_the_middle,
    "evaluation": _in_evaluation,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("way", "kind", "options"), HOWS)
def test_the_next_step_is_right(way: str, kind: str, options: dict[str, Any], fault: str) -> None:
    module = compiled(way, kind, **options)
    twin = copy.deepcopy(module)
    step(module)
    step(twin)
    counted = copy.deepcopy(dict(module.named_buffers()))
    with pytest.raises(Stop):
        FAULTS[fault](module)
    assert hooks_are_gone(module)
    for name, buffer in module.named_buffers():  # batch norm counts what was begun
        buffer.copy_(counted[name])
    module.zero_grad()
    assert_trains_as(module, twin)


@pytest.mark.parametrize(("way", "kind", "options"), HOWS)
def test_a_backward_pass_that_failed_is_run_again(
    way: str, kind: str, options: dict[str, Any]
) -> None:
    """Through the graph that was kept: what the first one summed up is not in the second."""
    module = compiled(way, kind, **options)
    expected = step(copy.deepcopy(module), lr=0.0)
    wanted = module.embedding.weight if kind == "own" else banks(module)[0].theta
    handle = wanted.register_hook(stop)
    loss = loss_of(module)
    with pytest.raises(Stop):
        loss.backward(retain_graph=True)
    handle.remove()
    module.zero_grad()
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[f"grad of {name}"], msg=name)
