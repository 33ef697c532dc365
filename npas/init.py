"""Start: banks, coefficients and gains such that every weight starts at the original's scale."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from npas.bank import Bank
from npas.coefficients import draw_coefficients
from npas.errors import NpasWarning
from npas.originals import keep_originals
from npas.passes.demand import Block
from npas.plan import LayerPlan, Plan
from npas.recompute import LiveWeights
from npas.report import LayerStart
from npas.sharding import is_sharded, write
from npas.special import special

INITS = ("random", "copy", "fit")
# Gains this near to 1 are taken as 1 where it holds for the whole bank: the weight of a layer with
# one template is then a view of the bank, and its scale is off by less than the promised 5%.
_UNIT_GAIN = 0.02


@torch.no_grad()
def initialise(
    plan: Plan, banks: Mapping[str, Bank], weights: Mapping[str, torch.Tensor], init: str
) -> dict[str, LayerStart]:
    """Fill the banks and set the gains, so that std(w_i) is that of the original weight.

    Banks are drawn from a normal distribution with torch's global generator. The bank's own scale
    is such that the geometric mean of its layers' gains is 1: a gain multiplies the gradient too.
    A layer that shares no element of its bank with another starts with the original weight, with
    whatever is special in it.

    Args:
        plan: what was compiled.
        banks: the generated banks by name.
        weights: original weights by first name.
        init: ``"random"``, or ``"copy"``: windows start with the original weights, normalised;
            where layers share elements the largest layer's stay.

    Returns:
        layer -> how it starts, for every layer of the plan; nothing where the weights are meta
        tensors, which have no values.
    """
    starts: dict[str, LayerStart] = {}
    if any(weights[layer.name].is_meta for layer in plan.layers):
        return starts
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            starts[layer.name] = LayerStart(spread(weights[layer.name]), 1.0, "original")
    for name, bank in banks.items():
        layers = plan.layers_of(name)
        targets = {layer.name: spread(weights[layer.name]) for layer in layers}
        bank.theta.normal_()
        if init == "copy":
            _copy_weights(bank, layers, weights, targets)
        starts |= _start(bank, layers, targets, "generated" if init == "random" else "copied")
        for kept in keep_originals(bank, layers, weights, targets):
            starts[kept] = replace(starts[kept], start="original")
        for layer in layers:
            if starts[layer.name].start in ("generated", "copied"):
                lost = special(weights[layer.name], layer.padding_idx)
                starts[layer.name] = replace(starts[layer.name], lost=lost)
    starts = {layer.name: starts[layer.name] for layer in plan.layers}
    fallen = [name for name, start in starts.items() if start.start == "fan-in"]
    if fallen:
        warnings.warn(
            f"{', '.join(fallen)} is zero in the original, and the plan gives it no coefficient "
            "that could start at zero: it starts at the scale of its fan-in. Compile with budget= "
            "instead of plan=, or plan with overrides={name: {'scale': True}}",
            NpasWarning,
            stacklevel=4,
        )
    return starts


@torch.no_grad()
def draw_again(
    plan: Plan, banks: Mapping[str, Bank], stds: Mapping[str, float]
) -> dict[str, LayerStart]:
    """Fill the banks as `initialise` does at random, without the original weights.

    Of sharded banks one at a time is whole, on every rank the same.

    Args:
        plan: what was compiled.
        banks: the generated banks by name.
        stds: layer -> standard deviation to start at (0: at zero, where the plan allows it). Others
            start at that of ``reset_parameters`` of torch.nn: 1 for embeddings, otherwise
            (3 fan_in)^-1/2.
    """
    starts: dict[str, LayerStart] = {}
    for name, bank in banks.items():
        layers = plan.layers_of(name)
        with whole(plan, name, bank) as drawn:
            drawn.theta.normal_()
            targets = {x.name: stds.get(x.name, _usual(x)) for x in layers}
            starts |= _start(drawn, layers, targets)
    return starts


@contextlib.contextmanager
def whole(plan: Plan, name: str, bank: Bank) -> Iterator[Bank]:
    """Return a bank, or a whole one that is written into it behind, where a rank has a part."""
    if not is_sharded(bank.theta):
        yield bank
        return
    drawn = Bank(plan, name, device=bank.theta.device, live=LiveWeights())
    yield drawn
    values = dict(drawn.named_parameters())
    for local, parameter in bank.named_parameters():
        write(parameter, values[local])
    bank.set_gains(drawn.gain)


def _usual(layer: LayerPlan) -> float:
    if layer.kind.startswith("embedding"):
        return 1.0
    return (3 * max(1, layer.n // layer.shape[0])) ** -0.5


def _start(
    bank: Bank,
    layers: tuple[LayerPlan, ...],
    targets: Mapping[str, float],
    how: str = "generated",
) -> dict[str, LayerStart]:
    _fill_coefficients(bank, layers)
    if bank.mask is not None:
        # A sign keeps the tile's scale and tells it from the first one.
        bank.mask.copy_(torch.randint_like(bank.mask, 0, 2) * 2 - 1)
    # A copied weight keeps its sign.
    signs = _signs(layers) if how == "generated" else torch.ones(len(layers))
    return _set_gains(bank, layers, targets, signs, how)


def spread(weight: torch.Tensor) -> float:
    """Return the standard deviation of a weight, or its root mean square where that is 0."""
    values = weight.detach().float()
    std, size = float(values.std(correction=0)), float(values.square().mean().sqrt())
    # A constant weight that was computed has the standard deviation of its rounding.
    return std if std > 1e-5 * size else size


def _copy_weights(
    bank: Bank,
    layers: tuple[LayerPlan, ...],
    weights: Mapping[str, torch.Tensor],
    targets: Mapping[str, float],
) -> None:
    for layer in sorted(layers, key=lambda layer: layer.n):
        scale = targets[layer.name]
        if scale > 0:
            flat = weights[layer.name].detach().flatten()[: bank.theta.numel()] / scale
            if bool(flat.any()):
                bank.theta[layer.base : layer.base + flat.numel()] = flat.to(bank.theta.dtype)


def _fill_coefficients(bank: Bank, layers: tuple[LayerPlan, ...]) -> None:
    """Start the alphas orthogonal across layers and of unit norm, for wavg and for emb."""
    device = bank.theta.device
    if bank.scale is not None:
        bank.scale.zero_()
    if bank.projection is not None and bank.bias is not None:
        rows = torch.empty(bank.projection.shape, device=device)
        torch.nn.init.orthogonal_(rows)
        bank.projection.copy_(rows)
        bank.bias.zero_()
    alphas = draw_coefficients(layers)
    for layer in layers:
        if layer.name not in alphas:
            continue
        alpha = alphas[layer.name].to(device)
        _, place, _ = bank.slot_of(layer.name)
        if layer.downsample == "wavg":
            assert bank.alpha is not None
            bank.alpha[place : place + layer.k] = alpha.to(bank.alpha.dtype)
        else:
            assert bank.phi is not None and bank.projection is not None
            bank.phi[place] = (bank.projection[: layer.k].float().T @ alpha).to(bank.phi.dtype)


def _signs(layers: tuple[LayerPlan, ...]) -> torch.Tensor:
    """Draw a sign for each layer that would otherwise start with the weight of an earlier one.

    What coefficients do elsewhere, a sign does in one dimension: 50 blocks that add the same
    function to a residual stream go 3.8 times as far as 50 different ones, and with signs 1.3.
    """
    signs = torch.ones(len(layers))
    seen: set[tuple[Block, int]] = set()
    for i, layer in enumerate(layers):
        key = layer.block, layer.n
        if key in seen and not layer.has_coefficients:
            signs[i] = torch.randint(2, ()) * 2 - 1
        seen.add(key)
    return signs


def _set_gains(
    bank: Bank,
    layers: tuple[LayerPlan, ...],
    targets: Mapping[str, float],
    signs: torch.Tensor,
    how: str,
) -> dict[str, LayerStart]:
    bank.set_gains(torch.ones(len(layers)))
    bank_spread = spread(bank.theta)
    kinds: dict[str, str] = {}
    needed: list[float] = []
    for layer in layers:
        target = targets[layer.name]
        kinds[layer.name] = how if target > 0 else _start_at_zero(bank, layer)
        if layer.scale and not layer.has_coefficients and target > 0:
            _, _, place = bank.slot_of(layer.name)
            assert bank.scale is not None and place is not None
            bank.scale[place] = 1.0
        if target > 0:
            made = spread(bank.generate(layer.name))
            # A padding row is zero in both, so the two are of one population.
            needed.append(target / made if made > 0 else 1.0)
        else:
            fan_in = layer.n / layer.shape[0] if len(layer.shape) > 1 else layer.n
            needed.append(fan_in**-0.5 / bank_spread)
    gains = torch.tensor(needed, dtype=torch.float64)
    mean = gains.log().mean().exp()
    gains = gains / mean
    bank.theta.mul_(float(mean))
    if bool(((gains - 1).abs() <= _UNIT_GAIN).all()):
        gains = torch.ones_like(gains)
    gains = gains.to(torch.float32) * signs
    bank.set_gains(gains)
    return {
        layer.name: LayerStart(targets[layer.name], float(gains[i]), kinds[layer.name])
        for i, layer in enumerate(layers)
    }


def _start_at_zero(bank: Bank, layer: LayerPlan) -> str:
    """Make a weight that was zero start at zero and able to learn, where the plan allows it."""
    _, place, scale = bank.slot_of(layer.name)
    if layer.has_coefficients and layer.downsample == "wavg":
        assert bank.alpha is not None
        bank.alpha[place : place + layer.k] = 0
        return "zero"
    if layer.has_coefficients:
        assert bank.phi is not None
        bank.phi[place] = 0
        return "zero"
    return "zero" if scale is not None else "fan-in"


def with_gains(
    starts: Mapping[str, LayerStart], banks: Mapping[str, Bank]
) -> dict[str, LayerStart]:
    """Return the starts with the gains that the banks hold now."""
    found = dict(starts)
    for bank in banks.values():
        for name, gain in zip(bank.layer_names(), bank.gain.tolist(), strict=True):
            if name in found:
                found[name] = replace(found[name], gain=gain)
    return found


def zero_layers(names: Iterable[str], weights: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the weights that are zero everywhere now; none of them on the meta device."""
    return tuple(n for n in names if not weights[n].is_meta and not bool(weights[n].any()))
