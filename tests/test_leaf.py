import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

import npas
from npas.bank import Bank
from npas.leaf import Leaf
from npas.module import Shapeshifter

pytestmark = pytest.mark.pure


def make(*layers: nn.Module, budget: float = 0.9) -> Shapeshifter:
    torch.manual_seed(0)
    return npas.compile(nn.Sequential(*layers), budget, groups="single")


def leaf_of(ssn: nn.Module, path: str = "0") -> Leaf:
    leaf = ssn.get_submodule(path)
    assert isinstance(leaf, Leaf)
    return leaf


def generated(ssn: Shapeshifter) -> dict[str, torch.Tensor]:
    banks = [m for m in ssn.modules() if isinstance(m, Bank)]
    return {name: bank.generate(name) for bank in banks for name in bank.layer_names()}


def test_it_prints_as_the_module_it_stands_for() -> None:
    ssn = make(nn.Linear(8, 8), nn.LSTM(8, 8))
    assert repr(leaf_of(ssn)) == repr(nn.Linear(8, 8))
    assert repr(leaf_of(ssn, "1")) == repr(nn.LSTM(8, 8))


def test_an_embeddings_weight_is_read_whole_where_its_bank_makes_all_at_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.6, groups="single", schedule="bank")
    rows = ssn(torch.arange(16))
    assert torch.equal(ssn[1](ssn[0].weight), rows)  # type: ignore[index]


def test_its_attributes_are_the_modules() -> None:
    leaf = leaf_of(make(nn.Conv2d(4, 8, 3, stride=2)))
    assert (leaf.in_channels, leaf.stride) == (4, (2, 2))
    assert isinstance(leaf.bias, nn.Parameter)
    with pytest.raises(AttributeError, match="nothing"):
        _ = leaf.nothing


def test_its_mode_is_the_modules() -> None:
    ssn = make(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5))
    for mode in (False, True):
        ssn.train(mode)
        assert all(m.training is mode for m in ssn.modules())
    x = torch.randn(4, 2, 8)
    ssn.eval()
    assert torch.equal(ssn(x), ssn(x))
    ssn.train()
    assert not torch.equal(ssn(x), ssn(x))


def test_state_dict_keys_are_the_modules() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    ssn = make(model)
    kept = [n for n in ssn.state_dict() if not n.startswith("npas.")]
    weights = set(generated(ssn))
    assert kept == [f"0.{n}" for n in model.state_dict() if f"0.{n}" not in weights]


def test_moving_it_moves_the_module() -> None:
    ssn = make(nn.LSTM(8, 8), budget=0.7).double()
    leaf = leaf_of(ssn)
    assert leaf.bias_ih_l0.dtype == torch.float64
    out, _ = ssn(torch.randn(3, 2, 8, dtype=torch.float64))
    assert out.dtype == torch.float64


class Counting(nn.Module):
    """Changes its buffer and an attribute when called; fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() < 0 or bool((x > 1e9).any()):
            return x
        with torch.no_grad():
            self.seen += 1
        return self.fc(x)


class Rebinding(Counting):
    """Puts a new tensor where its buffer was, as running averages often do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x > 1e9).any()):
            return x
        self.seen = self.seen + 1
        return self.fc(x)


@pytest.mark.parametrize("kind", [Counting, Rebinding])
@pytest.mark.parametrize("grad", [True, False])
def test_buffers_that_forward_changes(kind: type[nn.Module], grad: bool) -> None:
    ssn = make(kind())
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            ssn(torch.randn(2, 8))
    assert float(ssn.state_dict()["0.seen"]) == 3


