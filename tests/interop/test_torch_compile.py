from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import npas
from tests.interop.nets import EVERY, WAYS, assert_same, gradients, ids, net

pytestmark = pytest.mark.pure


@pytest.fixture(autouse=True)
def no_code_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module: nn.Module, backend: str, **options: Any) -> Any:
    return torch.compile(module, backend=backend, fullgraph=True, **options)


@EVERY
def test_one_graph_gives_the_outputs_and_gradients_of_eager(way: str, kind: str) -> None:
    module = net(way, kind)
    expected = module(ids())
    expected_gradients = gradients(module, expected)
    found = compiled(module, "aot_eager")(ids())
    torch.testing.assert_close(found, expected)
    assert_same(gradients(module, found), expected_gradients)


@pytest.mark.parametrize("way", WAYS)
def test_without_a_backend_that_traces_again(way: str) -> None:
    module = net(way)
    expected = module(ids())
    expected_gradients = gradients(module, expected)
    found = compiled(module, "eager")(ids())
    torch.testing.assert_close(found, expected)
    assert_same(gradients(module, found), expected_gradients)


@pytest.mark.parametrize("options", [{"recompute": False}, {"schedule": "bank"}], ids=str)
@pytest.mark.parametrize("way", ["fx", "in place"])
def test_options_of_npas_hold_inside(way: str, options: dict[str, Any]) -> None:
    module = net(way, **options)
    expected = module(ids())
    expected_gradients = gradients(module, expected)
    found = compiled(module, "aot_eager")(ids())
    torch.testing.assert_close(found, expected)
    assert_same(gradients(module, found), expected_gradients)


@pytest.mark.parametrize("way", ["fx", "export", "in place"])
def test_evaluation_sees_the_weights_of_the_last_step(way: str) -> None:
    module = net(way).eval()
    run = compiled(module, "eager")
    with torch.no_grad():
        torch.testing.assert_close(run(ids()), module(ids()))
        for parameter in module.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(run(ids()), module(ids()))


@pytest.mark.parametrize("way", ["fx", "in place"])
def test_a_new_batch_size_needs_no_new_graph_break(way: str) -> None:
    module = net(way)
    run = compiled(module, "eager", dynamic=True)
    for batch in (2, 5):
        torch.testing.assert_close(run(ids(batch)), module(ids(batch)))


@pytest.mark.parametrize("way", ["export", "in place"])
def test_inside_another_model(way: str) -> None:
    outer = nn.Sequential(net(way), nn.Tanh())
    expected = outer(ids())
    expected_gradients = gradients(outer, expected)
    found = compiled(outer, "eager")(ids())
    torch.testing.assert_close(found, expected)
    assert_same(gradients(outer, found), expected_gradients)


@pytest.mark.parametrize("way", ["opaque", "in place"])
def test_compiled_in_place_by_torch_it_still_materialises(way: str) -> None:
    module = net(way)
    expected = module(ids())
    module.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(module(ids()), expected)
    torch.testing.assert_close(npas.materialize(module)(ids()), expected)


@pytest.mark.parametrize("way", ["fx", "in place"])
def test_training_takes_the_same_steps(way: str) -> None:
    def steps(run: Any, module: nn.Module) -> torch.Tensor:
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            run(ids()).square().mean().backward()
            optimizer.step()
        return module(ids())

    module, other = net(way), net(way)
    torch.testing.assert_close(
        steps(compiled(other, "eager"), other), steps(module, module), rtol=1e-4, atol=1e-5
    )
