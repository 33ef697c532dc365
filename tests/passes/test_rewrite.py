import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.func import functional_call

import npas
from npas.bank import Bank
from npas.errors import NpasError
from npas.leaf import Leaf
from npas.module import Shapeshifter
from npas.passes.rewrite import BANKS, rewrite
from npas.passes.trace import trace

pytestmark = pytest.mark.pure

Inputs = tuple[torch.Tensor, ...]


def banks(ssn: nn.Module) -> dict[str, Bank]:
    return {n: m for n, m in ssn.named_modules() if isinstance(m, Bank)}


def generated(ssn: Shapeshifter) -> dict[str, torch.Tensor]:
    """Return every weight by all its names, made now."""
    plan = ssn._npas.plan
    found: dict[str, torch.Tensor] = {}
    for layer in plan.layers:
        if not plan.is_ordinary(layer.bank):
            bank = ssn.get_submodule(f"{BANKS}.{layer.bank}")
            assert isinstance(bank, Bank)
            for name in (layer.name, *layer.aliases):
                found[name] = bank.generate(layer.name)
    return found


def generation_nodes(graph: fx.Graph) -> list[fx.Node]:
    return [
        n for n in graph.nodes if n.op == "call_module" and str(n.target).startswith(f"{BANKS}.")
    ]


class Calls:
    """Counts what banks make: (layer, whether only rows of it)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, bool]] = []
        make, make_all, rows = Bank._weight, Bank._generate_all, Bank._rows

        def count_make(bank: Bank, slot: Any) -> torch.Tensor:
            self.made.append((slot.layer.name, False))
            return make(bank, slot)

        def count_all(bank: Bank) -> dict[str, torch.Tensor]:
            weights = make_all(bank)
            if torch.is_grad_enabled():
                self.made.extend((name, False) for name in weights)
            return weights

        def count_rows(bank: Bank, slot: Any, ids: torch.Tensor) -> torch.Tensor:
            self.made.append((slot.layer.name, True))
            return rows(bank, slot, ids)

        monkeypatch.setattr(Bank, "_weight", count_make)
        monkeypatch.setattr(Bank, "_generate_all", count_all)
        monkeypatch.setattr(Bank, "_rows", count_rows)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(torch.relu(self.fc(x)))) + F.linear(x, self.fc.weight)


def test_generation_nodes_are_named_after_bank_and_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8)))
    ssn = npas.compile(model, 0.8, groups={"*": "shared"})
    nodes = generation_nodes(ssn.graph)
    assert [n.name for n in nodes] == ["shared__0_weight", "shared__2_0_weight"]
    assert [(n.target, n.args) for n in nodes] == [
        ("npas.banks.shared", ("0.weight",)),
        ("npas.banks.shared", ("2.0.weight",)),
    ]
    assert "shared__0_weight" in ssn.code


def test_a_generation_stands_right_before_its_first_use() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.8, groups="single")
    names = [node.name for node in ssn.graph.nodes]
    assert names == ["input_1", "b0__0_weight", "_0", "_1", "b0__2_weight", "_2", "output"]


def test_names_that_are_no_identifiers() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"a-b": nn.Linear(8, 8), "c d": nn.Linear(8, 8)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers.values():
                x = layer(x)
            return x

    model = Named()
    x = torch.randn(2, 8)
    ssn = npas.compile(model, 0.8, groups={"*": "1st bank!"})
    assert torch.equal(ssn(x), functional_call(model, generated(ssn), (x,)))
    for node in generation_nodes(ssn.graph):
        assert node.name.isidentifier()


def test_a_name_that_is_a_keyword_is_computed_or_refused() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"in": nn.Linear(8, 8), "out": nn.Linear(8, 8)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers["out"](self.layers["in"](x))

    # fx writes self.layers.in, which is no Python.
    try:
        ssn = npas.compile(Keyword(), 0.8, groups="single")
    except NpasError as error:
        assert "layers.in" in str(error)
    else:
        assert ssn(torch.randn(2, 8)).shape == (2, 8)


def test_a_weight_used_twice_is_generated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ssn = npas.compile(Twice(), 0.8, groups="single")
    assert len(generation_nodes(ssn.graph)) == 2
    calls = Calls(monkeypatch)
    ssn(torch.randn(3, 8))
    assert sorted(calls.made) == [("fc.weight", False), ("out.weight", False)]


def test_a_tied_weight_is_generated_once_and_used_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    ssn = npas.compile(model, 0.8, groups="single")
    nodes = generation_nodes(ssn.graph)
    assert [n.args for n in nodes] == [("0.weight",), ("1.weight",)]
    assert [user.target for user in nodes[0].users] == ["0", "2"]
    x = torch.randn(3, 8)
    expected = functional_call(model, generated(ssn), (x,), tie_weights=False)
    assert torch.equal(ssn(x), expected)


def test_both_modes_are_rewritten_and_one_graph_stays_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)) if self.training else self.a(x)

    model = Branching()
    traced = trace(model)
    found = rewrite(model, traced, npas.plan(model, 0.8, groups="single"))
    assert [len(generation_nodes(found.graphs[mode])) for mode in (True, False)] == [2, 1]
    plain = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    found = rewrite(plain, trace(plain), npas.plan(plain, 0.8, groups="single"))
    assert found.graphs[True] is found.graphs[False]


@pytest.mark.parametrize("schedule", ["layer", "bank"])
def test_graphs_are_lint_clean_and_the_traces_are_not_changed(schedule: str) -> None:
    model = nn.Sequential(nn.Embedding(40, 8), nn.LSTM(8, 8), Picks(), nn.Linear(8, 8))
    traced = trace(model)
    before = str(traced.graphs[True])
    plan = npas.plan(model, 0.8, groups="single")
    rewrite(model, traced, plan)
    assert str(traced.graphs[True]) == before
    ssn = npas.compile(model, plan=plan, schedule=schedule)
    for graph in ssn._graphs.values():
        graph.lint()


class Picks(nn.Module):
    """Takes the output of a recurrent layer."""

    def forward(self, x: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return x[0]


def test_an_embedding_generates_only_the_rows_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.8, groups="single")
    ids = torch.randint(0, 50, (3, 4))
    weight = generated(ssn)
    expected = functional_call(model, weight, (ids,))
    calls = Calls(monkeypatch)
    for mode in (True, False):
        assert torch.allclose(ssn.train(mode)(ids), expected, atol=1e-6)
    assert calls.made == [("0.weight", True), ("1.weight", False)] * 2
    assert [n.name for n in generation_nodes(ssn.graph)] == ["b0__0_weight_rows", "b0__1_weight"]


class Looped(nn.Module):
    """Has no graph: how long it runs depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.fc(self.embedding(ids))
        while x.sum() > 1e9:
            x = x / 2
        return x