class Childless(nn.Module):
    """A parameter and a running mean, no children; fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))
        self.register_buffer("mean", torch.zeros(8))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x > 1e9).any()):
            return x
        self.mean = 0.5 * self.mean + x.detach().mean(0)
        self.calls += 1
        return x @ self.w


def test_buffers_that_a_module_without_children_changes() -> None:
    ssn, model = make(Childless()), nn.Sequential(Childless())
    x = torch.randn(2, 8)
    for _ in range(3):
        ssn(x)
        model(x)
    assert torch.allclose(ssn.state_dict()["0.mean"], model.state_dict()["0.mean"])


def test_attributes_that_a_module_without_children_changes() -> None:
    ssn = make(Childless())
    for _ in range(3):
        ssn(torch.randn(2, 8))
    assert leaf_of(ssn).calls == 3


def test_a_batch_norm_inside_a_leaf_keeps_its_statistics() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) if x.sum() < 1e9 else x

    torch.manual_seed(0)
    model = nn.Sequential(Opaque())
    ssn = npas.compile(model, 0.9, groups="single")
    weights = generated(ssn)
    x = torch.randn(4, 4, 9)
    for _ in range(2):
        torch.testing.assert_close(ssn(x), functional_call(model, weights, (x,)))
    for name in ("0.norm.running_mean", "0.norm.running_var", "0.norm.num_batches_tracked"):
        assert torch.allclose(ssn.state_dict()[name], model.state_dict()[name])


def test_no_dense_weight_of_a_recurrent_layer_is_kept() -> None:
    # RNNBase keeps its weights in a list beside its parameters.
    model = nn.Sequential(nn.LSTM(64, 64))
    ssn = npas.compile(model, 0.1, groups="single")
    n_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    assert len(pickle.dumps(ssn)) < 0.5 * n_bytes
    weight = weakref.ref(model[0].weight_hh_l0)
    del model
    gc.collect()
    assert weight() is None
    ssn(torch.randn(3, 2, 64))[0].sum().backward()


def test_hooks_registered_after_compiling() -> None:
    ssn = make(nn.Linear(8, 8), nn.LSTM(8, 8))
    fired: list[str] = []
    for path in ("0", "1"):
        ssn.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path))
    ssn(torch.randn(2, 8))
    assert fired == ["0", "1"]


def test_hooks_on_children_of_a_leaf() -> None:
    fired: list[str] = []
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    layer.linear1.register_forward_hook(lambda *_: fired.append("before compile"))
    ssn = make(layer)
    ssn.get_submodule("0.linear2").register_forward_hook(lambda *_: fired.append("after"))
    ssn(torch.randn(4, 2, 8))
    assert fired == ["before compile", "after"]


def test_a_parametrized_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.95, groups="single")
    weights = generated(ssn)
    assert "0.parametrizations.weight.original1" in weights
    x = torch.randn(3, 8)
    torch.testing.assert_close(ssn(x), functional_call(model, weights, (x,)))
    dense = npas.materialize(ssn)
    torch.testing.assert_close(dense(x), ssn(x))


def test_a_hook_that_makes_the_weight_from_a_generated_one() -> None:
    # The older torch.nn.utils.spectral_norm is such a hook: it reads weight_orig from its module.
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 16)).eval()
    ssn = npas.compile(model, 0.8, groups="single")
    x = torch.randn(3, 16)
    torch.testing.assert_close(ssn(x), functional_call(model, generated(ssn), (x,)))


def test_an_attribute_that_is_set_reaches_the_module() -> None:
    ssn = make(nn.LSTM(16, 16, 2, dropout=0.5), budget=0.8)
    leaf: Any = ssn.get_submodule("0")
    leaf.dropout = 0.0
    x = torch.randn(3, 2, 16)
    assert torch.equal(ssn(x)[0], ssn(x)[0])


def test_copies_of_a_leaf_are_apart() -> None:
    ssn = make(nn.LSTM(8, 8), budget=0.7)
    copied = copy.deepcopy(ssn)
    loaded = pickle.loads(pickle.dumps(ssn))
    x = torch.randn(3, 2, 8)
    expected = ssn(x)[0]
    for other in (copied, loaded):
        assert torch.equal(other(x)[0], expected)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(x)[0].any()
    assert torch.equal(ssn(x)[0], expected)


def test_keyword_arguments_pass_through() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
            return self.mha(query=x, key=x, value=x, need_weights=True)

    torch.manual_seed(0)
    model, x = Calls(), torch.randn(2, 3, 8)
    ssn = npas.compile(model, 0.9, groups="single")
    expected = functional_call(model, generated(ssn), (x,))
    for found, wanted in zip(ssn(x), expected, strict=True):
        assert torch.equal(found, wanted)
