from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import npas
from tests.interop.nets import EVERY, WAYS, assert_same, convert, ids, net

pytestmark = pytest.mark.pure


def change(module: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


@EVERY
def test_the_moving_average_is_that_of_the_banks(way: str, kind: str) -> None:
    module = net(way, kind)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    expected = {name: p.detach().clone() for name, p in module.named_parameters()}
    change(module, 2.0)
    average.update_parameters(module)
    expected = {n: 0.9 * expected[n] + 0.1 * p.detach() for n, p in module.named_parameters()}
    assert_same({n: p.detach() for n, p in average.module.named_parameters()}, expected)


@pytest.mark.parametrize("way", WAYS)
def test_its_outputs_follow_every_update(way: str) -> None:
    module = net(way)
    average: Any = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5)).eval()
    average.update_parameters(module)
    module.eval()
    with torch.no_grad():
        for _ in range(2):
            expected = npas.materialize(average.module)(ids())
            torch.testing.assert_close(average(ids()), expected, rtol=1e-4, atol=1e-4)
            before = average(ids())
            change(module, 1.5)
            average.update_parameters(module)
            assert not torch.allclose(average(ids()), before)
        # The average is a model of its own: the original is untouched by it.
        expected = npas.materialize(module)(ids())
        torch.testing.assert_close(module(ids()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_the_average_saves_and_loads(way: str) -> None:
    module = net(way)
    average, other = AveragedModel(module), AveragedModel(net(way))
    change(module, 1.2)
    average.update_parameters(module)
    other.load_state_dict(average.state_dict())
    torch.testing.assert_close(other(ids()), average(ids()))


@pytest.mark.parametrize("way", WAYS)
def test_statistics_of_batch_norm_are_taken_anew(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    x = torch.randn(8, 6)
    module = convert(model, way, (x,))
    average: Any = AveragedModel(module)
    average.update_parameters(module)
    update_bn([x], average)
    norm = average.module.get_submodule("1")
    hidden = npas.materialize(average.module).get_submodule("0")(x)
    torch.testing.assert_close(norm.running_mean, hidden.mean(dim=0))