@pytest.mark.parametrize("way", ["opaque", "in place"])
@pytest.mark.parametrize("hooked", [False, True])
def test_an_embedding_in_what_runs_whole_looks_up_rows_under_hooks_too(
    monkeypatch: pytest.MonkeyPatch, way: str, hooked: bool
) -> None:
    model = Looped()
    seen: list[torch.Size] = []
    if hooked:
        model.embedding.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    plan = npas.plan(model, 0.8, groups="single")
    ssn = npas.compile_(model, plan=plan) if way == "in place" else npas.compile(model, plan=plan)
    seen.clear()
    calls = Calls(monkeypatch)
    ssn(torch.randint(0, 50, (3, 4)))
    assert sorted(calls.made) == [("embedding.weight", True), ("fc.weight", False)]
    assert seen == [torch.Size([3, 4, 8])] * hooked


@pytest.mark.parametrize("padding", [None, 0, 3])
def test_an_embedding_in_an_exported_graph_looks_up_rows(
    monkeypatch: pytest.MonkeyPatch, padding: int | None
) -> None:
    model = nn.Sequential(nn.Embedding(50, 8, padding_idx=padding), nn.Linear(8, 8))
    ids = torch.randint(0, 50, (3, 4))
    ids[0, 0] = padding or 0
    ssn = npas.compile(model, 0.8, groups="single", frontend="export", example_inputs=(ids,))
    expected = functional_call(model, generated(ssn), (ids,))
    calls = Calls(monkeypatch)
    assert torch.allclose(ssn(ids), expected, atol=1e-6)
    assert ("0.weight", True) in calls.made and ("0.weight", False) not in calls.made


