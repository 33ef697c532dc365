import copy
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import npas
from npas.bank import Bank
from npas.generation import Forward
from npas.module import Shapeshifter
from npas.passes import schedule
from npas.recompute import LiveWeights, Recipe, can_recompute, recompute_scope

pytestmark = pytest.mark.pure

D, DEPTH = 32, 6
X = torch.randn(4, D, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


@pytest.fixture
def dynamo() -> Iterator[None]:
    """Start and end without compiled code: what it may hold for one function is limited."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(depth: int = DEPTH) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(depth)))


def make(
    recompute: bool | str = "auto", budget: float = 0.3, depth: int = DEPTH, **options: Any
) -> Shapeshifter:
    model = network(depth)
    torch.manual_seed(1)
    return npas.compile(model, budget, **{"groups": "single", "recompute": recompute, **options})


def gradients(ssn: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    ssn.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in ssn.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected) and found
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class Accounting:
    """Counts what operations ask to keep, by storage, inside the module's own hooks."""

    def __init__(self, ssn: nn.Module) -> None:
        self.kept: dict[int, torch.UntypedStorage] = {}
        self.own = {p.untyped_storage().data_ptr() for p in ssn.parameters()}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    @property
    def n_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())


def saved_bytes(ssn: nn.Module) -> int:
    accounting = Accounting(ssn)
    with saved_tensors_hooks(accounting.pack, lambda tensor: tensor):
        loss = ssn(X).square().sum()
    loss.backward()
    return accounting.n_bytes


@pytest.mark.parametrize("schedule", ["layer", "bank"])
def test_generated_weights_are_not_kept_for_the_backward_pass(schedule: str) -> None:
    weights = DEPTH * 2 * 2 * D * D * 4
    kept = saved_bytes(make(False, schedule=schedule))
    remade = saved_bytes(make(True, schedule=schedule))
    # Made at once, the weights of a bank are views of one storage, which is made again whole.
    assert remade <= kept
    if schedule == "layer":
        assert kept - remade >= 0.95 * weights
        assert remade < 0.5 * weights


def test_saved_bytes_counts_what_is_kept() -> None:
    # The count above can fail: the original keeps only its own parameters and activations.
    assert 0 < saved_bytes(network()) < saved_bytes(make(False))


def test_auto_recomputes_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved_bytes(make("auto")) == saved_bytes(make(False)) > saved_bytes(make(True))
    sizes = schedule.generated_bytes(make()._npas.plan)
    for limit, most in (("KEPT_BYTES", sum(sizes)), ("KEPT_MEAN_BYTES", sum(sizes) / len(sizes))):
        with monkeypatch.context() as patch:
            patch.setattr(schedule, limit, most - 1)
            assert saved_bytes(make("auto")) == saved_bytes(make(True))
            patch.setattr(schedule, limit, most)
            assert saved_bytes(make("auto")) == saved_bytes(make(False))


@pytest.mark.parametrize(
    ("budget", "downsample"), [(0.05, "wavg"), (0.3, "emb"), (1.5, "wavg"), (1.0, "avg")]
)
def test_gradients_are_the_same_bits(budget: float, downsample: str) -> None:
    found = []
    for recompute in (True, False):
        ssn = make(recompute, budget, downsample=downsample)
        found.append(gradients(ssn, ssn(X).square().sum()))
    assert_same(*found)


@pytest.mark.parametrize("schedule", ["layer", "bank"])
def test_gradients_with_other_schedules_and_autocast(schedule: str) -> None:
    found = []
    for recompute in (True, False):
        ssn = make(recompute, schedule=schedule)
        with torch.autocast("cpu", torch.bfloat16):
            loss = ssn(X).float().square().sum()
        found.append(gradients(ssn, loss))
    assert_same(*found)


