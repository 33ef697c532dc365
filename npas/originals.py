"""Originals: a layer that shares nothing starts with the model's own weight.

Whatever is special in it (orthogonal, sparse, identity, pretrained) holds then, at no cost.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from npas.bank import Bank
from npas.kernels.accumulate import sum_dtype
from npas.plan import LayerPlan

# Of conjugate gradients, each of which reads the layer's templates twice.
_STEPS = 30
# The second starts from what the bank makes after the first, which rounding left a 1e-5 off.
_PASSES = 2


@torch.no_grad()
def keep_originals(
    bank: Bank,
    layers: tuple[LayerPlan, ...],
    weights: Mapping[str, torch.Tensor],
    targets: Mapping[str, float],
) -> list[str]:
    """Give the layers that share no element of a bank the original weights.

    What is missing is added to their templates by the least change, which leaves the rest random.

    Args:
        bank: drawn, with its coefficients and gains set.
        layers: of the bank.
        weights: original weights by first name.
        targets: their standard deviations; those that start at zero are left alone.

    Returns:
        The names of the layers that have their original weights now.
    """
    found: list[str] = []
    kept = sum_dtype(bank.theta)
    coefficients = bank.coefficients()
    gains = dict(zip(bank.layer_names(), bank.gain, strict=True))
    for name in alone(layers):
        layer, _, _ = bank.slot_of(name)
        if not layer.k or targets[name] == 0:
            continue
        factors = (coefficients[name].to(kept) * gains[name]).tolist()
        for again in range(_PASSES):
            missing = (weights[name].detach() - bank.generate(name)).flatten().to(kept)
            change = least_change(missing, factors, layer.stride)
            if change is None:
                break
            bank.theta[layer.base : layer.base + len(change)] += change.to(bank.theta.dtype)
            if not again:
                found.append(name)
    return found


def least_change(
    wanted: torch.Tensor, factors: Sequence[float], stride: int
) -> torch.Tensor | None:
    """Return the least x of which the templates, combined, make a weight.

    Args:
        wanted: [n] sum_k factors[k] x[k * stride : k * stride + n].
        factors: [K].
        stride: from one template to the next, which may overlap.

    Returns:
        [(K - 1) stride + n], by the method of conjugate gradients, of which one step is enough
        where templates do not overlap; None where `_STEPS` were not.
    """
    n = len(wanted)

    def spread_out(weight: torch.Tensor) -> torch.Tensor:
        x = weight.new_zeros((len(factors) - 1) * stride + n)
        for k, factor in enumerate(factors):
            x[k * stride : k * stride + n].add_(weight, alpha=factor)
        return x

    solution, rest = torch.zeros_like(wanted), wanted.clone()
    way, size = rest.clone(), float(rest.square().sum())
    enough = 1e-12 * size
    for _ in range(_STEPS):
        if size <= enough:
            return spread_out(solution)
        x = spread_out(way)
        length = float(x.square().sum())
        if length <= enough:  # templates that cancel
            return None
        step = size / length
        solution.add_(way, alpha=step)
        back = torch.zeros_like(way)
        for k, factor in enumerate(factors):
            back.add_(x[k * stride : k * stride + n], alpha=factor)
        rest.sub_(back, alpha=step)
        size, before = float(rest.square().sum()), size
        way.mul_(size / before).add_(rest)
    return None


def alone(layers: Iterable[LayerPlan]) -> list[str]:
    """Return those layers of a bank that share none of its elements with another."""
    spans = sorted(
        (x.base, x.base + max(0, x.k - 1) * x.stride + x.n if x.k else math.inf, x.name)
        for x in layers
    )
    found: list[str] = []
    end = 0.0
    for i, (first, last, name) in enumerate(spans):
        following = spans[i + 1][0] if i + 1 < len(spans) else math.inf
        if end <= first and last <= following:
            found.append(name)
        end = max(end, last)
    return found
