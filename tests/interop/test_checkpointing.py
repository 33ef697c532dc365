from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import npas
from npas.bank import banks_of
from tests.interop.nets import KINDS, WAYS, WIDTH, Block, assert_same, convert, gradients, ids, net

pytestmark = pytest.mark.pure

REENTRANT = pytest.mark.parametrize("reentrant", [False, True], ids=["hooks", "reentrant"])
# A forward that calls checkpoint is not a graph for fx; torch.export captures what it runs.
INSIDE = pytest.mark.parametrize("way", ["export", "opaque", "in place"])


class Checkpointed(nn.Module):
    """Blocks whose activations are made again in the backward pass; the first runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, WIDTH)
        self.reentrant: bool | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in (*self.blocks, self.blocks[0]):
            if self.reentrant is None:
                x = block(x)
            else:
                made = checkpoint(block, x, use_reentrant=self.reentrant)
                assert isinstance(made, torch.Tensor)
                x = made
        return self.head(x)


def x() -> torch.Tensor:
    made = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    return made.requires_grad_()


def pair(way: str, kind: str, reentrant: bool, **options: Any) -> tuple[Any, Any]:
    """Return the same network with activation checkpointing and without."""
    made = []
    for value in (reentrant, None):
        torch.manual_seed(0)
        model = Checkpointed()
        model.reentrant = value
        made.append(convert(model, way, (x(),), **KINDS[kind], **options))
    return made[0], made[1]


@REENTRANT
@pytest.mark.parametrize("schedule", ["auto", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_around_blocks_the_gradients_are_the_same(
    kind: str, schedule: str, reentrant: bool
) -> None:
    found, expected = pair("in place", kind, reentrant, schedule=schedule)
    for _ in range(2):  # in the second pass it is known which weights are read again
        a, b = x(), x()
        torch.testing.assert_close(found(a), expected(b))
        assert_same(gradients(found, found(a)), gradients(expected, expected(b)))
        torch.testing.assert_close(a.grad, b.grad)


@REENTRANT
@INSIDE
def test_around_blocks_of_every_front_end(way: str, reentrant: bool) -> None:
    if way == "export" and reentrant:
        pytest.skip("torch.export refuses reentrant checkpoints")
    found, expected = pair(way, "templates", reentrant)
    assert_same(gradients(found, found(x())), gradients(expected, expected(x())))


def test_fx_takes_the_checkpointing_of_a_module_that_it_calls() -> None:
    found = nn.Sequential(nn.Linear(WIDTH, WIDTH), Checkpointed())
    found[1].reentrant = False  # pyright: ignore[reportArgumentType]
    module = npas.compile(found, 0.6, example_inputs=(x(),))
    gradients(module, module(x()))


@REENTRANT
@pytest.mark.parametrize("way", WAYS)
def test_around_the_compiled_model(way: str, reentrant: bool) -> None:
    module, scale = net(way), torch.ones((), requires_grad=True)

    def run(ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return module(ids) * scale

    expected = gradients(module, run(ids(), scale))
    output = checkpoint(run, ids(), scale, use_reentrant=reentrant)
    assert isinstance(output, torch.Tensor)
    assert_same(gradients(module, output), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_around_the_compiled_model_for_every_way_to_make_weights(kind: str) -> None:
    module = net("in place", kind)
    expected = gradients(module, module(ids()))
    output = checkpoint(module, ids(), use_reentrant=False)
    assert isinstance(output, torch.Tensor)
    assert_same(gradients(module, output), expected)


@pytest.mark.parametrize("schedule", ["auto", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_around_a_compiled_model_that_reads_weights_twice(kind: str, schedule: str) -> None:
    found, expected = pair("in place", kind, False, schedule=schedule)
    found.reentrant = None
    for _ in range(2):
        output = checkpoint(found, x(), use_reentrant=False)
        assert isinstance(output, torch.Tensor)
        assert_same(gradients(found, output), gradients(expected, expected(x())))


@REENTRANT
def test_a_part_of_a_compiled_model_around_which_the_caller_checkpoints(reentrant: bool) -> None:
    found, expected = pair("in place", "templates", reentrant)
    found.reentrant = None
    output = checkpoint(found.blocks[0], x(), use_reentrant=reentrant)
    assert isinstance(output, torch.Tensor)
    output.sum().backward()
    expected.blocks[0](x()).sum().backward()
    banks = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        if banks[name].grad is not None:
            torch.testing.assert_close(parameter.grad, banks[name].grad)


class _Zeros(TorchDispatchMode):
    """Notes the sizes of the gradients that begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.new_zeros.default:
            self.sizes.append(made.numel())
        return made


@pytest.mark.parametrize("kind", ["windows", "templates"])
def test_a_bank_has_one_gradient_however_many_parts_are_checkpointed(kind: str) -> None:
    ssn, _ = pair("in place", kind, False)
    size = max(bank.theta.numel() for bank in banks_of(ssn).values())
    loss = ssn(x()).square().mean()
    with _Zeros() as zeros:
        loss.backward()
    assert zeros.sizes.count(size) == 1