class Mixed(nn.Module):
    """Opaque leaves, convolutions, a lookup, tied weights, and a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.mha = nn.MultiheadAttention(16, 2, batch_first=True)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 16)
        self.w = nn.Parameter(torch.randn(16, 16) / 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        x = x + self.lstm(x)[0]
        x = x + self.mha(x, x, x)[0]
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        x = self.fc(torch.relu(self.fc(x)))
        return x @ self.w.t() + F.linear(x, self.fc.weight[:, :8].repeat(1, 2))


IDS = torch.randint(0, 30, (3, 5), generator=torch.Generator().manual_seed(0))


def mixed(recompute: bool | str = "auto", **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    model = Mixed()
    return npas.compile(model, 0.4, **{"groups": "single", "recompute": recompute, **options})


@pytest.mark.parametrize("schedule", ["layer", "bank"])
def test_gradients_of_every_kind_of_layer(schedule: str) -> None:
    found = []
    for recompute in (True, False):
        ssn = mixed(recompute, schedule=schedule)
        found.append(gradients(ssn, ssn(IDS).square().mean()))
    assert_same(*found)


@pytest.mark.parametrize("way", ["fx", "opaque", "in place"])
def test_small_weights_are_made_a_bank_at_a_time(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch a bank and pass, with the gradients of one a layer."""
    ways = {}
    for recompute in ("auto", True):
        torch.manual_seed(0)
        model = Mixed()
        options: dict[str, Any] = {"groups": "single", "recompute": recompute}
        if way == "in place":
            ways[recompute] = npas.compile_(model, 0.4, **options)
        else:
            ways[recompute] = npas.compile(model, 0.4, frontend=way, **options)
    expected = gradients(ways[True], ways[True](IDS).square().mean())
    calls: list[int] = []
    run = Forward.run
    monkeypatch.setattr(Forward, "run", lambda self, c: (calls.append(len(c)), run(self, c))[1])
    found = gradients(ways["auto"], ways["auto"](IDS).square().mean())
    # One for the embedding's rows, one for all other weights of the bank.
    assert len(calls) == 2
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_recompute_as_training_goes_on() -> None:
    states = []
    for recompute in (True, False):
        ssn = mixed(recompute)
        optimizer = torch.optim.AdamW(npas.param_groups(ssn, 0.1), lr=1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            ssn(IDS).square().mean().backward()
            optimizer.step()
        states.append(ssn.state_dict())
    assert_same(*states)


def test_a_weight_that_every_step_uses_is_made_again_once_a_backward_pass() -> None:
    gru = nn.GRU(8, 8)
    plan = npas.plan(gru, "200%", groups="single")
    assert all(layer.k > 1 for layer in plan.layers)
    ssn = npas.compile(gru, plan=plan, recompute=True)
    loss = ssn(torch.randn(5, 3, 8, requires_grad=True))[0].square().mean()
    for retain in (True, False):
        with FlopCounterMode(display=False) as counter:
            loss.backward(retain_graph=retain)
        counts = counter.get_flop_counts()["Global"]
        assert counts[torch.ops.npas.combine] == 2 * plan.generation_macs


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = x + self.down(F.gelu(self.up(x)))
        return x


@pytest.mark.parametrize("way", ["fx", "opaque", "in place"])
def test_a_layer_that_is_called_again_is_made_once_a_pass(way: str) -> None:
    model = Looped()
    plan = npas.plan(model, "150%", groups="single")
    ssn: nn.Module
    if way == "in place":
        ssn = npas.compile_(model, plan=plan, recompute=True)
    else:
        ssn = npas.compile(model, plan=plan, frontend=way, recompute=True)
    ssn(X)  # an opaque module learns in its first pass what is called again
    with FlopCounterMode(display=False) as counter:
        loss = ssn(X).square().mean()
        made = dict(counter.get_flop_counts()["Global"])
        loss.backward()
        again = counter.get_flop_counts()["Global"]
    combine = torch.ops.npas.combine
    assert made[combine] == again[combine] - made[combine] == 2 * plan.generation_macs


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x), self.b(x)


