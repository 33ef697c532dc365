"""Networks whose weights `benchmarks.kernel_generation` makes, as calls of `combine`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.kernel_cases import FP32, combine_sample
from benchmarks.kernel_naive import alpha_of, templates
from benchmarks.kernel_times import TOLERANCE, backend_of
from benchmarks.networks.transformer import Block
from benchmarks.networks.wrn import wrn
from npas.kernels import combine
from npas.kernels.combine.table import ROW, Row, rows_of, starts
from npas.kernels.samples import Sample
from npas.plan import Plan

#: Whether each layer has a call of its own, or each bank.
HOW = ("layer", "bank")


@dataclass(frozen=True, slots=True)
class Network:
    """A network, its budget, and whether ``--quick`` looks at it."""

    name: str
    make: Callable[[], nn.Module]
    budget: int
    quick: bool = False


def encoder(dim: int, heads: int, depth: int) -> nn.Module:
    """Return an encoder's blocks: BERT's are 12 of dim 768."""
    return nn.Sequential(*(Block(dim, heads, False) for _ in range(depth)))


CASES = (
    Network("WRN-28-10 at 4M", lambda: wrn(depth=28, width=10), 4_000_000),
    Network("12 BERT-base blocks at 12M", lambda: encoder(768, 12, 12), 12_000_000),
    Network("WRN-16-4 at 1M", lambda: wrn(depth=16, width=4), 1_000_000, quick=True),
    Network("4 blocks of 256 at 1M", lambda: encoder(256, 4, 4), 1_000_000, quick=True),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight: its own call's arguments, and its gradient."""

    row: Row
    gain: torch.Tensor
    grad: torch.Tensor


@dataclass(frozen=True, slots=True)
class Made:
    """A bank's tensors.

    Attributes:
        theta: [N].
        coef: [C].
        gain: [layers].
        table: of all layers.
        grad: of the flat output of the call that makes them all.
        buffers: float32 gradients of theta and coef, which calls add to.
        layers: each layer on its own.
    """

    theta: torch.Tensor
    coef: torch.Tensor
    gain: torch.Tensor
    table: list[int]
    grad: torch.Tensor
    buffers: tuple[torch.Tensor, torch.Tensor]
    layers: tuple[Layer, ...]


def samples_of(plan: Plan) -> Iterator[Sample]:
    """Yield a call of `combine` for each bank from which weights are generated.

    Raises:
        NotImplementedError: if a layer is upsampled; none is at the budgets above.
    """
    for bank in plan.banks:
        layers = plan.layers_of(bank.name)
        views = len({(layer.shape, layer.k) for layer in layers}) == 1 and layers[0].k == 1
        if views or plan.is_ordinary(bank.name):
            continue
        if not all(layer.k for layer in layers):
            raise NotImplementedError(f"{bank.name} is upsampled")
        windows = [(layer.base, layer.stride, layer.k, layer.n) for layer in layers]
        sample = combine_sample(bank.name, *windows, averages=True)
        yield replace(sample, sizes=(bank.size, sample.sizes[1]))


def bank_of(sample: Sample, device: torch.device) -> Made:
    """Draw a bank, its coefficients, gains and gradients."""
    source = torch.Generator().manual_seed(0)
    theta, coef = (torch.randn(n, generator=source).to(device) for n in sample.sizes)
    gain = torch.rand(sample.gains or 0, generator=source).add_(0.5).to(device)
    table = sample.constants[0]
    places, size = starts(table[3::ROW])
    grad = torch.randn(size, generator=source).to(device)
    layers = tuple(
        Layer(row, gain[i : i + 1], grad[start : start + row.n])
        for i, (row, start) in enumerate(zip(rows_of(table), places, strict=True))
    )
    buffers = (torch.zeros_like(theta), torch.zeros_like(coef))
    return Made(theta, coef, gain, table, grad, buffers, layers)


def add_gradients(
    grad: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor,
    row: Row,
    d_theta: torch.Tensor,
    d_coef: torch.Tensor,
) -> None:
    """Add a layer's gradients as one would write them by hand; its templates do not overlap."""
    alpha = alpha_of(row, coef, gain, 0)
    templates(d_theta, row).add_(alpha[:, None] * grad)
    if row.offset >= 0:
        d_alpha = (templates(theta, row) * grad).sum(1)
        d_coef[row.offset : row.offset + row.k] += d_alpha * gain.to(d_alpha.dtype)


def check(bank: Made, device: torch.device) -> None:
    """Compare both ways of making a bank's weights and gradients with float64.

    Raises:
        AssertionError: if one is further off than float32 explains.
    """
    backend = backend_of(device)
    accumulate = torch.ops.npas.combine_accumulate
    theta, coef = bank.theta, bank.coef
    exact, exact_coef = theta.double(), coef.double()
    d_exact, d_exact_coef = torch.zeros_like(exact), torch.zeros_like(exact_coef)
    found = {how: (torch.zeros_like(theta), torch.zeros_like(coef)) for how in HOW}
    whole = combine(theta, coef, bank.gain, bank.table, None, backend)
    accumulate(bank.grad, theta, coef, bank.gain, bank.table, *found["bank"], backend)
    places = starts(bank.table[3::ROW])[0]
    for layer, start in zip(bank.layers, places, strict=True):
        row, gain = layer.row, layer.gain
        wanted = combine(exact, exact_coef, gain, row, None, "reference")
        _compare(combine(theta, coef, gain, row, None, backend), wanted)
        _compare(whole[start : start + row.n], wanted)
        accumulate(layer.grad, theta, coef, gain, row, *found["layer"], backend)
        grad = layer.grad.double()
        add_gradients(grad, exact, exact_coef, gain, row, d_exact, d_exact_coef)
    for d_theta, d_coef in found.values():
        _compare(d_theta, d_exact)
        _compare(d_coef, d_exact_coef)


def _compare(found: torch.Tensor, exact: torch.Tensor) -> None:
    error, size = float((found.double() - exact).abs().max()), float(exact.abs().max())
    assert error <= TOLERANCE[FP32] * size, f"off by {error:.2e} of {size:.2e}"