def test_a_hook_on_an_embedding_in_a_graph_still_runs() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
    seen: list[torch.Size] = []
    model[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    ssn = npas.compile(model, 0.8, groups="single")
    seen.clear()
    ssn(torch.randint(0, 50, (3, 4)))
    assert seen == [torch.Size([3, 4, 8])]


def test_no_whole_embedding_without_grad_either(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the whole vocabulary cached beside the other layers of its bank, an embedding would
    # cost the memory of the dense weight.
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.8, groups="single").eval()
    sizes: list[int] = []
    make_all = Bank._generate_all

    def count(bank: Bank) -> dict[str, torch.Tensor]:
        weights = make_all(bank)
        sizes.extend(w.numel() for w in weights.values())
        return weights

    monkeypatch.setattr(Bank, "_generate_all", count)
    with torch.no_grad():
        ssn(torch.randint(0, 50, (3, 4)))
    assert 400 not in sizes


@pytest.mark.parametrize("upsample", ["mask", "repeat", "inter"])
@pytest.mark.parametrize("budget", [200, 700])
def test_rows_are_those_of_the_whole_weight(upsample: str, budget: int) -> None:
    model = nn.Sequential(nn.Embedding(50, 10, padding_idx=3), nn.Linear(10, 10))
    ssn = npas.compile(model, budget, groups="single", upsample=upsample)
    ids = torch.tensor([[0, 3, 49], [3, 17, 3]])
    weight = generated(ssn)["0.weight"]
    (bank,) = banks(ssn).values()
    rows = bank("0.weight", rows=ids)
    assert isinstance(rows, torch.Tensor)
    assert torch.allclose(rows, weight[ids], atol=1e-6)
    assert not rows[0, 1].any() and not weight[3].any()


def test_rows_of_a_single_id_and_of_none() -> None:
    ssn = npas.compile(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8)), 0.8, groups="single")
    (bank,) = banks(ssn).values()
    assert bank("0.weight", rows=torch.tensor(4)).shape == (8,)
    assert bank("0.weight", rows=torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3, 8)


def test_an_id_out_of_range_is_refused() -> None:
    ssn = npas.compile(nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8)), 0.8, groups="single")
    for bad in (50, -1):
        with pytest.raises(IndexError):
            ssn(torch.tensor([bad]))


def test_the_padding_row_is_zero_and_gets_no_gradient() -> None:
    model = nn.Sequential(nn.Embedding(50, 8, padding_idx=7), nn.Linear(8, 8))
    ssn = npas.compile(model, 0.8, groups="single")
    (bank,) = banks(ssn).values()
    assert not bank.generate("0.weight")[7].any()
    bank("0.weight", rows=torch.tensor([7, 7])).sum().backward()
    assert bank.theta.grad is not None and not bank.theta.grad.any()
    bank.zero_grad()
    bank.generate("0.weight")[7].sum().backward()
    assert not bank.theta.grad.any()


def test_functional_lookups_are_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(50, 8))
            self.fc = nn.Linear(8, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.fc(F.embedding(ids, self.table)) + F.embedding(ids, self.table)

    model = Functional()
    ssn = npas.compile(model, 0.8, groups="single")
    ids = torch.randint(0, 50, (3, 4))
    expected = functional_call(model, generated(ssn), (ids,))
    calls = Calls(monkeypatch)
    assert torch.allclose(ssn(ids), expected, atol=1e-6)
    assert [row for row in calls.made if row[0] == "table"] == [("table", True)] * 2


@pytest.mark.parametrize(
    "options",
    [{"scale_grad_by_freq": True}, {"padding_idx": 2}, {"padding_idx": 2, "sparse": True}],
)
def test_functional_lookups_with_options_keep_them(options: dict[str, Any]) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(50, 8))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.embedding(ids, self.table, **options)

    model = Functional()
    ssn = npas.compile(model, 0.8, groups="single")
    ids = torch.randint(0, 50, (3, 4))
    assert torch.allclose(ssn(ids), functional_call(model, generated(ssn), (ids,)), atol=1e-6)
    assert any(n.target is F.embedding for n in ssn.graph.nodes)


