"""Every module of torch.nn with weights of two or more dimensions, wrapped and as the root."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_leaves

import npas
from npas.bank import Bank
from tests.invariants import assert_equal_bits, loss_of

pytestmark = [
    pytest.mark.pure,
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]

HOWS = ("fx", "export", "opaque", "in place")


@dataclass(frozen=True)
class Case:
    """How to make a module, and what to call it with; kwargs are tensors or constants."""

    cls: type[nn.Module]
    make: Callable[[], nn.Module]
    args: tuple[torch.Tensor, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    # Front ends that cannot capture it when it is the root itself, and when it is wrapped.
    root_defeats: frozenset[str] = frozenset()
    wrapped_defeats: frozenset[str] = frozenset()
    # Whether torch has a fused path for evaluation without grad, which no graph of operators takes.
    fused: bool = False


def _random(*shape: int, low: float | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if low is not None:
        return torch.rand(shape, generator=generator) + low
    return torch.randn(shape, generator=generator)


def _ids(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def _causal(size: int) -> torch.Tensor:
    return torch.ones(size, size).triu(1).bool()


def _padding(batch: int, size: int) -> torch.Tensor:
    return torch.arange(size).expand(batch, size) >= torch.tensor([size, size - 1])[:, None]


def _called(module: nn.Module, *args: torch.Tensor) -> nn.Module:
    module(*args)
    return module


def _encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 2, 32, **{"batch_first": True, **options})


def _decoder_layer(**options: Any) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(16, 2, 32, **options)


BAGS = torch.tensor([0, 2, 2, 5])
FX = frozenset({"fx"})
EXPORT = frozenset({"export"})
SEQUENCE, STATES = _random(4, 2, 24), _random(1, 2, 24)
SIGNAL, IMAGE, VOLUME = _random(2, 16, 7), _random(2, 12, 5, 6), _random(1, 8, 4, 3, 5)
TOKENS, MEMORY = _random(5, 2, 16), _random(3, 2, 16)

CASES: dict[str, Case] = {
    "Linear": Case(nn.Linear, lambda: nn.Linear(32, 32), (_random(3, 32),)),
    "Linear without bias": Case(
        nn.Linear, lambda: nn.Linear(32, 24, bias=False), (_random(2, 3, 32),)
    ),
    "Linear, one sample": Case(nn.Linear, lambda: nn.Linear(32, 32), (_random(32),)),
    "LazyLinear": Case(
        nn.LazyLinear, lambda: _called(nn.LazyLinear(32), torch.ones(1, 32)), (_random(3, 32),)
    ),
    "Bilinear": Case(nn.Bilinear, lambda: nn.Bilinear(12, 11, 8), (_random(3, 12), _random(3, 11))),
    "Conv1d": Case(nn.Conv1d, lambda: nn.Conv1d(16, 16, 3), (SIGNAL,)),
    "Conv1d, dilated, reflected": Case(
        nn.Conv1d,
        lambda: nn.Conv1d(16, 16, 3, dilation=2, padding=2, padding_mode="reflect"),
        (SIGNAL,),
    ),
    "Conv1d, same": Case(nn.Conv1d, lambda: nn.Conv1d(16, 16, 3, padding="same"), (SIGNAL,)),
    "Conv2d": Case(nn.Conv2d, lambda: nn.Conv2d(12, 12, 3, stride=2, padding=1), (IMAGE,)),
    "Conv2d, grouped, without bias": Case(
        nn.Conv2d, lambda: nn.Conv2d(12, 24, 3, groups=3, bias=False), (IMAGE,)
    ),
    "Conv2d, pointwise": Case(nn.Conv2d, lambda: nn.Conv2d(12, 24, 1), (IMAGE,)),
    "Conv2d, circular": Case(
        nn.Conv2d, lambda: nn.Conv2d(12, 12, 3, padding=(1, 2), padding_mode="circular"), (IMAGE,)
    ),
    "Conv3d": Case(nn.Conv3d, lambda: nn.Conv3d(8, 8, 3, padding=1), (VOLUME,)),
    "ConvTranspose1d": Case(
        nn.ConvTranspose1d, lambda: nn.ConvTranspose1d(16, 16, 3, stride=2), (SIGNAL,)
    ),
    "ConvTranspose1d with output_size": Case(
        nn.ConvTranspose1d,
        lambda: nn.ConvTranspose1d(16, 16, 3, stride=2),
        (SIGNAL,),
        {"output_size": [16]},
        root_defeats=FX,
    ),
    "ConvTranspose2d": Case(
        nn.ConvTranspose2d,
        lambda: nn.ConvTranspose2d(12, 24, 3, stride=2, output_padding=1, groups=2, dilation=2),
        (IMAGE,),
    ),
    "ConvTranspose3d": Case(nn.ConvTranspose3d, lambda: nn.ConvTranspose3d(8, 8, 3), (VOLUME,)),
    "LazyConv1d": Case(nn.LazyConv1d, lambda: _called(nn.LazyConv1d(16, 3), SIGNAL), (SIGNAL,)),
    "LazyConv2d": Case(nn.LazyConv2d, lambda: _called(nn.LazyConv2d(12, 3), IMAGE), (IMAGE,)),
    "LazyConv3d": Case(nn.LazyConv3d, lambda: _called(nn.LazyConv3d(8, 3), VOLUME), (VOLUME,)),
    "LazyConvTranspose1d": Case(
        nn.LazyConvTranspose1d, lambda: _called(nn.LazyConvTranspose1d(16, 3), SIGNAL), (SIGNAL,)
    ),
    "LazyConvTranspose2d": Case(
        nn.LazyConvTranspose2d, lambda: _called(nn.LazyConvTranspose2d(12, 3), IMAGE), (IMAGE,)
    ),
    "LazyConvTranspose3d": Case(
        nn.LazyConvTranspose3d, lambda: _called(nn.LazyConvTranspose3d(8, 3), VOLUME), (VOLUME,)
    ),
    "Embedding": Case(nn.Embedding, lambda: nn.Embedding(20, 16), (_ids(20, 3, 4),)),
    "Embedding with padding_idx": Case(
        nn.Embedding, lambda: nn.Embedding(20, 16, padding_idx=2), (_ids(4, 3, 4),)
    ),
    "Embedding with scale_grad_by_freq": Case(
        nn.Embedding, lambda: nn.Embedding(20, 16, scale_grad_by_freq=True), (_ids(4, 3, 4),)
    ),
    "EmbeddingBag, mean": Case(nn.EmbeddingBag, lambda: nn.EmbeddingBag(20, 16), (_ids(20, 3, 4),)),
    "EmbeddingBag, sum": Case(
        nn.EmbeddingBag, lambda: nn.EmbeddingBag(20, 16, mode="sum"), (_ids(20, 3, 4),)
    ),
    "EmbeddingBag, max": Case(
        nn.EmbeddingBag, lambda: nn.EmbeddingBag(20, 16, mode="max"), (_ids(20, 3, 4),)
    ),
    "EmbeddingBag with padding_idx": Case(
        nn.EmbeddingBag, lambda: nn.EmbeddingBag(20, 16, padding_idx=2), (_ids(4, 3, 4),)
    ),
    "EmbeddingBag with offsets": Case(
        nn.EmbeddingBag, lambda: nn.EmbeddingBag(20, 16), (_ids(20, 7), BAGS)
    ),
    "EmbeddingBag with last offset": Case(
        nn.EmbeddingBag,
        lambda: nn.EmbeddingBag(20, 16, mode="sum", include_last_offset=True),
        (_ids(20, 5), BAGS),
    ),
    "EmbeddingBag with weights": Case(
        nn.EmbeddingBag,
        lambda: nn.EmbeddingBag(20, 16, mode="sum"),
        (_ids(20, 7), BAGS),
        {"per_sample_weights": _random(7)},
    ),
    "RNN": Case(nn.RNN, lambda: nn.RNN(24, 24), (SEQUENCE,), root_defeats=FX),
    "RNN, relu, two layers": Case(
        nn.RNN,
        lambda: nn.RNN(24, 24, 2, nonlinearity="relu", bias=False),
        (SEQUENCE,),
        root_defeats=FX,
    ),
    "LSTM": Case(nn.LSTM, lambda: nn.LSTM(24, 24), (SEQUENCE,), root_defeats=FX),
    "LSTM, two layers, both ways, dropout": Case(
        nn.LSTM,
        lambda: nn.LSTM(24, 24, 2, bidirectional=True, batch_first=True, dropout=0.3),
        (SEQUENCE,),
        root_defeats=FX,
    ),
    "LSTM with projection": Case(
        nn.LSTM, lambda: nn.LSTM(24, 24, proj_size=8), (SEQUENCE,), root_defeats=FX
    ),
    "LSTM, one sample": Case(nn.LSTM, lambda: nn.LSTM(24, 24), (_random(4, 24),), root_defeats=FX),
    "GRU": Case(nn.GRU, lambda: nn.GRU(24, 24), (SEQUENCE, STATES), root_defeats=FX),
    "GRU, two layers, both ways": Case(
        nn.GRU, lambda: nn.GRU(24, 24, 2, bidirectional=True), (SEQUENCE,), root_defeats=FX
    ),
    "RNNCell": Case(nn.RNNCell, lambda: nn.RNNCell(24, 24), (SEQUENCE[0],), root_defeats=FX),
    "LSTMCell": Case(nn.LSTMCell, lambda: nn.LSTMCell(24, 24), (SEQUENCE[0],), root_defeats=FX),
    "GRUCell": Case(
        nn.GRUCell, lambda: nn.GRUCell(24, 24), (SEQUENCE[0], STATES[0]), root_defeats=FX
    ),
    "MultiheadAttention": Case(
        nn.MultiheadAttention,
        lambda: nn.MultiheadAttention(16, 2),
        (TOKENS, TOKENS, TOKENS),
        root_defeats=FX,
    ),
    "MultiheadAttention, keys and values of other widths": Case(
        nn.MultiheadAttention,
        lambda: nn.MultiheadAttention(16, 2, kdim=12, vdim=20, dropout=0.2),
        (TOKENS, _random(3, 2, 12), _random(3, 2, 20)),
        root_defeats=FX,
    ),
    "MultiheadAttention with biases of keys and values": Case(
        nn.MultiheadAttention,
        lambda: nn.MultiheadAttention(16, 2, add_bias_kv=True, add_zero_attn=True),
        (TOKENS, MEMORY, MEMORY),
        root_defeats=FX,
    ),
    "MultiheadAttention, batch first, masked": Case(
        nn.MultiheadAttention,
        lambda: nn.MultiheadAttention(16, 2, batch_first=True, bias=False),
        (_random(2, 5, 16),) * 3,
        {"key_padding_mask": _padding(2, 5), "need_weights": False},
        root_defeats=FX,
    ),
    "Transformer": Case(
        nn.Transformer,
        lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
        (_random(2, 5, 16), _random(2, 3, 16)),
        {"tgt_mask": _causal(3)},
        root_defeats=FX | EXPORT,
        wrapped_defeats=EXPORT,
    ),
    "TransformerEncoder": Case(
        nn.TransformerEncoder,
        lambda: nn.TransformerEncoder(_encoder_layer(), 2),
        (_random(2, 5, 16),),
        fused=True,
        root_defeats=FX,
    ),
    "TransformerEncoder, padded": Case(
        nn.TransformerEncoder,
        lambda: nn.TransformerEncoder(_encoder_layer(), 2, nn.LayerNorm(16)),
        (_random(2, 5, 16),),
        {"src_key_padding_mask": _padding(2, 5)},
        root_defeats=FX | EXPORT,
        wrapped_defeats=EXPORT,
    ),
    "TransformerEncoderLayer": Case(
        nn.TransformerEncoderLayer,
        _encoder_layer,
        (_random(2, 5, 16),),
        fused=True,
        root_defeats=FX,
    ),
    "TransformerEncoderLayer, norm first": Case(
        nn.TransformerEncoderLayer,
        lambda: _encoder_layer(norm_first=True, batch_first=False, activation="gelu"),
        (TOKENS,),
        {"src_mask": _causal(5)},
        root_defeats=FX,
    ),
    "TransformerDecoder": Case(
        nn.TransformerDecoder,
        lambda: nn.TransformerDecoder(_decoder_layer(), 2),
        (TOKENS, MEMORY),
        {"tgt_mask": _causal(5)},
        root_defeats=FX | EXPORT,
        wrapped_defeats=EXPORT,
    ),
    "TransformerDecoderLayer": Case(nn.TransformerDecoderLayer, _decoder_layer, (TOKENS, MEMORY)),
    "LinearCrossEntropyLoss": Case(
        nn.LinearCrossEntropyLoss,
        lambda: nn.LinearCrossEntropyLoss(32, 24),
        (_random(5, 32), _ids(24, 5)),
    ),
    "LinearCrossEntropyLoss with bias and classes' weights": Case(
        nn.LinearCrossEntropyLoss,
        lambda: nn.LinearCrossEntropyLoss(
            32, 24, bias=True, weight=_random(24, low=0.5), label_smoothing=0.1
        ),
        (_random(5, 32), _ids(24, 5)),
    ),
    "AdaptiveLogSoftmaxWithLoss": Case(
        nn.AdaptiveLogSoftmaxWithLoss,
        lambda: nn.AdaptiveLogSoftmaxWithLoss(24, 40, [10, 20], div_value=2.0),
        (_random(9, 24), torch.arange(9) * 4),
        root_defeats=FX | EXPORT,
        wrapped_defeats=EXPORT,
    ),
}


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, n_positional: int, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        self.n_positional = n_positional
        self.names = [name for name, v in kwargs.items() if isinstance(v, torch.Tensor)]
        self.constants = {name: v for name, v in kwargs.items() if name not in self.names}

    def run(self, *values: Any) -> Any:
        named = dict(zip(self.names, values[self.n_positional :], strict=True))
        return self.inner(*values[: self.n_positional], **named, **self.constants)


class Wrapped1(Wrapped):
    def forward(self, a: torch.Tensor) -> Any:
        return self.run(a)


class Wrapped2(Wrapped):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        return self.run(a, b)


class Wrapped3(Wrapped):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> Any:
        return self.run(a, b, c)


class Wrapped4(Wrapped):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> Any:
        return self.run(a, b, c, d)


@dataclass(frozen=True)
class Subject:
    """A model and what it is called with."""

    model: nn.Module
    args: tuple[torch.Tensor, ...]
    kwargs: Mapping[str, Any]


def subject(case: Case, place: str) -> Subject:
    torch.manual_seed(0)
    model = case.make()
    if place == "root":
        return Subject(model, case.args, case.kwargs)
    tensors = tuple(v for v in case.kwargs.values() if isinstance(v, torch.Tensor))
    args = (*case.args, *tensors)
    cls = (Wrapped1, Wrapped2, Wrapped3, Wrapped4)[len(args) - 1]
    return Subject(cls(model, len(case.args), case.kwargs), args, {})


def compiled(found: Subject, how: str, budget: float | int, groups: str) -> nn.Module:
    if how == "in place":
        return npas.compile_(copy.deepcopy(found.model), budget, groups=groups)
    examples: dict[str, Any] = {}
    if how != "opaque":
        examples = {"example_inputs": found.args, "example_kwargs": found.kwargs}
    return npas.compile(found.model, budget, groups=groups, frontend=how, **examples)


def compiled_at_a_tenth(found: Subject, how: str) -> nn.Module:
    try:
        return compiled(found, how, 0.1, "single")
    except npas.BudgetError as error:
        assert error.smallest is not None
        return compiled(found, how, error.smallest, "single")


def outcome(found: Subject, model: nn.Module, *, grad: bool = True) -> dict[str, torch.Tensor]:
    """Return outputs, buffers, and gradients of inputs and parameters, by name."""
    leaves = {id(v): _leaf(v) for v in (*found.args, *found.kwargs.values())}
    # One tensor that is given several times stays one.
    args = [leaves[id(value)] for value in found.args]
    kwargs = {name: leaves[id(value)] for name, value in found.kwargs.items()}
    torch.manual_seed(3)
    with torch.set_grad_enabled(grad):
        outputs = [t for t in tree_leaves(model(*args, **kwargs)) if isinstance(t, torch.Tensor)]
    result = {f"output {i}": value.detach() for i, value in enumerate(outputs)}
    result |= {f"buffer {name}": value.clone() for name, value in model.named_buffers()}
    if not grad:
        return result
    model.zero_grad()
    torch.stack([loss_of(t) for t in outputs if t.requires_grad]).sum().backward()
    for i, value in enumerate((*args, *kwargs.values())):
        if isinstance(value, torch.Tensor) and value.grad is not None:
            result[f"gradient of input {i}"] = value.grad
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            result[f"gradient of {name}"] = parameter.grad
    return result


def _leaf(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().clone().requires_grad_(value.is_floating_point())


def without_parameters(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept = ("output", "gradient of input")
    return {name: value for name, value in found.items() if name.startswith(kept)}


def _defeats(case: Case, place: str) -> frozenset[str]:
    return case.root_defeats if place == "root" else case.wrapped_defeats


# What export captures does not depend on the budget and is slow: as the root at 100%, and wrapped
# at a tenth, there for the first case of each class.
FIRST = {case.cls: name for name, case in reversed(CASES.items())}.values()


def _runs(export: Callable[[str, str], bool]) -> list[tuple[str, str, str]]:
    return [
        (name, place, how)
        for name, case in CASES.items()
        for place in ("root", "wrapped")
        for how in HOWS
        if how not in _defeats(case, place) and (how != "export" or export(name, place))
    ]


AT_100_PERCENT = _runs(lambda name, place: place == "root")
AT_A_TENTH = _runs(lambda name, place: place == "wrapped" and name in FIRST)
REFUSED = [
    (name, place, how)
    for name, case in CASES.items()
    for place in ("root", "wrapped")
    for how in sorted(_defeats(case, place))
]


@pytest.mark.parametrize(("name", "place", "how"), AT_100_PERCENT)
def test_own_banks_at_100_percent_are_the_original_bit_for_bit(
    name: str, place: str, how: str
) -> None:
    found = subject(CASES[name], place)
    ssn = compiled(found, how, 1.0, "own")
    for mode in (True, False):
        expected = outcome(found, found.model.train(mode))
        assert_equal_bits(outcome(found, ssn.train(mode)), expected)
        assert any(key.startswith("gradient of") for key in expected)
    mine, theirs = (outcome(found, m.eval(), grad=False) for m in (ssn, found.model))
    if how == "export" and CASES[name].fused:
        _assert_close(mine, theirs)
    else:
        assert_equal_bits(mine, theirs)


@pytest.mark.parametrize(("name", "place", "how"), AT_A_TENTH)
def test_a_tenth_of_the_parameters_trains_and_computes_what_the_materialised_module_does(
    name: str, place: str, how: str
) -> None:
    found = subject(CASES[name], place)
    ssn = compiled_at_a_tenth(found, how)
    banks = [module for module in ssn.modules() if isinstance(module, Bank)]
    assert banks
    dense = npas.materialize(ssn)
    for mode in (True, False):
        mine, theirs = outcome(found, ssn.train(mode)), outcome(found, dense.train(mode))
        _assert_close(mine, theirs)
        for bank in banks:
            for key, parameter in bank.named_parameters():
                assert parameter.grad is not None and parameter.grad.any(), key
    mine = outcome(found, ssn, grad=False)
    _assert_close(mine, outcome(found, dense, grad=False))
    assert npas.report(ssn).fallbacks == {}


def _assert_close(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    mine, theirs = without_parameters(found), without_parameters(wanted)
    assert list(mine) == list(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "place", "how"), REFUSED)
def test_what_a_front_end_cannot_capture_it_refuses(name: str, place: str, how: str) -> None:
    with pytest.raises(npas.TraceError):
        compiled(subject(CASES[name], place), how, 1.0, "own")


@pytest.mark.parametrize("name", list(CASES))
def test_uncompiling_at_a_tenth_gives_back_the_class_and_the_order_of_the_state(name: str) -> None:
    found = subject(CASES[name], "root")
    classes = [type(module) for module in found.model.modules()]
    ssn = compiled_at_a_tenth(found, "in place").eval()
    expected, dense = outcome(found, ssn, grad=False), npas.dense_state_dict(ssn)
    plain = npas.uncompile_(ssn)
    assert plain is ssn
    assert [type(module) for module in plain.modules()] == classes
    assert list(plain.state_dict()) == list(found.model.state_dict())
    assert_equal_bits(plain.state_dict(), dense)
    _assert_close(outcome(found, plain, grad=False), expected)


@pytest.mark.parametrize("budget", [1.0, 0.5])
@pytest.mark.parametrize("how", HOWS)
def test_a_sequential_is_the_root(how: str, budget: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    found = Subject(model, (_random(3, 32),), {})
    ssn: Any = compiled(found, how, budget, "own" if budget == 1.0 else "single")
    dense: Any = npas.materialize(ssn)
    _assert_close(outcome(found, ssn), outcome(found, dense))
    assert len(ssn) == 3 and [type(step) for step in dense] == [type(step) for step in model]
    assert isinstance(ssn[0], nn.Linear) and isinstance(ssn[-1], nn.Linear)
    assert torch.equal(ssn[:2](found.args[0]), dense[:2](found.args[0]))
    assert [isinstance(step, nn.Module) and not list(step.children()) for step in ssn] == [True] * 3


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("how", ["fx", "opaque", "in place"])
@pytest.mark.parametrize("budget", [1.0, 0.1])
def test_recurrent_layers_take_packed_sequences(kind: type[Any], how: str, budget: float) -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(24, 24, 2)

        def forward(self, packed: PackedSequence) -> Any:
            return self.rnn(packed)

    torch.manual_seed(0)
    model, packed = Packs(), pack_padded_sequence(SEQUENCE, torch.tensor([4, 2]))
    options: Any = {"groups": "own" if budget == 1.0 else "single"}
    if how == "in place":
        ssn: nn.Module = npas.compile_(copy.deepcopy(model), budget, **options)
    else:
        ssn = npas.compile(model, budget, frontend=how, **options)
    dense = model if budget == 1.0 else npas.materialize(ssn)
    found, expected = ssn(packed), dense(packed)
    assert isinstance(found[0], PackedSequence)
    for mine, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert mine is theirs or torch.equal(mine, theirs)
    found[0].data.sum().backward()
    assert all(p.grad is not None for p in ssn.parameters())


@pytest.mark.parametrize("how", ["opaque", "in place"])
@pytest.mark.parametrize("budget", [1.0, 0.2])
def test_the_other_methods_of_an_adaptive_softmax_work(how: str, budget: float) -> None:
    found = subject(CASES["AdaptiveLogSoftmaxWithLoss"], "root")
    ssn: Any = compiled(found, how, budget, "own" if budget == 1.0 else "single")
    dense: Any = found.model if budget == 1.0 else npas.materialize(ssn)
    x = found.args[0]
    assert torch.equal(ssn.log_prob(x), dense.log_prob(x))
    assert torch.equal(ssn.predict(x), dense.predict(x))


@pytest.mark.parametrize("cls", [nn.LazyLinear, nn.LazyConv1d, nn.LazyConvTranspose2d])
def test_a_lazy_module_before_its_first_call_is_refused(cls: type[Any]) -> None:
    options: Any = {} if cls is nn.LazyLinear else {"kernel_size": 3}
    for compile in (npas.compile, npas.compile_):
        with pytest.raises(npas.NpasError, match="lazy"):
            compile(nn.Sequential(cls(8, **options)), 0.5)


@pytest.mark.parametrize("how", HOWS)
def test_norms_over_two_dimensions_are_kept(how: str) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm([3, 32]), nn.RMSNorm([3, 32]))
    found = Subject(Wrapped1(layers, 1, {}), (_random(2, 3, 32),), {})
    ssn = compiled(found, how, 0.5, "single")
    kept = [n for n, _ in ssn.named_parameters() if not n.startswith("npas.")]
    assert kept == [f"inner.{n}" for n in ("0.bias", "1.weight", "1.bias", "2.weight")]
    _assert_close(outcome(found, ssn), outcome(found, npas.materialize(ssn)))


# What the enumeration below cannot make, or what cannot be called.
WITHOUT_FORWARD = {
    "Container": "a deprecated name of Module",
    "Module": "holds nothing itself",
    "RNNBase": "has no forward: RNN, LSTM and GRU have",
    "RNNCellBase": "has no forward: the cells have",
    "DataParallel": "holds nothing itself",
}
VALUES: dict[str, Any] = {
    "bias": True,
    "cutoffs": [4],
    "d_model": 8,
    "decoder_layer": nn.TransformerDecoderLayer(8, 2, 8),
    "dim": 1,
    "downscale_factor": 2,
    "embed_dim": 8,
    "embedding_dim": 8,
    "encoder_layer": nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
    "groups": 2,
    "hidden_size": 8,
    "in1_features": 8,
    "in2_features": 8,
    "in_channels": 8,
    "in_features": 8,
    "input_size": 8,
    "kernel_size": 3,
    "lower": 0.1,
    "mode": "LSTM",
    "n_classes": 8,
    "nhead": 2,
    "norm_type": 2.0,
    "normalized_shape": 8,
    "num_channels": 8,
    "num_classes": 8,
    "num_chunks": 1,
    "num_embeddings": 8,
    "num_features": 8,
    "num_groups": 2,
    "num_heads": 2,
    "num_layers": 1,
    "out_channels": 8,
    "out_features": 8,
    "output_size": 8,
    "padding": 1,
    "size": 2,
    "threshold": 0.1,
    "unflattened_size": (2, 4),
    "upper": 0.3,
    "upscale_factor": 2,
    "value": 0.5,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "FractionalMaxPool2d": {"output_size": 2},
    "FractionalMaxPool3d": {"output_size": 2},
}


def _make(cls: type[Any]) -> nn.Module:
    if cls in (nn.RNN, nn.LSTM, nn.GRU):  # their signature is *args
        return cls(8, 8)
    needed = [
        parameter
        for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    unknown = [parameter.name for parameter in needed if parameter.name not in VALUES]
    assert not unknown, f"add {unknown} of nn.{cls.__name__} to VALUES"
    options = OPTIONS.get(cls.__name__, {})
    positional = [VALUES[p.name] for p in needed if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: VALUES[p.name] for p in needed if p.kind is p.KEYWORD_ONLY}
    return cls(*positional, **named, **options)


def _has_weights(module: nn.Module) -> bool:
    if isinstance(module, LazyModuleMixin):
        return "Norm" not in type(module).__name__
    return any(p.dim() >= 2 and p.is_floating_point() for p in module.parameters())


def _exported() -> dict[str, type[nn.Module]]:
    return {
        name: value
        for name, value in vars(nn).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")  # deprecated classes
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_every_class_of_torch_nn_with_weights_is_in_the_table() -> None:
    exported = {n: c for n, c in _exported().items() if n not in WITHOUT_FORWARD}
    with_weights = {name for name, cls in exported.items() if _has_weights(_make(cls))}
    assert len(exported) > 120 and len(with_weights) > 25
    assert with_weights == {case.cls.__name__ for case in CASES.values()}


def test_the_exceptions_of_the_enumeration_still_exist_and_hold_no_forward_of_weights() -> None:
    exported = _exported()
    assert set(WITHOUT_FORWARD) <= set(exported)
    for name in ("RNNBase", "RNNCellBase"):
        module = _make(exported[name])
        with pytest.raises(NotImplementedError):
            module(torch.ones(1, 1, 8))