@pytest.mark.parametrize("options", [{}, {"schedule": "bank"}, {"recompute": True}])
@pytest.mark.parametrize("budget", [0.3, 0.7, 1.5])
def test_one_loss_after_the_other_without_retaining_the_graph(
    options: dict[str, Any], budget: float
) -> None:
    """As the original can: what the two share is the bank alone."""
    torch.manual_seed(0)
    ssn = npas.compile(Heads(), budget, groups="single", **options)
    together = sum(out.square().mean() for out in ssn(X))
    assert isinstance(together, torch.Tensor)
    together.backward()
    expected = {n: p.grad.clone() for n, p in ssn.named_parameters() if p.grad is not None}
    ssn.zero_grad()
    for out in ssn(X):
        out.square().mean().backward()
    found = {n: p.grad for n, p in ssn.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_two_backward_passes_through_one_graph() -> None:
    ssn = make(True)
    loss = ssn(X).square().sum()
    loss.backward(retain_graph=True)
    first = {n: p.grad.clone() for n, p in ssn.named_parameters() if p.grad is not None}
    assert_same(gradients(ssn, loss), first)


def test_two_forwards_before_their_backwards() -> None:
    found = []
    for recompute in (True, False):
        ssn = make(recompute)
        a, b = ssn(X), ssn(X * 2)
        found.append(gradients(ssn, (a * b).sum()))
    assert_same(*found)


@pytest.mark.parametrize("name", ["theta", "alpha", "gain"])
def test_a_bank_changed_between_forward_and_backward(name: str) -> None:
    ssn = make(True, budget=1.5)
    (bank,) = (m for m in ssn.modules() if isinstance(m, Bank))
    loss = ssn(X).square().sum()
    with torch.no_grad():
        getattr(bank, name).mul_(1.5)
    with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
        loss.backward()


def test_the_error_says_what_to_do() -> None:
    ssn = make(True)
    (bank,) = (m for m in ssn.modules() if isinstance(m, Bank))
    loss = ssn(X).square().sum()
    with torch.no_grad():
        bank.theta.add_(1)
    with pytest.raises(RuntimeError, match=r"call backward before optimizer\.step\(\)"):
        loss.backward()


def test_another_saved_tensor_changed_in_place_is_still_noticed() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.sigmoid(self.a(x))
            out = self.b(hidden)
            hidden.mul_(2)
            return out + hidden

    ssn = npas.compile(Changes(), 0.7, groups="single", recompute=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        ssn(X).sum().backward()


def test_eval_with_grad_recomputes_too() -> None:
    ssn = make(True).eval()
    assert saved_bytes(ssn) < saved_bytes(make(False).eval())


def test_activation_checkpointing_around_it() -> None:
    ssn, plain = mixed(True), mixed(False)
    found = checkpoint(ssn, IDS, use_reentrant=False)
    assert isinstance(found, torch.Tensor)
    assert_same(gradients(ssn, found.square().mean()), gradients(plain, plain(IDS).square().mean()))


def test_activation_checkpointing_inside_it() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() < -1e9:  # opaque
                return x
            out = checkpoint(self.inner, x, use_reentrant=False)
            assert isinstance(out, torch.Tensor)
            return out

    torch.manual_seed(0)
    model = nn.Sequential(*(Checkpointed() for _ in range(3)))
    found = []
    for recompute in (True, False):
        torch.manual_seed(1)
        ssn = npas.compile(model, 0.4, groups="single", recompute=recompute)
        found.append(gradients(ssn, ssn(X).square().sum()))
    assert_same(*found)


def test_an_outer_hook_sees_what_is_kept_and_no_generated_weight() -> None:
    ssn = make(True)
    packed: list[int] = []
    unpacked: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor.numel())
        return tensor.clone()

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        unpacked.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, unpack):
        loss = ssn(X).square().sum()
    found = gradients(ssn, loss)
    assert packed and unpacked
    assert 2 * D * D not in packed
    plain = make(True)
    assert_same(found, gradients(plain, plain(X).square().sum()))


def test_saving_on_the_cpu() -> None:
    ssn, plain = make(True), make(False)
    with save_on_cpu():
        loss = ssn(X).square().sum()
    assert_same(gradients(ssn, loss), gradients(plain, plain(X).square().sum()))


def test_inner_hooks_are_gone_after_the_call() -> None:
    ssn = make(True)
    seen: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        ssn(X)
        seen.clear()
        a = torch.ones(2, requires_grad=True)
        (a * a).sum().backward()
    assert len(seen) == 2
    with pytest.raises(RuntimeError):
        ssn(torch.randn(2, D + 1))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        seen.clear()
        (a * a).sum()
    assert len(seen) == 2


def test_hooks_disabled_by_the_user() -> None:
    # torch.func and some offloading code turn saved-tensor hooks off with a message.
    ssn = make(True)
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        loss = ssn(X).square().sum()
    plain = make(False)
    assert_same(gradients(ssn, loss), gradients(plain, plain(X).square().sum()))


def functional_loss(ssn: nn.Module, x: torch.Tensor) -> Callable[..., torch.Tensor]:
    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor = x) -> torch.Tensor:
        return functional_call(ssn, parameters, (x,)).square().sum()

    return loss


