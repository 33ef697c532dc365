"""What generates weights: Triton kernels, PyTorch's operators, the definitions."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import npas
from npas.bank import banks_of
from npas.kernels import backends
from npas.kernels.backends import choose
from npas.kernels.launch import Launch
from npas.module import Shapeshifter
from npas.recompute import LiveWeights


class Tiny(nn.Module):
    """An embedding, convolutions, linear layers: each of the ops, with a small enough budget."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.Linear(16, 40)
        self.down = nn.Linear(40, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(x)))


IDS = torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(0))
# One bank of every layer: templates; then a bank smaller than its largest layers: tiles too.
CASES = [
    pytest.param({"budget": 0.6, "groups": "single"}, {"combine", "gather_combine"}, id="wavg"),
    pytest.param(
        {"budget": 0.6, "groups": "single", "downsample": "emb"},
        {"combine", "gather_combine"},
        id="emb",
    ),
    pytest.param(
        {"budget": 0.2, "groups": "single"}, {"gather_combine", "tile_mask"}, id="small budget"
    ),
    pytest.param(
        {"budget": 0.12, "groups": "single", "upsample": "repeat"},
        {"gather_tile_mask", "tile_mask"},
        id="smaller budget, repeat",
    ),
]


def make(backend: str, **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    model = Tiny()
    torch.manual_seed(1)
    return npas.compile(model, backend=backend, **options)


def step(ssn: nn.Module) -> list[torch.Tensor]:
    """Return the output, every gradient, and every parameter after a step."""
    optimizer = torch.optim.AdamW(ssn.parameters(), lr=1e-2)
    out = ssn(IDS)
    out.square().sum().backward()
    gradients = [p.grad.clone() for p in ssn.parameters() if p.grad is not None]
    optimizer.step()
    return [out.detach(), *gradients, *(p.detach().clone() for p in ssn.parameters())]


@pytest.mark.interpret
@pytest.mark.parametrize(("options", "ops"), CASES)
def test_a_training_step_with_triton_is_the_references(
    options: dict[str, Any], ops: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []
    run = Launch.run
    monkeypatch.setattr(Launch, "run", lambda launch: (launched.append(launch.name), run(launch)))
    found = step(make("triton", **options))
    assert launched
    launched.clear()
    expected = step(make("reference", **options))
    assert not launched
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(step(make("eager", **options)), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.interpret
@pytest.mark.parametrize(("options", "ops"), CASES)
def test_the_kernels_are_in_the_graph(options: dict[str, Any], ops: set[str]) -> None:
    ssn = make("triton", **options)
    parameters = {name: p.detach() for name, p in ssn.named_parameters()}

    def gradients(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.func.functional_call(ssn, parameters, (IDS,)).square().sum()

        return torch.func.grad(loss)(parameters)

    graph = make_fx(gradients)(parameters).graph
    found = [n for n in graph.nodes if str(n.target).startswith("npas.")]
    names = [str(n.target).split(".")[1] for n in found]
    generated = sum(len(bank.layer_names()) for bank in banks_of(ssn).values())
    forward = [name for name in names if not name.endswith("_backward")]
    assert set(forward) == ops
    # Every layer of the network is generated: once, and its gradient once.
    assert len(forward) == generated and len(names) == 2 * generated
    assert all("triton" in n.args for n in found)


@pytest.mark.interpret
def test_one_launch_a_bank_without_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    run = Launch.run
    ssn = make("triton", budget=0.6, groups="single").eval()
    monkeypatch.setattr(Launch, "run", lambda launch: (launched.append(launch.name), run(launch)))
    with torch.no_grad():
        ssn(IDS)
    assert launched.count("combine_forward") == 1
    whole = npas.compile(Tiny(), 0.6, groups="single", backend="triton", schedule="bank")
    launched.clear()
    whole(IDS).sum().backward()
    assert launched.count("combine_forward") == 1
    assert launched.count("combine_backward") == 1
    assert launched.count("add_sums") <= 2  # and one for the embedding's rows


@pytest.mark.interpret
def test_copies_and_files_keep_the_kernels(tmp_path: Path) -> None:
    ssn = make("triton", budget=0.6, groups="single")
    out = ssn(IDS)
    assert torch.equal(copy.deepcopy(ssn)(IDS), out)
    npas.save(ssn, tmp_path / "saved")
    loaded = npas.load(tmp_path / "saved", Tiny, backend="triton")
    assert torch.equal(loaded(IDS), out)
    assert {bank._backend for bank in banks_of(loaded).values()} == {"triton"}
    other = npas.load(tmp_path / "saved", Tiny)
    torch.testing.assert_close(other(IDS), out, rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_the_definition_has_second_derivatives() -> None:
    ssn = make("reference", budget=0.6, groups="single").double()
    parameters = [p for p in ssn.parameters() if p.requires_grad]
    first = torch.autograd.grad(ssn(IDS).square().sum(), parameters, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), parameters, allow_unused=True)
    assert any(g is not None and g.any() for g in second)


@pytest.mark.pure
@pytest.mark.parametrize("recompute", [True, False])
def test_no_second_derivative_through_the_ops(recompute: bool) -> None:
    ssn = make("auto", budget=0.6, groups="single", recompute=recompute)
    theta = next(iter(banks_of(ssn).values())).theta
    (first,) = torch.autograd.grad(ssn(IDS).square().sum(), [theta], create_graph=True)
    with pytest.raises(NotImplementedError, match="compile with backend='reference'"):
        first.square().sum().backward()


@pytest.mark.pure
def test_a_gradient_penalty_on_the_input_needs_first_derivatives_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(1)
        ssn = npas.compile(model, 0.8, groups="single", backend=backend).double()
        x = torch.linspace(-1, 1, 16, dtype=torch.float64).view(2, 8).requires_grad_()
        (slope,) = torch.autograd.grad(ssn(x).square().sum(), [x], create_graph=True)
        slope.square().sum().backward()
        found.append([p.grad for p in ssn.parameters()])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.pure
@pytest.mark.parametrize("frozen", ["theta", "alpha", "mask"])
def test_a_frozen_part_of_a_bank_gets_no_gradient(frozen: str) -> None:
    options = {"budget": 0.2 if frozen == "mask" else 0.6, "groups": "single"}
    found = []
    for backend in ("auto", "reference"):
        ssn = make(backend, **options)
        (bank,) = banks_of(ssn).values()
        getattr(bank, frozen).requires_grad_(False)
        ssn(IDS).square().sum().backward()
        assert getattr(bank, frozen).grad is None
        found.append({n: p.grad for n, p in ssn.named_parameters() if p.grad is not None})
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_gradients_of_some_parameters_leave_nothing_behind() -> None:
    ssn = make("auto", budget=0.6, groups="single")
    (bank,) = banks_of(ssn).values()
    assert bank.alpha is not None
    out = ssn(IDS).square().sum()
    (alone,) = torch.autograd.grad(out, [bank.alpha], retain_graph=True)
    (first,) = torch.autograd.grad(out, [ssn.get_parameter("up.bias")], retain_graph=True)
    out.backward()
    assert bank.alpha.grad is not None and torch.equal(bank.alpha.grad, alone)
    bias = ssn.get_parameter("up.bias")
    assert bias.grad is not None and torch.equal(bias.grad, first)
    plain = make("auto", budget=0.6, groups="single")
    plain(IDS).square().sum().backward()
    for one, other in zip(ssn.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.pure
def test_a_backward_pass_in_two_parts() -> None:
    ssn = make("auto", budget=0.6, groups="single")
    out = ssn(IDS)
    parts = out.square().sum(), out.sum()
    parts[0].backward(retain_graph=True)
    parts[1].backward()
    other = make("auto", budget=0.6, groups="single")
    out = other(IDS)
    (out.square().sum() + out.sum()).backward()
    for one, two in zip(ssn.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_hooks_on_a_bank_see_its_whole_gradient_once() -> None:
    ssn = make("auto", budget=0.6, groups="single")
    (bank,) = banks_of(ssn).values()
    seen: list[torch.Tensor] = []
    bank.theta.register_hook(lambda grad: seen.append(grad.clone()))
    ssn(IDS).square().sum().backward()
    assert len(seen) == 1 and bank.theta.grad is not None
    assert torch.equal(seen[0], bank.theta.grad)


@pytest.mark.pure
def test_one_part_of_a_bank_in_a_forward_pass() -> None:
    live = LiveWeights()
    ssn = make("auto", budget=0.6, groups="single")
    (bank,) = banks_of(ssn).values()
    with live.forward_pass():
        one = live.forward_of(bank)
        assert live.forward_of(bank) is one
        with live.forward_pass():
            assert live.forward_of(bank) is not one
        assert live.forward_of(bank) is one
    assert live.forward_of(bank) is not one


@pytest.mark.pure
def test_what_auto_is() -> None:
    bank = torch.empty(4)
    assert choose("combine", "auto", bank) == "eager"
    assert choose("combine", "eager", bank) == "eager"

    class OnGpu:
        device = torch.device("cuda")
        dtype = torch.float32

    gpu: Any = OnGpu()
    assert choose("combine", "auto", gpu) == "triton"
    gpu.dtype = torch.float64
    assert choose("combine", "auto", gpu) == "eager"
    with pytest.raises(npas.NpasError, match=r"combine: the Triton kernels take float32.*float64"):
        choose("combine", "triton", gpu)


@pytest.mark.pure
def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        device = torch.device("cuda")
        dtype = torch.float32

    gpu: Any = OnGpu()
    monkeypatch.setattr(backends, "triton_installed", lambda: False)
    backends._say_once.cache_clear()
    with pytest.warns(npas.NpasWarning, match="triton is not installed"):
        assert choose("combine", "auto", gpu) == "eager"
    assert choose("combine", "auto", gpu) == "eager"  # said once
    with pytest.raises(npas.NpasError, match="needs the package triton"):
        make("triton", budget=0.6)
    backends._say_once.cache_clear()


@pytest.mark.pure
def test_triton_on_a_cpu_without_its_interpreter() -> None:
    code = (
        "import npas, torch\n"
        "try: npas.compile(torch.nn.Linear(4, 4), 0.9, backend='triton')\n"
        "except npas.NpasError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(Path(npas.__file__).parents[1])},
    )
    assert "compile: backend='triton' cannot run: on a CPU" in done.stdout, done.stderr
    assert "set TRITON_INTERPRET=1" in done.stdout


@pytest.mark.interpret
@pytest.mark.parametrize("backend", ["triton", "eager"])
def test_exported_and_compiled_graphs_hold_the_ops(backend: str) -> None:
    ssn = make(backend, budget=0.6, groups="single")
    n_layers = sum(len(bank.layer_names()) for bank in banks_of(ssn).values())
    expected = ssn(IDS)
    exported = torch.export.export(ssn, (IDS,))
    ops = [n for n in exported.graph.nodes if isinstance(n.target, OpOverload)]
    ours = [n for n in ops if n.target.namespace == "npas"]
    assert len(ours) == n_layers and all(backend in n.args for n in ours)
    torch.testing.assert_close(exported.module()(IDS), expected)
    torch._dynamo.reset()
    compiled = torch.compile(ssn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS), expected)
    torch._dynamo.reset()


@pytest.mark.pure
@pytest.mark.parametrize(("budget", "recompute"), [(0.6, True), (0.6, False), (0.2, False)])
def test_a_training_steps_flops_are_the_ops(budget: float, recompute: bool) -> None:
    ssn = make("auto", budget=budget, groups="single", recompute=recompute)
    with FlopCounterMode(display=False) as counter:
        ssn(IDS).square().sum().backward()
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    plan = ssn._npas.plan
    whole = {x.name: x for x in plan.layers if x.name != "embedding.weight"}
    forward = sum(2 * x.k * x.n for x in whole.values() if x.k)
    tiled = sum(2 * x.n for x in whole.values() if not x.k)
    assert (forward, tiled)[budget < 0.5]
    times = 2 if recompute else 1
    assert counted.get("npas.combine", 0) == times * forward
    assert counted.get("npas.tile_mask", 0) == times * tiled
    # Without learned coefficients (one template) there is only the bank's gradient.
    learned = sum(2 * x.k * x.n for x in whole.values() if x.has_coefficients)
    assert counted.get("npas.combine_accumulate", 0) == forward + learned
    assert counted.get("npas.tile_mask_accumulate", 0) == 2 * tiled
    rows = plan.layer_by_name["embedding.weight"]
    assert counted["npas.gather_combine"] == 2 * rows.k * IDS.numel() * 8
