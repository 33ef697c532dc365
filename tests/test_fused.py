"""Products that generate their weight on the way, in a compiled module."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.bank import banks_of
from npas.deferred import Deferred
from npas.kernels.combine_linear import cost
from npas.kernels.launch import Launch
from npas.module import Shapeshifter

EAGER = pytest.param("eager", marks=pytest.mark.pure)
BACKENDS = [EAGER, pytest.param("triton", marks=pytest.mark.interpret)]


class Squeezed(nn.Module):
    """A squeeze-and-excitation block: pointwise convolutions of one pixel, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 16, 1, bias=False)
        self.up = nn.Conv2d(16, 16, 1)
        self.skip = nn.Conv2d(16, 16, 1, stride=2)
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        x = self.skip(x).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


X = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))
FUSED = ["down.weight", "up.weight", "skip.weight", "hidden.weight", "head.weight"]


def make(schedule: str, backend: str = "auto", **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    model = Squeezed()
    torch.manual_seed(1)
    # Small weights would be made a bank at a time and kept.
    options = {"budget": 0.8, "groups": "single", "k": 3, "recompute": True} | options
    return npas.compile(model, schedule=schedule, backend=backend, **options)


def results(ssn: nn.Module, x: torch.Tensor = X) -> list[torch.Tensor]:
    """Return the output and every gradient, the input's too."""
    x = x.clone().requires_grad_()
    out = ssn(x)
    out.square().sum().backward()
    return [out, x.grad, *(p.grad for p in ssn.parameters())]  # pyright: ignore


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the layers whose products are made without their weights."""
    from npas.bank import Bank

    seen: list[str] = []
    product = Bank._product

    def recorded(bank: Bank, slot: Any, *args: Any) -> torch.Tensor:
        seen.append(slot.layer.name)
        return product(bank, slot, *args)

    monkeypatch.setattr(Bank, "_product", recorded)
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"downsample": "emb"}, {"downsample": "avg"}, {"k": 1}])
def test_outputs_and_gradients_are_those_of_written_weights(
    backend: str, options: dict[str, Any], products: list[str]
) -> None:
    fused = make("fused", backend, **options)
    found = results(fused)
    plan = fused._npas.plan
    wanted = [n for n in FUSED if (x := plan.layer_by_name[n]).k == 1 or x.stride >= x.n]
    assert products == wanted and products
    torch.testing.assert_close(found, results(make("layer", **options)), rtol=1e-4, atol=1e-4)
    again = results(make("fused", backend, **options))
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.interpret
def test_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    run = Launch.run
    monkeypatch.setattr(Launch, "run", lambda launch: (launched.append(launch.name), run(launch)))
    ssn = make("fused", "triton")
    launched.clear()
    results(ssn)
    n = sum(name in FUSED for bank in banks_of(ssn).values() for name in bank.layer_names())
    assert launched.count("multiply") == 2 * n and launched.count("weight_gradient") == n
    # The one weight that is written: made, and made again for the backward pass.
    assert launched.count("combine_forward") == 2 and launched.count("combine_backward") == 1


@pytest.mark.pure
def test_nothing_is_fused_on_a_cpu_by_itself(products: list[str]) -> None:
    results(make("auto"))
    assert products == []


@pytest.mark.interpret
def test_where_it_pays(monkeypatch: pytest.MonkeyPatch, products: list[str]) -> None:
    """On a GPU, by the cost model: few rows. Here the device's part in it is left out."""
    ssn = make("auto", "triton")
    (bank,) = banks_of(ssn).values()
    monkeypatch.setattr(type(bank), "_can_fuse", lambda bank, slot, always: slot.layer.k > 0)
    pays = cost.fusing_pays

    def on_a_gpu(*size: int, training: bool, device: torch.device) -> bool:
        return pays(*size, training=training, device=torch.device("cuda"))

    monkeypatch.setattr("npas.bank.fusing_pays", on_a_gpu)
    found = results(ssn, torch.cat([X] * 12))
    # The strided convolution has 48 * 4 * 3 rows, more than pay with three templates.
    assert products == [name for name in FUSED if name != "skip.weight"]
    torch.testing.assert_close(
        found, results(make("layer"), torch.cat([X] * 12)), rtol=1e-3, atol=1e-3
    )


@pytest.mark.pure
def test_channels_last_is_kept() -> None:
    x = X.to(memory_format=torch.channels_last)
    (bank,) = banks_of(make("fused")).values()
    pixels = torch.randn(2, 16, 3, 5).to(memory_format=torch.channels_last)
    for given in (pixels, pixels.contiguous()):
        made = Deferred(bank, "up.weight", always=True).conv1x1(given, (1, 1))
        assert made is not None and made.stride() == given.stride()
    torch.testing.assert_close(make("fused")(x), make("layer")(X), rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_an_image_without_a_batch_is_convolved_with_the_weight() -> None:
    (bank,) = banks_of(make("fused")).values()
    assert Deferred(bank, "up.weight", always=True).conv1x1(torch.ones(16, 3, 5), (1, 1)) is None


@pytest.mark.pure
def test_autocast(products: list[str]) -> None:
    found = []
    for schedule in ("fused", "layer"):
        ssn = make(schedule)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(results(ssn))
    assert products == FUSED and found[0][0].dtype == found[1][0].dtype == torch.bfloat16
    torch.testing.assert_close(*found, rtol=5e-2, atol=5e-2)


@pytest.mark.pure
@pytest.mark.parametrize("grad", [True, False])
def test_evaluation_uses_the_cached_weights_without_grad(grad: bool, products: list[str]) -> None:
    ssn = make("fused").eval()
    with torch.set_grad_enabled(grad):
        out = ssn(X)
    assert bool(products) == grad
    torch.testing.assert_close(out, npas.materialize(ssn)(X), rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_hooks_see_a_layer_that_is_fused() -> None:
    ssn = make("fused")
    seen: list[torch.Size] = []
    layer = ssn.get_submodule("hidden")
    layer.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    results(ssn)
    assert seen == [torch.Size([4, 32])]


@pytest.mark.pure
def test_the_wrong_dtype_is_pytorchs_error() -> None:
    with pytest.raises(RuntimeError, match="same dtype"):
        make("fused").get_submodule("head")(
            torch.ones(2, 32).double(),
            generated={"weight": Deferred(_bank(), "head.weight", always=True)},
        )


def _bank() -> Any:
    (bank,) = banks_of(make("fused")).values()
    return bank


@pytest.mark.pure
def test_a_second_derivative_is_an_error() -> None:
    ssn, x = make("fused"), X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ssn(x).square().sum(), [x], create_graph=True)
    with pytest.raises(NotImplementedError, match="schedule='layer'"):
        slope.square().sum().backward()


@pytest.mark.pure
@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda ssn: torch.load(_pickled(ssn), weights_only=False),
        lambda ssn: torch.compile(ssn, backend="aot_eager", fullgraph=True),
        lambda ssn: torch.export.export(ssn, (X,)).module(),
    ],
    ids=["deepcopy", "pickle", "compile", "export"],
)
def test_other_forms(change: Callable[[Any], Any]) -> None:
    ssn = make("fused")
    expected = ssn(X)
    torch._dynamo.reset()
    torch.testing.assert_close(change(ssn)(X), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def _pickled(ssn: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(ssn, file)
    file.seek(0)
    return file


@pytest.mark.pure
def test_function_transforms() -> None:
    ssn = make("fused")
    parameters = {n: p.detach() for n, p in ssn.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(ssn, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)(parameters, X)
    loss(dict(ssn.named_parameters()), X).backward()
    expected = {n: p.grad for n, p in ssn.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.pure
def test_no_weight_is_kept_for_the_backward_pass() -> None:
    kept: dict[str, int] = {}
    for schedule in ("fused", "layer"):
        ssn = make(schedule, recompute=False)
        own = {p.untyped_storage().data_ptr() for p in ssn.parameters()}
        sizes: dict[int, int] = {}

        def pack(
            tensor: torch.Tensor, own: set[int] = own, sizes: dict[int, int] = sizes
        ) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = ssn(X)
        kept[schedule] = sum(sizes.values())
        del out
    weights = 4 * (3 * 16 * 16 + 16 * 32 + 32 * 10)
    assert kept["layer"] - kept["fused"] > 0.8 * weights


@pytest.mark.pure
def test_calibrate_sets_the_same_gains() -> None:
    gains = []
    for schedule in ("fused", "layer"):
        (bank,) = banks_of(make(schedule, calibrate=X)).values()
        gains.append(bank.gain)
    torch.testing.assert_close(*gains, rtol=1e-4, atol=1e-5)
    (plain,) = banks_of(make("fused")).values()
    assert not torch.allclose(gains[0], plain.gain, rtol=1e-2)
