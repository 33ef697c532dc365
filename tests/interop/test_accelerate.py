from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import npas
from tests.interop.nets import WAYS, assert_same, ids, library, net

pytestmark = pytest.mark.pure


def accelerator(**options: Any) -> Any:
    found = library("accelerate")
    found.state.AcceleratorState._reset_state(True)
    return found.Accelerator(cpu=True, **options)


def loss_of(module: Any, batch: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(module(batch).flatten(0, 1), batch.flatten())


@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_a_prepared_model_is_a_step(way: str) -> None:
    prepare, module, other = accelerator(), net(way), net(way)
    optimizer = torch.optim.SGD(npas.param_groups(module), 0.1)
    loader = DataLoader(TensorDataset(ids(4)), batch_size=4)
    model, optimizer, loader = prepare.prepare(module, optimizer, loader)
    for (batch,) in loader:
        prepare.backward(loss_of(model, batch))
        prepare.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    loss_of(other, ids(4)).backward()
    torch.optim.SGD(other.parameters(), 0.1).step()
    found = prepare.unwrap_model(model)
    assert found is module
    assert_same(dict(found.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("way", WAYS)
def test_mixed_precision(way: str) -> None:
    prepare, module = accelerator(mixed_precision="bf16"), net(way)
    model, optimizer = prepare.prepare(module, torch.optim.Adam(module.parameters(), 0.02))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model, ids())
        prepare.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    unwrapped = prepare.unwrap_model(model, keep_fp32_wrapper=False)
    assert npas.materialize(unwrapped)(ids()).dtype == torch.float32


@pytest.mark.parametrize("way", WAYS)
def test_saved_state_is_loaded(way: str, tmp_path: Any) -> None:
    prepare, module = accelerator(), net(way)
    model, _ = prepare.prepare(module, torch.optim.SGD(module.parameters(), 0.1))
    expected = model(ids())
    prepare.save_state(str(tmp_path), safe_serialization=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    prepare.load_state(str(tmp_path))
    assert torch.equal(model(ids()), expected)
