import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vmap

from tests.interop.nets import EVERY, WAYS, assert_same, gradients, ids, net

pytestmark = pytest.mark.pure

Loss = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


def parameters_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def loss_of(module: nn.Module) -> Loss:
    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(module, parameters, (x,)).square().sum()

    return loss


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_functional_call_computes_with_other_banks(way: str, training: bool) -> None:
    module = net(way).train(training)
    other = {name: 1.5 * p for name, p in parameters_of(module).items()}
    changed = copy.deepcopy(module)
    changed.load_state_dict(other, strict=False)
    before = module(ids())
    found = functional_call(module, other, (ids(),))
    torch.testing.assert_close(found, changed(ids()))
    assert not torch.allclose(found, before)
    torch.testing.assert_close(module(ids()), before)
    with torch.no_grad():
        torch.testing.assert_close(functional_call(module, other, (ids(),)), changed(ids()))
        torch.testing.assert_close(module(ids()), before)


@pytest.mark.parametrize("way", WAYS)
def test_functional_call_is_differentiable_by_autograd(way: str) -> None:
    module = net(way)
    leaves = {n: p.clone().requires_grad_() for n, p in parameters_of(module).items()}
    loss_of(module)(leaves, ids()).backward()
    found = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert_same(found, gradients(module, module(ids())))


@EVERY
def test_grad_is_that_of_backward(way: str, kind: str) -> None:
    module = net(way, kind)
    found = grad(loss_of(module))(parameters_of(module), ids())
    assert_same(found, gradients(module, module(ids())))


@EVERY
def test_gradients_of_each_sample_are_those_of_a_loop(way: str, kind: str) -> None:
    module = net(way, kind)
    parameters, batch = parameters_of(module), ids().unsqueeze(1)
    found = vmap(grad(loss_of(module)), in_dims=(None, 0))(parameters, batch)
    for index, sample in enumerate(batch):
        one = {name: value[index] for name, value in found.items()}
        assert_same(one, gradients(module, module(sample)), rtol=1e-4, atol=1e-5)


@EVERY
def test_an_ensemble_of_stacked_banks_is_a_loop_over_its_members(way: str, kind: str) -> None:
    members = [net(way, kind) for _ in range(3)]
    for index, member in enumerate(members):
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.mul_(1 + index / 4)
    stacked = [
        {
            name: torch.stack([dict(getattr(m, held)())[name].detach() for m in members])
            for name, _ in getattr(members[0], held)()
        }
        for held in ("named_parameters", "named_buffers")
    ]
    parameters, buffers = {n: p.requires_grad_() for n, p in stacked[0].items()}, stacked[1]
    base = copy.deepcopy(members[0]).to("meta")

    def run(parameters: Any, buffers: Any, x: torch.Tensor) -> torch.Tensor:
        return functional_call(base, (parameters, buffers), (x,))

    found = vmap(run, in_dims=(0, 0, None))(parameters, buffers, ids())
    expected = torch.stack([member(ids()) for member in members])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    for name, parameter in parameters.items():
        grads = [gradients(member, member(ids()))[name] for member in members]
        torch.testing.assert_close(parameter.grad, torch.stack(grads), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_torch_func_stacks_the_banks_of_an_ensemble(way: str) -> None:
    members = [net(way) for _ in range(2)]
    parameters, buffers = stack_module_state(members)
    assert parameters.keys() == dict(members[0].named_parameters()).keys()
    assert buffers.keys() == dict(members[0].named_buffers()).keys()


@pytest.mark.parametrize("way", WAYS)
def test_the_jacobian_of_the_output_is_that_of_a_loop(way: str) -> None:
    module = net(way)

    def output(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(module, parameters, (ids(1, 2),)).flatten()[:3]

    found = jacrev(output)(parameters_of(module))
    for index in range(3):
        row = module(ids(1, 2)).flatten()[index]
        wanted = list(module.parameters())
        expected = torch.autograd.grad(row, wanted, allow_unused=True, materialize_grads=True)
        for (name, _), value in zip(module.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[name][index], value, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own jacfwd
@pytest.mark.parametrize("way", ["fx", "in place"])
def test_second_derivatives_come_with_the_reference_backend(way: str) -> None:
    module = net(way, "masked tiles", backend="reference")
    x = ids(1, 2)
    name, value = next((n, p.detach()) for n, p in module.named_parameters() if n.endswith("mask"))

    def loss(mask: torch.Tensor) -> torch.Tensor:
        return functional_call(module, {name: mask}, (x,)).square().sum()

    found = hessian(loss)(value).detach()
    step, eye = 1e-2, torch.eye(len(value))
    expected = torch.stack(
        [(grad(loss)(value + step * e) - grad(loss)(value - step * e)) / (2 * step) for e in eye]
    )
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * float(found.abs().max()))
