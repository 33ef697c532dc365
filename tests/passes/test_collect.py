import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas
from npas.errors import NpasError
from npas.passes.collect import Inventory, WeightOp, collect
from npas.passes.trace import trace

pytestmark = pytest.mark.pure


def inventory(model: nn.Module, **options: Any) -> Inventory:
    return collect(model, trace(model, options.get("example_inputs", ())), **options)


def weights(model: nn.Module, **options: Any) -> dict[str, WeightOp]:
    return {w.name: w for w in inventory(model, **options).weights}


def reasons(model: nn.Module, **options: Any) -> dict[str, str]:
    return {f.name: f.reason for f in inventory(model, **options).fixed}


class Calls(nn.Module):
    """One parameter and what forward does with it."""

    def __init__(self, shape: tuple[int, ...], call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, self.w)


class Pair(nn.Module):
    """Calls a module that takes two inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.inner(x, y)


_MODULES: list[tuple[Callable[[], nn.Module], str, dict[str, tuple[int, ...]]]] = [
    (lambda: nn.Linear(3, 4), "linear", {"0.weight": (4, 3)}),
    (lambda: nn.Conv1d(4, 6, 3, groups=2), "conv", {"0.weight": (6, 2, 3)}),
    (lambda: nn.Conv2d(4, 6, 3), "conv", {"0.weight": (6, 4, 3, 3)}),
    (lambda: nn.Conv3d(2, 3, 2), "conv", {"0.weight": (3, 2, 2, 2, 2)}),
    (lambda: nn.ConvTranspose1d(2, 3, 2), "transposed conv", {"0.weight": (2, 3, 2)}),
    (lambda: nn.ConvTranspose2d(2, 3, 2), "transposed conv", {"0.weight": (2, 3, 2, 2)}),
    (lambda: nn.ConvTranspose3d(2, 3, 2), "transposed conv", {"0.weight": (2, 3, 2, 2, 2)}),
    (lambda: nn.Embedding(7, 4), "embedding", {"0.weight": (7, 4)}),
    (lambda: nn.EmbeddingBag(7, 4), "embedding bag", {"0.weight": (7, 4)}),
    (
        lambda: nn.LSTM(3, 4),
        "recurrent",
        {"0.weight_ih_l0": (16, 3), "0.weight_hh_l0": (16, 4)},
    ),
    (
        lambda: nn.LSTM(3, 4, proj_size=2),
        "recurrent",
        {"0.weight_ih_l0": (16, 3), "0.weight_hh_l0": (16, 2), "0.weight_hr_l0": (2, 4)},
    ),
    (lambda: nn.GRU(3, 4), "recurrent", {"0.weight_ih_l0": (12, 3), "0.weight_hh_l0": (12, 4)}),
    (lambda: nn.RNN(3, 4), "recurrent", {"0.weight_ih_l0": (4, 3), "0.weight_hh_l0": (4, 4)}),
    (lambda: nn.LSTMCell(3, 4), "recurrent", {"0.weight_ih": (16, 3), "0.weight_hh": (16, 4)}),
    (lambda: nn.GRUCell(3, 4), "recurrent", {"0.weight_ih": (12, 3), "0.weight_hh": (12, 4)}),
    (lambda: nn.RNNCell(3, 4), "recurrent", {"0.weight_ih": (4, 3), "0.weight_hh": (4, 4)}),
]


@pytest.mark.parametrize(("make", "kind", "shapes"), _MODULES)
def test_kind_and_shape_of_every_module(
    make: Callable[[], nn.Module], kind: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    found = weights(nn.Sequential(make()))
    assert {name: w.shape for name, w in found.items()} == shapes
    assert {w.kind for w in found.values()} == {kind}
    assert all(w.uses == 1 and w.aliases == () and w.macs is None for w in found.values())


def test_bilinear() -> None:
    found = weights(Pair(nn.Bilinear(3, 4, 5)))
    assert found["inner.weight"].kind == "bilinear"
    assert found["inner.weight"].shape == (5, 3, 4)


def test_attention() -> None:
    class Attends(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(4, 2, **options)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.mha(x, y, y)[0]

    found = inventory(Attends())
    assert [w.name for w in found.weights] == ["mha.in_proj_weight", "mha.out_proj.weight"]
    assert found.weights[0].kind == "attention projection"
    assert [f.name for f in found.fixed] == ["mha.in_proj_bias", "mha.out_proj.bias"]
    # Separate projections, and biases of shape [1, 1, width], which are vectors.
    split = inventory(Attends(kdim=4, vdim=4, add_bias_kv=True))
    assert [w.name for w in split.weights] == ["mha.in_proj_weight", "mha.out_proj.weight"]
    assert {"mha.bias_k", "mha.bias_v"} <= {f.name for f in split.fixed}


def test_attention_with_keys_and_values_of_other_widths() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.mha(q, k, v)[0]

    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    found = weights(Attends())
    assert [w.shape for w in found.values()] == [(4, 4), (4, 3), (4, 5), (4, 4)]
    assert list(found) == [f"mha.{name}" for name in names]


@pytest.mark.parametrize(
    ("shape", "call", "kind"),
    [
        ((5, 4), lambda x, w: F.linear(x, w), "linear"),
        ((4, 5), lambda x, w: x @ w, "linear"),
        ((4, 5), torch.matmul, "linear"),
        ((4, 5), torch.mm, "linear"),
        ((5, 4), lambda x, w: x @ w.t(), "linear"),
        ((5, 4), lambda x, w: x @ w.T, "linear"),
        ((5, 4), lambda x, w: x @ w.transpose(0, 1).contiguous(), "linear"),
        ((5, 4), lambda x, w: torch.einsum("bi,oi->bo", x, w), "linear"),
        ((5, 4, 1, 1), lambda x, w: F.conv2d(x[..., None, None], w), "conv"),
        ((5, 4, 1), lambda x, w: F.conv1d(x[..., None], w), "conv"),
        ((4, 5, 1, 1), lambda x, w: F.conv_transpose2d(x[..., None, None], w), "transposed conv"),
        ((9, 5), lambda x, w: F.embedding(x.long(), w), "embedding"),
        ((3, 4), lambda x, w: x + w.sum(), "parameter"),
    ],
)
def test_kind_of_a_raw_parameter_is_what_it_is_used_for(
    shape: tuple[int, ...], call: Callable[..., torch.Tensor], kind: str
) -> None:
    found = weights(Calls(shape, call))
    assert found["w"].kind == kind
    assert found["w"].uses == 1


def test_parameter_list() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ws = nn.ParameterList([torch.randn(4, 4) for _ in range(3)])
            self.named = nn.ParameterDict({"a": torch.randn(4, 4)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for w in self.ws:
                x = x @ w
            return x @ self.named["a"]

    found = weights(Listed())
    assert list(found) == ["ws.0", "ws.1", "ws.2", "named.a"]
    assert {w.kind for w in found.values()} == {"linear"}
    assert {w.uses for w in found.values()} == {1}


def test_a_subclass_is_of_its_parents_kind() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    assert weights(nn.Sequential(Scaled(3, 4)))["0.weight"].kind == "linear"


def test_tied_weights_are_one_op_with_aliases_and_all_its_uses() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.mid = nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.mid(self.mid(self.embedding(ids)))
            return self.head(x) + F.linear(x, self.embedding.weight)

    found = inventory(Tied())
    assert [w.name for w in found.weights] == ["embedding.weight", "mid.weight"]
    tied, mid = found.weights
    assert tied.aliases == ("head.weight",)
    assert (tied.uses, mid.uses) == (3, 2)
    assert found.n_dense == 28 + 16 + 4
    assert found.n_fixed == 4


def test_a_module_under_two_names_is_one_op() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = self.a

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    found = inventory(Shared())
    assert [(w.name, w.aliases, w.uses) for w in found.weights] == [("a.weight", ("b.weight",), 2)]
    assert [f.name for f in found.fixed] == ["a.bias"]


def test_weights_inside_an_opaque_leaf() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while x.sum() > 10:
                x = self.a(x)
            return self.b(x[..., None])

    found = weights(nn.Sequential(Looping()))
    assert {name: w.kind for name, w in found.items()} == {
        "0.a.weight": "linear",
        "0.b.weight": "conv",
    }
    assert {w.uses for w in found.values()} == {1}


def test_uses_are_the_most_of_either_mode() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.aux = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.aux(self.aux(x))) if self.training else self.fc(self.fc(self.fc(x)))

    found = weights(Auxiliary())
    assert {name: w.uses for name, w in found.items()} == {"fc.weight": 3, "aux.weight": 2}


def test_what_is_kept_and_why() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)
            self.norms = nn.Sequential(nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4))
            self.plane = nn.LayerNorm([4, 4])
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.unused = nn.Parameter(torch.zeros(4, 4))
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("table", torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norms(self.frozen(self.fc(x))) + self.token
            return self.plane(x) * self.scale + self.table

    assert reasons(Mixed()) == {
        "token": "a vector: one dimension longer than 1",
        "unused": "not used by forward",
        "scale": "of fewer than two dimensions",
        "fc.bias": "of fewer than two dimensions",
        "frozen.weight": "frozen",
        "norms.0.weight": "scale or shift of a normalisation",
        "norms.0.bias": "scale or shift of a normalisation",
        "norms.1.weight": "scale or shift of a normalisation",
        "norms.2.weight": "scale or shift of a normalisation",
        "norms.2.bias": "scale or shift of a normalisation",
        "plane.weight": "scale or shift of a normalisation",
        "plane.bias": "scale or shift of a normalisation",
    }
    found = inventory(Mixed())
    assert [w.name for w in found.weights] == ["fc.weight"]
    frozen = next(f for f in found.fixed if f.name == "frozen.weight")
    assert not frozen.trainable and frozen.n_params == 16
    model = Mixed()
    assert found.n_dense == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_every_parameter_stands_in_the_inventory_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    model(torch.randn(1, 3, 4, 4))
    found = inventory(model)
    names = [w.name for w in found.weights] + [f.name for f in found.fixed]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {f.reason for f in found.fixed if f.name.startswith("1.")} == {
        "scale or shift of a normalisation"
    }


def test_a_linear_of_one_output_is_allocated_and_a_single_token_is_not() -> None:
    assert list(weights(nn.Sequential(nn.Linear(4, 1)))) == ["0.weight"]


_PATTERNS: list[tuple[dict[str, Any], list[str]]] = [
    ({"target_modules": ["fc1"]}, ["0.fc1.weight", "1.fc1.weight"]),
    ({"target_modules": "fc1"}, ["0.fc1.weight", "1.fc1.weight"]),
    ({"target_modules": ["0"]}, ["0.fc1.weight", "0.fc2.weight"]),
    ({"target_modules": ["*.fc2"]}, ["0.fc2.weight", "1.fc2.weight"]),
    ({"target_modules": [r"re:\d\.fc2"]}, ["0.fc2.weight", "1.fc2.weight"]),
    ({"ignored_modules": ["1"]}, ["0.fc1.weight", "0.fc2.weight"]),
    ({"target_modules": ["fc1"], "ignored_modules": ["0"]}, ["1.fc1.weight"]),
]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x))


@pytest.mark.parametrize(("options", "expected"), _PATTERNS)
def test_target_and_ignored_modules(options: dict[str, Any], expected: list[str]) -> None:
    model = nn.Sequential(Two(), Two())
    found = inventory(model, **options)
    assert [w.name for w in found.weights] == expected
    rest = {f.name: f for f in found.fixed if f.name.endswith("weight")}
    assert set(rest) | set(expected) == {f"{i}.fc{j}.weight" for i in (0, 1) for j in (1, 2)}
    assert all(f.trainable and f.n_params == 16 for f in rest.values())
    allowed = {"in ignored_modules", "not in target_modules"}
    assert {f.reason for f in rest.values()} <= allowed
    assert found.n_dense == 4 * 20


@pytest.mark.parametrize("argument", ["target_modules", "ignored_modules"])
def test_a_pattern_that_matches_nothing(argument: str) -> None:
    with pytest.raises(NpasError, match=rf"{argument}: pattern 'fcc' matches no weight.*fc"):
        inventory(Two(), **{argument: ["fc1", "fcc"]})


def test_ignoring_everything_leaves_nothing_to_allocate() -> None:
    with pytest.raises(NpasError, match=r"no weight to allocate .*in ignored_modules"):
        inventory(Two(), ignored_modules=["*"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.ReLU()), "it has no parameters"),
        (lambda: nn.Sequential(nn.LayerNorm(4)), "normalisation"),
        (lambda: nn.Sequential(nn.Linear(4, 4)).requires_grad_(False), "frozen"),
    ],
)
def test_a_model_without_a_weight_to_allocate(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(NpasError, match=rf"no weight to allocate \(.*{said}"):
        inventory(make())


def test_lazy_parameters_are_refused_before_the_first_call() -> None:
    with pytest.raises(NpasError, match=r"0\.weight is not initialised yet \(a lazy module\)"):
        inventory(nn.Sequential(nn.LazyLinear(4)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Embedding(7, 4, sparse=True), "sparse gradients"),
        (lambda: nn.EmbeddingBag(7, 4, sparse=True), "sparse gradients"),
        (lambda: nn.Embedding(7, 4, max_norm=1.0), "max_norm=1.0"),
        (lambda: nn.EmbeddingBag(7, 4, max_norm=1.0), "max_norm=1.0"),
    ],
)
def test_embeddings_that_cannot_be_generated(make: Callable[[], nn.Module], said: str) -> None:
    model = nn.Sequential(make(), nn.Linear(4, 4))
    with pytest.raises(NpasError, match=rf"0\.weight .*{said}.*ignored_modules"):
        inventory(model)
    assert list(weights(model, ignored_modules=["0"])) == ["1.weight"]


def test_complex_parameters_are_kept() -> None:
    model = Calls((4, 4), lambda x, w: x @ w.real)
    model.w = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
    both = nn.Sequential(nn.Linear(4, 4), model)
    assert reasons(both)["1.w"] == "of dtype complex64"


def test_padding_index_and_dtype() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=-1), nn.Linear(4, 4)).to(torch.bfloat16)
    found = weights(model)
    assert found["0.weight"].padding_idx == 6
    assert found["1.weight"].padding_idx is None
    assert {w.dtype for w in found.values()} == {"bfloat16"}


class Everything(nn.Module):
    """Layers of many kinds, ties, norms, and an opaque leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.mha = nn.MultiheadAttention(4, 2, batch_first=True)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.w = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
        x = self.lstm(x)[0]
        x = x + self.mha(x, x, x, need_weights=False)[0]
        return self.b(self.a(x)) @ self.w


def test_meta_tensors_give_the_same_inventory() -> None:
    options = {"example_inputs": (torch.randn(2, 2, 3, 3),)}
    with torch.device("meta"):
        meta = Everything()
    assert inventory(meta, **options) == inventory(Everything(), **options)
    assert all(w.macs for w in inventory(meta, **options).weights)
    assert npas.plan(meta, "60%").to_json() == npas.plan(Everything(), "60%").to_json()


def test_order_is_that_of_named_parameters() -> None:
    model = Everything()
    order = [name for name, _ in model.named_parameters()]
    found = inventory(model, ignored_modules=["conv"])
    for rows in (found.weights, found.fixed):
        names = [row.name for row in rows]
        assert names == sorted(names, key=order.index)


def test_nothing_is_read_from_the_weights() -> None:
    model = Everything()
    before = inventory(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    assert inventory(model) == before


def test_a_pattern_that_is_no_regular_expression() -> None:
    with pytest.raises(NpasError, match=re.escape("pattern 're:(' is not a regular expression")):
        inventory(Two(), target_modules=["re:("])