def test_a_tied_embedding_and_head_take_one_full_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.fc = nn.Linear(8, 8)
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.fc(self.embedding(ids)))

    model = Tied()
    ssn = npas.compile(model, 0.8, groups="single")
    ids = torch.randint(0, 50, (3, 4))
    weights = generated(ssn)
    assert weights["embedding.weight"].equal(weights["head.weight"])
    expected = functional_call(model, weights, (ids,), tie_weights=False)
    calls = Calls(monkeypatch)
    assert torch.allclose(ssn(ids), expected, atol=1e-6)
    assert sorted(calls.made) == [("embedding.weight", False), ("fc.weight", False)]


class Apply(nn.Module):
    """Calls a module with several inputs and returns its first output."""

    def __init__(self, inner: nn.Module, n_inputs: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.n_inputs = n_inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(*[x] * self.n_inputs)
        return out[0] if isinstance(self.inner, _TUPLES) else out


_TUPLES = (nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)

_LEAVES: list[tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = [
    (lambda: nn.Linear(8, 9), lambda: torch.randn(3, 8)),
    (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), lambda: torch.randn(2, 4, 7)),
    (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        lambda: torch.randn(2, 4, 6, 6),
    ),
    (lambda: nn.Conv2d(4, 6, 3, padding="same"), lambda: torch.randn(2, 4, 6, 6)),
    (lambda: nn.Conv3d(2, 3, 2), lambda: torch.randn(2, 2, 3, 3, 3)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), lambda: torch.randn(2, 4, 5)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), lambda: torch.randn(2, 4, 5, 5)),
    (lambda: Apply(nn.LSTM(6, 5, 2, batch_first=True)), lambda: torch.randn(2, 4, 6)),
    (
        lambda: Apply(nn.LSTM(6, 8, proj_size=5, bidirectional=True)),
        lambda: torch.randn(4, 2, 6),
    ),
    (lambda: Apply(nn.GRU(6, 5, bidirectional=True)), lambda: torch.randn(4, 2, 6)),
    (lambda: Apply(nn.RNN(6, 5, nonlinearity="relu")), lambda: torch.randn(4, 2, 6)),
    (lambda: nn.GRUCell(6, 5), lambda: torch.randn(2, 6)),
    (lambda: Apply(nn.MultiheadAttention(8, 2), 3), lambda: torch.randn(4, 2, 8)),
    (
        lambda: Apply(nn.MultiheadAttention(8, 2, kdim=8, add_bias_kv=True), 3),
        lambda: torch.randn(4, 2, 8),
    ),
    (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        lambda: torch.randn(2, 4, 8),
    ),
    (
        lambda: Apply(nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0), 2),
        lambda: torch.randn(4, 2, 8),
    ),
    (lambda: nn.EmbeddingBag(20, 8, mode="mean"), lambda: torch.randint(0, 20, (3, 4))),
    (lambda: nn.EmbeddingBag(20, 8, padding_idx=1), lambda: torch.randint(0, 20, (3, 4))),
    (lambda: Apply(nn.Bilinear(6, 6, 5), 2), lambda: torch.randn(3, 6)),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("schedule", ["layer", "bank"])
