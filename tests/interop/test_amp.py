from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import npas
from tests.interop.nets import EVERY, WAYS, assert_same, gradients, ids, net

pytestmark = pytest.mark.pure


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@EVERY
def test_outputs_are_those_of_the_materialised_model(
    way: str, kind: str, dtype: torch.dtype
) -> None:
    module = net(way, kind).eval()
    dense = npas.materialize(module)
    with torch.no_grad(), autocast(dtype):
        found, expected = module(ids()), dense(ids())
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_near_those_without(way: str) -> None:
    module = net(way)
    expected = gradients(module, module(ids()))
    with autocast(torch.bfloat16):
        output = module(ids())
    found = gradients(module, output.float())
    assert all(value.dtype == torch.float32 for value in found.values())
    scale = max(float(value.abs().max()) for value in expected.values())
    assert_same(found, expected, rtol=0.1, atol=0.02 * scale)


@pytest.mark.parametrize("way", WAYS)
def test_it_trains_in_bfloat16(way: str) -> None:
    module, targets = net(way), ids()
    optimizer = torch.optim.Adam(npas.param_groups(module), 0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        with autocast(torch.bfloat16):
            loss = F.cross_entropy(module(ids()).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("way", WAYS)
def test_it_trains_in_float16_with_a_grad_scaler(way: str) -> None:
    module, targets = net(way), ids()
    optimizer = torch.optim.Adam(npas.param_groups(module), 0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        with autocast(torch.float16):
            loss = F.cross_entropy(module(ids()).flatten(0, 1), targets.flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert scaler.get_scale() == 2.0**10


@pytest.mark.parametrize("way", WAYS)
def test_a_step_whose_gradients_overflow_is_left_out(way: str) -> None:
    module = net(way)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    with autocast(torch.float16):
        loss = 1e30 * module(ids()).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**59
    assert_same({name: p.detach() for name, p in module.named_parameters()}, before)


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_inside_and_outside_of_autocast_do_not_share_weights(way: str) -> None:
    module = net(way).eval()
    with torch.no_grad():
        expected = module(ids())
        with autocast(torch.bfloat16):
            module(ids())
        assert torch.equal(module(ids()), expected)