def test_functorch_grad() -> None:
    ssn = make("auto")
    parameters = {n: p.detach() for n, p in ssn.named_parameters()}
    found = grad(functional_loss(ssn, X))(parameters)
    expected = gradients(ssn, ssn(X).square().sum())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_functorch_per_sample_gradients() -> None:
    ssn = make("auto")
    parameters = {n: p.detach() for n, p in ssn.named_parameters()}
    per_sample = vmap(grad(functional_loss(ssn, X)), in_dims=(None, 0))(parameters, X)
    expected = gradients(ssn, ssn(X).square().sum())
    for name, value in expected.items():
        torch.testing.assert_close(per_sample[name].sum(0), value, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(("mode", "schedule"), [(True, "layer"), (False, "bank")])
def test_torch_compile(mode: bool, schedule: str) -> None:
    ssn = make("auto", 0.7, depth=2, schedule=schedule).train(mode)
    compiled = torch.compile(ssn, backend="aot_eager", fullgraph=True)
    expected = gradients(ssn, ssn(X).square().sum())
    found = gradients(ssn, compiled(X).square().sum())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), ssn(X))


class Compiled:
    """A backend of torch.compile that runs the graphs as they are and keeps them."""

    def __init__(self) -> None:
        self.forward: list[fx.GraphModule] = []
        self.backward: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, inputs: Any) -> Any:
        def keep(kind: list[fx.GraphModule]) -> Any:
            return lambda made, _: (kind.append(made), make_boxed_func(made.forward))[1]

        compile_both = aot_autograd(
            fw_compiler=keep(self.forward),
            bw_compiler=keep(self.backward),
            partition_fn=min_cut_rematerialization_partition,
        )
        return compile_both(graph, inputs)

    def saved(self) -> set[tuple[int, ...]]:
        """Return the shapes of what is kept for the backward pass."""
        (graph,) = self.forward
        (output,) = graph.graph.find_nodes(op="output")
        values = (node.meta.get("val") for node in output.all_input_nodes)
        return {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}

    def generated(self) -> tuple[int, int]:
        """Count generations in the forward and in the backward graph."""
        target = torch.ops.npas.combine.default
        (forward,), (backward,) = self.forward, self.backward
        both = (forward, backward)
        made = [g.graph.find_nodes(op="call_function", target=target) for g in both]
        return len(made[0]), len(made[1])


@pytest.mark.usefixtures("dynamo")
def test_a_compiled_backward_pass_makes_the_weights_again() -> None:
    compiled = {}
    for recompute in (True, False):
        torch._dynamo.reset()
        ssn, backend = make(recompute, depth=2), Compiled()
        loss = torch.compile(ssn, backend=backend, fullgraph=True)(X).square().sum()
        found = gradients(ssn, loss)
        for name, value in gradients(ssn, ssn(X).square().sum()).items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
        compiled[recompute] = backend
    weights = {(D, 2 * D), (2 * D, D), (2 * D * D,)}
    assert compiled[True].generated() == (4, 4) and not compiled[True].saved() & weights
    assert compiled[False].generated() == (4, 0) and compiled[False].saved() & weights