@pytest.mark.parametrize(("make", "inputs"), _LEAVES)
def test_a_module_with_generated_weights_computes_what_it_computes(
    make: Callable[[], nn.Module], inputs: Callable[[], torch.Tensor], schedule: str, mode: bool
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), inputs()
    ssn = npas.compile(model, 0.9, groups="single", schedule=schedule).train(mode)
    model.train(mode)
    weights = generated(ssn)
    assert weights
    expected = functional_call(model, weights, (x,))
    found = ssn(x)
    assert torch.equal(found, expected)
    # Gradients reach the bank through whatever the module does.
    (bank,) = banks(ssn).values()
    (from_ssn,) = torch.autograd.grad(found.square().sum(), [bank.theta])
    (from_weights,) = torch.autograd.grad(expected.square().sum(), [bank.theta])
    assert torch.allclose(from_ssn, from_weights, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_without_grad_a_module_computes_the_same() -> None:
    for make, inputs in _LEAVES:
        torch.manual_seed(0)
        model, x = nn.Sequential(make()), inputs()
        ssn = npas.compile(model, 0.9, groups="single").eval()
        model.eval()
        with torch.no_grad():
            expected = functional_call(model, generated(ssn), (x,))
            assert torch.allclose(ssn(x), expected, atol=1e-5), type(model[0]).__name__


@pytest.mark.parametrize("groups", ["own", "single", "by_shape"])
def test_nothing_is_shared_with_the_original(groups: str) -> None:
    model = nn.Sequential(
        nn.Embedding(40, 8), nn.LSTM(8, 8), Picks(), nn.LayerNorm(8), nn.Linear(8, 8)
    )
    model.register_buffer("table", torch.randn(3))
    model.append(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(8, 8).requires_grad_(False)))
    ssn = npas.compile(model, 0.9 if groups == "single" else 1.0, groups=groups)
    theirs = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    ours = [*ssn.named_parameters(), *ssn.named_buffers()]
    for name, tensor in ours:
        assert tensor.untyped_storage().data_ptr() not in theirs, name
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for _, tensor in ours:
            tensor.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.LSTM(8, 8), Picks()))
    model[0].register_forward_hook(lambda *_: None)
    modules = dict(model.named_modules())
    keys = {name: sorted(m.__dict__) for name, m in modules.items()}
    parameters = {name: id(p) for name, p in model.named_parameters()}
    hooks = dict(model[0]._forward_hooks)
    ssn = npas.compile(model, 0.9, groups="single")
    ssn(torch.randn(2, 3, 8)).sum().backward()
    assert dict(model.named_modules()) == modules
    assert {name: sorted(m.__dict__) for name, m in modules.items()} == keys
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert dict(model[0]._forward_hooks) == hooks
    assert all(p.grad is None for p in model.parameters())
    assert not any(isinstance(m, Leaf | Bank) for m in model.modules())


def test_an_ordinary_bank_stays_a_parameter_of_its_module() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    ssn = npas.compile(model, 1.0, groups="own")
    assert generation_nodes(ssn.graph) == []
    assert [name for name, _ in ssn.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert type(ssn.get_submodule("0")) is nn.Linear
    assert not hasattr(ssn, "npas")


def test_a_model_with_an_attribute_npas() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.npas = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.npas(x)

    with pytest.raises(NpasError, match="attribute 'npas'"):
        npas.compile(Taken(), 0.9, groups="single")


def test_layers_of_one_bank_on_several_devices() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, device="meta"))
    with pytest.raises(NpasError, match=r"0\.weight is on cpu and 1\.weight on meta"):
        npas.compile(model, 0.8, groups="single")


def test_a_module_shared_by_two_parents() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            fc = nn.Linear(8, 8)
            self.a, self.b = nn.Sequential(fc, nn.ReLU()), nn.Sequential(fc, nn.Linear(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    model, x = Shared(), torch.randn(3, 8)
    ssn = npas.compile(model, 0.8, groups="single")
    assert len(generation_nodes(ssn.graph)) == 2
    expected = functional_call(model, generated(ssn), (x,), tie_weights=False)
    assert torch.equal(ssn(x), expected)
    assert ssn.get_submodule("a.0") is ssn.get_submodule("b.0")
    assert [n for n, _ in ssn.named_parameters() if "npas" not in n] == ["a.0.bias", "b.1.bias"]


def test_a_weight_that_is_read_beside_its_module() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) + self.fc.weight.square().sum()

    model, x = Reads(), torch.randn(3, 8)
    ssn = npas.compile(model, 0.9, groups="single")
    assert torch.allclose(ssn(x), functional_call(model, generated(ssn), (x,)))


def test_an_opaque_leaf_inside_an_opaque_leaf() -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2 if x.sum() < 1e9 else 3):
                x = self.fc(self.lstm(x)[0])
            return x

    model, x = nn.Sequential(nn.Linear(8, 8), Loops()), torch.randn(2, 3, 8)
    ssn = npas.compile(model, 0.9, groups="single")
    assert set(npas.report(ssn).leaves) == {"1"}
    assert torch.equal(ssn(x), functional_call(model, generated(ssn), (x,)))
