"""The mapping that weights suggest: what is alike shares, what counts least makes room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from npas.errors import NpasError
from npas.mapping import Mapping as LayerMapping
from npas.passes.collect import WeightOp

# The mapping's source, and the strategy's name.
SOURCE = "fit"
# Weights of one size whose cosine is above this share a bank of their own.
_ALIKE = 0.5
# Of large weights the cosine is estimated on so many elements: its deviation is 0.004.
_SAMPLE = 1 << 16
# What a layer of the shared bank may cost beside it, in coefficients or an embedding.
_BESIDE = 32

Clusters = list[tuple[list[str], str]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a mapping may know of the weights.

    Attributes:
        energy: layer -> sum of its squares, weighted by what its input carries where that is known.
        alike: layers that are near to each other, up to a positive factor; at least two each.
    """

    energy: Mapping[str, float]
    alike: tuple[tuple[str, ...], ...]


#: What is known of weights that were not read: nothing.
NOTHING = Evidence({}, ())


@torch.no_grad()
def read_weights(
    model: nn.Module,
    weights: Sequence[WeightOp],
    importance: Mapping[str, torch.Tensor] | None = None,
) -> Evidence:
    """Read what ``groups="fit"`` goes by.

    Args:
        model: with real weights.
        weights: its layers.
        importance: as `npas.fitting.moments.second_moments` returns it.

    Raises:
        NpasError: if a weight is on the meta device, or not finite.
    """
    parameters = dict(model.named_parameters())
    energy: dict[str, float] = {}
    for op in weights:
        weight = parameters[op.name].detach()
        if weight.is_meta:
            raise NpasError(
                f"groups='fit' reads the weights, and {op.name} is on the meta device; load the "
                "pretrained weights first, or use groups='auto'"
            )
        squares = weight.float().square()
        if importance is not None and op.name in importance:
            squares *= importance[op.name].to(squares.device)
        energy[op.name] = float(squares.sum(dtype=torch.float64))
        if not bool(torch.tensor(energy[op.name]).isfinite()):
            raise NpasError(f"groups='fit': {op.name} holds NaN or infinite values")
    return Evidence(energy, tuple(_alike(parameters, weights)))


def _alike(
    parameters: Mapping[str, nn.Parameter], weights: Sequence[WeightOp]
) -> list[tuple[str, ...]]:
    """Return the connected layers of one shape and dtype whose cosines are high."""
    shapes: dict[object, list[str]] = {}
    for op in weights:
        shapes.setdefault((op.shape, op.dtype), []).append(op.name)
    found: list[tuple[str, ...]] = []
    for names in shapes.values():
        if len(names) == 1:
            continue
        rows = torch.stack([_sample(parameters[name]) for name in names])
        # Of the same sign: all that a layer has in a bank of its own size is a gain.
        near = rows @ rows.t() > _ALIKE
        left = list(range(len(names)))
        while left:
            members, added = {left[0]}, {left[0]}
            while added:
                reached = near[sorted(added)].any(dim=0).nonzero().flatten().tolist()
                added = set(reached) - members
                members |= added
            if len(members) > 1:
                found.append(tuple(names[i] for i in sorted(members)))
            left = [i for i in left if i not in members]
    return found


def _sample(weight: nn.Parameter) -> torch.Tensor:
    """Return a unit vector of a weight's elements, the same places for weights of one size."""
    flat = weight.detach().flatten()
    if flat.numel() > _SAMPLE:
        places = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))
        flat = flat[places[:_SAMPLE].to(flat.device)]
    return nn.functional.normalize(flat.float().cpu(), dim=0)


def from_weights(weights: Sequence[WeightOp], evidence: Evidence, share: float | None) -> Clusters:
    """Choose which layers share.

    In a bank of a share r of its layers' elements a fit finds about r of the squares of weights
    that have nothing in common, wherever it looks. Where every layer's relative error counts the
    same, least is lost for a parameter that is saved if the largest layers share one bank, and the
    others keep their weights. Layers are given up in that order until the bank can hold the
    largest; of one size, those go first whose output, or weight, is smallest. Layers that are alike
    lose next to nothing by sharing a bank that is as large as one of them.

    Args:
        weights: the layers, in the model's order.
        evidence: from `read_weights`.
        share: parameters for banks over elements of all weights, or None if it is not known.

    Returns:
        Clusters, with reasons; the last that has several layers is that of the layers given up. See
        `sizes_kept`.
    """
    if share is not None and share >= 1:
        return [([w.name], "its own bank") for w in weights]
    sizes = {w.name: w.n for w in weights}
    available = 0.0 if share is None else share * sum(sizes.values())
    alike = {name for names in evidence.alike for name in names}
    order = [w.name for w in weights if w.name not in alike]
    order.sort(key=lambda name: (-sizes[name], evidence.energy.get(name, 0.0), name))
    least = sum(sizes[names[0]] for names in evidence.alike)
    rest: list[str] = []
    while order:
        room = max((sizes[name] for name in rest), default=0)
        needed = least + room + sum(sizes[name] for name in order) + _BESIDE * len(rest)
        if len(rest) != 1 and needed <= available:
            break
        rest.append(order.pop(0))
    clusters: Clusters = [
        (list(names), "alike: their cosines are high") for names in evidence.alike
    ]
    clusters += [([name], "keeps its weight") for name in order]
    first = {w.name: i for i, w in enumerate(weights)}
    clusters.sort(key=lambda cluster: min(first[name] for name in cluster[0]))
    if rest:
        rest.sort(key=first.__getitem__)
        clusters.append((rest, "the largest: they make room for the others"))
    return clusters


def sizes_kept(mapping: LayerMapping, sizes: Mapping[str, int]) -> dict[int, int]:
    """Return bank -> elements, for banks that are as large as their largest layer.

    Of a mapping that was chosen for weights these are all but the last that is shared: windows of
    one size in a bank of that size coincide, as layers that are alike must.

    Args:
        mapping: of any source.
        sizes: layer -> elements.
    """
    banks = list(mapping.banks.values())
    shared = [i for i, names in enumerate(banks) if len(names) > 1]
    if mapping.source != SOURCE or not shared:
        return {}
    largest = {i: max(sizes[name] for name in names) for i, names in enumerate(banks)}
    return {i: size for i, size in largest.items() if i != shared[-1]}
