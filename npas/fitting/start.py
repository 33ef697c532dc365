"""Where a fit starts from: the weights themselves, random numbers, or what a bank holds now."""

from collections.abc import Sequence

import torch

from npas.bank import Bank
from npas.fitting.bank import BankFit
from npas.fitting.layer import FitLayer
from npas.fitting.write import read
from npas.kernels.accumulate import sum_dtype

# A window that has more than this cosine with a weight is taken for one like it.
_ALIKE = 0.9


def copied(layers: Sequence[FitLayer], bank: Bank, generator: torch.Generator) -> BankFit:
    """Let every layer find its own weight in the bank, as far as there is room.

    Layers choose in turn, those that count most an element first. Where a window holds a weight
    like it already, that is used. Otherwise it is the window that is taken least, and what is free
    of it holds the layer's weight; where windows do not overlap that is exact.
    """
    fit = _empty(layers, bank, generator)
    taken = torch.zeros(fit.theta.numel(), dtype=torch.bool, device=fit.theta.device)
    for layer in sorted(layers, key=lambda x: -x.energy() / x.layer.n):
        plan, target = layer.layer, layer.wanted()
        starts = [plan.base + t * plan.stride for t in range(max(1, plan.k))] if plan.k else [0]
        length = min(plan.n, fit.theta.numel())
        windows = [slice(start, start + length) for start in starts]
        size = float(target.square().mean().sqrt())
        counts = [int(taken[window].sum()) for window in windows]
        wanted = target[:length]
        likeness = [_likeness(fit.theta[window], wanted) for window in windows]
        t = max(range(len(windows)), key=lambda t: (likeness[t] > _ALIKE, -counts[t]))
        if likeness[t] <= _ALIKE:
            free = ~taken[windows[t]]
            fit.theta[windows[t]][free] = wanted[free] / size
        taken[windows[t]] = True
        layer.factors.zero_()
        layer.factors[t if layer.free else 0] = size
    fit.step_factors()
    fit.step_masks()
    return fit


def drawn(layers: Sequence[FitLayer], bank: Bank, generator: torch.Generator) -> BankFit:
    """Start from a random bank and random directions of factors."""
    fit = _empty(layers, bank, generator)
    for layer in layers:
        size = float(layer.wanted().square().mean().sqrt())
        factors = torch.ones(len(layer.factors))
        if layer.free:
            factors = torch.randn(len(layer.factors), generator=generator)
        layer.factors = (size * factors / factors.norm()).to(layer.factors)
    return fit


def held(layers: Sequence[FitLayer], bank: Bank) -> BankFit:
    """Start from what the bank makes now."""
    sources = bank.sources()
    for layer in layers:
        layer.factors = read(bank, layer.layer.name).to(layer.factors)
    kept = sum_dtype(bank.theta)
    return BankFit(
        layers,
        sources.theta.detach().to(kept, copy=True),
        sources.mask.detach().to(kept, copy=True),
    )


def _likeness(window: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the cosine of a window and a weight, of either sign."""
    return abs(float(torch.nn.functional.cosine_similarity(window, wanted, dim=0)))


def _empty(layers: Sequence[FitLayer], bank: Bank, generator: torch.Generator) -> BankFit:
    kept = sum_dtype(bank.theta)
    theta = torch.randn(bank.theta.numel(), dtype=kept, generator=generator).to(bank.theta.device)
    mask = theta.new_empty(0)
    if bank.mask is not None:
        # A sign keeps the tile's scale and tells it from the first one.
        signs = torch.randint(0, 2, bank.mask.shape, generator=generator) * 2 - 1
        mask = signs.to(theta)
    return BankFit(layers, theta, mask)
