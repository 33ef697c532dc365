import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from tests.interop.nets import KINDS, WAYS, assert_same, gradients, ids, library, net

pytestmark = pytest.mark.pure


def unpickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = pytest.mark.parametrize("take", [copy.deepcopy, unpickled, loaded])
Take = Callable[[Any], Any]


@COPIES
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_computes_and_trains_the_same_on_its_own(way: str, take: Take) -> None:
    module = net(way)
    module(ids())
    other = take(module)
    assert type(other).__name__ == "Net" and npas.report(other) == npas.report(module)
    assert torch.equal(other(ids()), module(ids()))
    assert_same(gradients(other, other(ids())), gradients(module, module(ids())))
    before = module(ids())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(ids()), before)
    assert not torch.equal(other(ids()), before)


@COPIES
@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_every_way_to_make_weights(kind: str, take: Take) -> None:
    module = net("in place", kind)
    other = take(module)
    assert torch.equal(other(ids()), module(ids()))
    assert_same(npas.dense_state_dict(other), npas.dense_state_dict(module))


@COPIES
def test_a_copy_is_made_plain_again_without_the_original(take: Take) -> None:
    module = net("in place").eval()
    expected = module(ids())
    other = npas.uncompile_(take(module))
    assert type(other) is type(npas.materialize(module))
    torch.testing.assert_close(other(ids()), expected)
    assert torch.equal(module(ids()), expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_state_dict_loads_without_code(way: str) -> None:
    module, file = net(way), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = net(way)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(ids()), module(ids()))


@COPIES
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_copies_of_transformers(name: str, take: Take) -> None:
    library("transformers")
    from tests.interop.test_transformers import TOKENS, bert, gpt2

    make = {"gpt2": gpt2, "bert": bert}[name]
    model = npas.compile_(make(), 0.5).eval()
    other = take(model)
    assert isinstance(other, type(npas.materialize(model)))
    assert torch.equal(other(TOKENS).logits, model(TOKENS).logits)
    expected = npas.materialize(model)(TOKENS).logits
    torch.testing.assert_close(npas.uncompile_(other)(TOKENS).logits, expected)