@pytest.mark.usefixtures("dynamo")
def test_compiled_recomputation_with_batch_norm_dropout_and_changes_in_place() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
            self.norm, self.relu = nn.BatchNorm1d(8), nn.ReLU(inplace=True)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.norm(self.a(x)))
            y = self.b(x)
            y += x
            return self.drop(torch.relu_(y))

    torch.manual_seed(0)
    ssn = npas.compile(Net(), 0.7, groups="single")
    x = torch.randn(3, 4, 6)
    start = copy.deepcopy(ssn.state_dict())
    found = []
    for call in (ssn, torch.compile(ssn, backend="aot_eager", fullgraph=True)):
        ssn.load_state_dict(start)
        torch.manual_seed(1)
        grads = gradients(ssn, call(x).square().sum())
        found.append(grads | {name: b.clone() for name, b in ssn.named_buffers()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("dynamo")
def test_torch_compile_of_opaque_leaves_and_lookups() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 16, padding_idx=0)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
            self.conv = nn.ConvTranspose1d(16, 16, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.conv(self.layer(self.embedding(ids)).transpose(1, 2))

    torch.manual_seed(0)
    ssn = npas.compile(Attends(), 0.4, groups="single")
    compiled = torch.compile(ssn, backend="aot_eager", fullgraph=True)
    expected = gradients(ssn, ssn(IDS).square().mean())
    found = gradients(ssn, compiled(IDS).square().mean())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.usefixtures("dynamo")
def test_a_change_of_the_bank_is_seen_by_a_compiled_graph() -> None:
    ssn = make("auto", 0.9, depth=1).eval()
    compiled = torch.compile(ssn, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        before = compiled(X)
        for parameter in ssn.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(compiled(X), ssn(X))
        assert not torch.allclose(compiled(X), before)


class OpaqueNet(nn.Module):
    """Leaves with children, which functional_call would swap weights in."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(3)
        )
        self.lstm = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.lstm(x)[0]


def in_threads(n: int, task: Callable[[int], None]) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(n)

    def run(i: int) -> None:
        try:
            barrier.wait()
            task(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_two_threads_on_one_module(with_grad: bool, mode: bool) -> None:
    torch.manual_seed(0)
    ssn = npas.compile(OpaqueNet(), 0.3, groups="single").train(mode)
    assert npas.report(ssn).leaves is not None
    inputs = [torch.randn(2, 12, 16) for _ in range(2)]
    with torch.set_grad_enabled(with_grad):
        expected = [ssn(x).detach() for x in inputs]

    def task(i: int) -> None:
        with torch.set_grad_enabled(with_grad):
            for _ in range(15):
                assert torch.allclose(ssn(inputs[i]), expected[i], rtol=1e-4, atol=1e-5)

    in_threads(2, task)


def test_two_threads_that_take_gradients() -> None:
    torch.manual_seed(0)
    ssn = npas.compile(OpaqueNet(), 0.3, groups="single")
    inputs = [torch.randn(2, 12, 16) for _ in range(2)]
    parameters = list(ssn.parameters())

    def found(i: int) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(ssn(inputs[i]).square().sum(), parameters)

    expected = [found(i) for i in range(2)]

    def task(i: int) -> None:
        for _ in range(8):
            for a, b in zip(found(i), expected[i], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    in_threads(2, task)


def test_live_weights_forget_a_weight_that_is_gone() -> None:
    ssn = make(True)
    live = ssn._npas.live
    loss = ssn(X).square().sum()
    del loss
    gc.collect()
    assert live._recipes == {}
    assert live._recipes is not copy.deepcopy(live)._recipes


def test_a_storage_address_that_is_used_again_is_not_taken_for_a_weight() -> None:
    live = LiveWeights()
    source = torch.ones(4, requires_grad=True)

    def recipe() -> Recipe:
        return Recipe(lambda: torch.full((4,), 7.0), (source,), (source._version,), "w")

    for _ in range(50):
        weight = source * 7
        live.add(weight, recipe())
        assert live.find(weight) is not None
        assert live.find(weight.view(2, 2)) is not None
        del weight
        other = torch.zeros(4)
        assert live.find(other) is None
        a = torch.full((4,), 3.0, requires_grad=True)
        with recompute_scope(live):
            out = a * a
        out.sum().backward()
        assert a.grad is not None and a.grad.tolist() == [6.0] * 4


def test_a_view_of_a_weight_that_outlives_it_is_kept_or_made_again_rightly() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3 * D, D) / D**0.5)
            self.b = nn.Parameter(torch.randn(3 * D, D) / D**0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.w.chunk(3)
            tail = self.b.t()[:, D:].contiguous().view(D, 2, D)[:, 1]
            return (x @ q.t()) * (x @ k.t()) + x @ v + x @ tail

    torch.manual_seed(0)
    model = Views()
    found = []
    for recompute in (True, False):
        torch.manual_seed(1)
        ssn = npas.compile(model, 0.4, groups="single", recompute=recompute)
        found.append(gradients(ssn, ssn(X).square().sum()))
    assert_same(*found)


def test_can_recompute() -> None:
    assert can_recompute()
    with torch.no_grad():
        assert not can_recompute()
    seen: list[bool] = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        seen.append(can_recompute())
        return x.sum()

    grad(loss)(torch.ones(2))
    assert seen == [False]


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_recompute_is_auto_or_a_truth_value(wrong: Any) -> None:
    with pytest.raises(npas.NpasError, match="recompute="):
        make(wrong)
