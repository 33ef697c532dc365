import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.bank import Bank
from npas.errors import NpasError
from npas.leaf import Leaf

pytestmark = pytest.mark.pure


class Tied(nn.Module):
    """Tied weights, a lookup, attention, batch norm, dropout and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8, padding_idx=0)
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 40, bias=False)
        self.head.weight = self.embedding.weight
        self.note = {"written by": "the user"}

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        x = x + self.mha(x, x, x, need_weights=False)[0]
        return self.head(self.drop(self.norm(x.transpose(1, 2)).transpose(1, 2)))

    def generate(self, ids: torch.Tensor) -> torch.Tensor:
        return self(ids).argmax(-1)


IDS = torch.randint(0, 40, (3, 5), generator=torch.Generator().manual_seed(0))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"groups": "single"}, {"groups": "own"}, {}])
@pytest.mark.parametrize("downsample", ["wavg", "emb", "avg", "rr"])
def test_it_computes_what_eval_computes(options: dict[str, Any], downsample: str) -> None:
    ssn = npas.compile(Tied(), 0.8, downsample=downsample, **options)
    for _ in range(2):  # running statistics
        ssn(IDS)
    dense = npas.materialize(ssn.eval())
    assert torch.equal(dense(IDS), ssn(IDS)) or close(dense(IDS), ssn(IDS))


def test_it_is_the_original_class_with_plain_weights() -> None:
    model = Tied()
    dense = npas.materialize(npas.compile(model, 0.8, groups="single"))
    assert type(dense) is Tied
    assert [n for n, _ in dense.named_modules()] == [n for n, _ in model.named_modules()]
    assert [type(m) for m in dense.modules()] == [type(m) for m in model.modules()]
    assert not any(isinstance(m, Bank | Leaf) for m in dense.modules())
    assert list(dense.state_dict()) == list(model.state_dict())
    shapes = {n: p.shape for n, p in model.named_parameters()}
    assert {n: p.shape for n, p in dense.named_parameters()} == shapes
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in dense.parameters())
    assert dense.head.weight is dense.embedding.weight
    assert dense.note == model.note and dense.note is not model.note
    assert dense.generate(IDS).shape == IDS.shape
    assert repr(dense) == repr(model)
    model.load_state_dict(dense.state_dict())


def test_it_is_in_the_modules_mode() -> None:
    ssn = npas.compile(Tied(), 0.8, groups="single")
    for mode in (True, False):
        dense = npas.materialize(ssn.train(mode))
        assert all(m.training is mode for m in dense.modules())


def test_it_shares_nothing() -> None:
    ssn = npas.compile(Tied(), 0.8, groups="own")
    before = copy.deepcopy(ssn.state_dict())
    dense = npas.materialize(ssn)
    theirs = {t.untyped_storage().data_ptr() for t in (*ssn.parameters(), *ssn.buffers())}
    for name, tensor in (*dense.named_parameters(), *dense.named_buffers()):
        assert tensor.untyped_storage().data_ptr() not in theirs, name
    storages = [p.untyped_storage().data_ptr() for p in dense.parameters()]
    assert len(set(storages)) == len(storages)
    dense(IDS).sum().backward()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    for name, value in ssn.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in ssn.parameters())
    assert ssn(IDS).any()


def test_hooks_come_along() -> None:
    fired: list[str] = []
    model = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8))
    model[0].register_forward_hook(lambda *_: fired.append("0"))
    model[1].register_forward_pre_hook(lambda *_: fired.append("1"))
    ssn = npas.compile(model, 0.9, groups="single")
    dense = npas.materialize(ssn)
    dense(torch.randn(2, 8))
    assert fired == ["0", "1"]
    # And they stay with the compiled module.
    ssn(torch.randn(2, 8))
    assert fired == ["0", "1"] * 2


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.LSTM(8, 8, 2, bidirectional=True)), (4, 2, 8)),
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16)), (4, 2, 8)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 6, 3)), (2, 4, 5, 5)),
    ],
)
def test_leaves_are_opened(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    ssn = npas.compile(make(), 0.9, groups="single").eval()
    dense, x = npas.materialize(ssn), torch.randn(shape)
    for found, expected in zip(_flat(dense(x)), _flat(ssn(x)), strict=True):
        assert close(found, expected)
    with torch.no_grad():
        for found, expected in zip(_flat(dense(x)), _flat(ssn(x)), strict=True):
            assert close(found, expected)


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _flat(item)]


def test_the_result_can_be_compiled_again() -> None:
    ssn = npas.compile(Tied(), 0.8, groups="single")
    again = npas.compile(npas.materialize(ssn), 0.7, groups="single")
    assert again(IDS).shape == (3, 5, 40)
    with pytest.raises(NpasError, match="compiled by npas already"):
        npas.compile(ssn, 0.7)


def test_the_result_pickles_and_copies() -> None:
    dense = npas.materialize(npas.compile(Tied(), 0.8, groups="single")).eval()
    assert torch.equal(copy.deepcopy(dense)(IDS), dense(IDS))


def test_a_model_under_inference_mode() -> None:
    ssn = npas.compile(Tied(), 0.8, groups="single").eval()
    with torch.inference_mode():
        dense = npas.materialize(ssn)
    expected = ssn(IDS)
    with torch.no_grad():
        assert close(dense(IDS), expected)


def test_anything_else_is_refused() -> None:
    with pytest.raises(NpasError, match="Linear was not compiled by npas"):
        npas.materialize(nn.Linear(8, 8))
