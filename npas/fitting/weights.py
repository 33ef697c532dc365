"""Fit the banks of a plan to weights, one bank after the other."""

import itertools
import warnings
from collections.abc import Callable, Mapping

import torch

from npas.bank import Bank
from npas.errors import NpasError, NpasWarning
from npas.fitting.bank import EXACT, ROUNDS, BankFit
from npas.fitting.layer import FitLayer
from npas.fitting.shared import SharedRows
from npas.fitting.start import copied, drawn, held
from npas.fitting.write import write
from npas.init import spread
from npas.kernels.accumulate import sum_dtype
from npas.passes.demand import EMBEDDING
from npas.plan import LayerPlan, Plan
from npas.progress import Show, shown
from npas.report import Fit, FitError, LayerStart

# Starts run for so many rounds before the best of them goes on.
_TRIAL = 2
# A fit that leaves more than this of the weights' norm is hardly better than a random start.
NEAR_ONE = 0.9


def check_weights(plan: Plan, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise an `NpasError` for weights that cannot be fitted: on meta, or not finite."""
    for layer in plan.layers:
        weight = weights[layer.name]
        if weight.is_meta:
            raise NpasError(
                f"{layer.name} is on the meta device and has no values to fit; load the pretrained "
                "weights first, or use init='random'"
            )
        if not bool(weight.isfinite().all()):
            bad = int(weight.numel() - weight.isfinite().sum())
            raise NpasError(
                f"{layer.name} holds {bad} values that are NaN or infinite and cannot be fitted; "
                "repair the weights, or leave the layer out with ignored_modules"
            )


@torch.no_grad()
def fit_weights(
    plan: Plan,
    banks: Mapping[str, Bank],
    weights: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    *,
    from_held: bool = False,
) -> tuple[dict[str, LayerStart], Fit]:
    """Fill the banks so that the weights they make are nearest to given ones.

    Memory beyond the weights: a small multiple of the largest bank, of its size and dtype or
    float32.

    Args:
        plan: of the banks.
        banks: the generated banks by name; parameters and gains are written in place.
        weights: by first name, from `check_weights`.
        importance: layer -> what each element's squared error counts, of a shape that broadcasts
            to the weight's; layers that are missing count 1.
        from_held: whether what the banks hold now is a start too.

    Returns:
        layer -> how it starts, and the errors.
    """
    starts: dict[str, LayerStart] = {}
    errors: dict[str, FitError] = {}
    rounds: dict[str, int] = {}
    importance = importance or {}
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            weight = weights[layer.name]
            starts[layer.name] = LayerStart(spread(weight), 1.0, "original")
            errors[layer.name] = _error(layer, weight, weight, importance)
    with shown("fit", len(banks)) as show:
        for index, (name, bank) in enumerate(banks.items()):
            generator = torch.Generator().manual_seed(plan.seed)
            layers = layers_of(bank, weights, importance)
            fit = _fit(layers, bank, generator, from_held, _tick(show, index, name))
            rounds[name] = 0 if fit is None else len(fit.errors) - 1
            if fit is not None:
                targets = {n: spread(weights[n]) for n in bank.layer_names()}
                starts |= write(bank, fit, targets, generator)
            for layer in plan.layers_of(name):
                made = bank.generate(layer.name)
                errors[layer.name] = _error(layer, weights[layer.name], made, importance)
            show(index + 1, name)
    found = Fit(
        {layer.name: errors[layer.name] for layer in plan.layers},
        {b.name: FitError.mean([errors[n] for n in b.layers]) for b in plan.banks},
        FitError.mean(list(errors.values())),
        rounds,
    )
    _warn(found, starts)
    return {layer.name: starts[layer.name] for layer in plan.layers if layer.name in starts}, found


def _warn(fit: Fit, starts: Mapping[str, LayerStart]) -> None:
    """Say what a user would not expect of a fit."""
    if fit.total.relative > NEAR_ONE:
        warnings.warn(
            f"the fit leaves a relative error of {fit.total.relative:.2f} (1 is that of zeros): "
            "the result is hardly nearer to the original than a random start; raise budget, or "
            "train it as one would from scratch",
            NpasWarning,
            stacklevel=5,
        )
    fallen = [name for name, start in starts.items() if start.start == "fan-in"]
    if fallen:
        warnings.warn(
            f"{', '.join(fallen)} is zero in the original, and the plan gives it no coefficient "
            "that could be zero: it starts at the scale of its fan-in. Compile with budget= "
            "instead of plan=, or plan with overrides={name: {'scale': True}}",
            NpasWarning,
            stacklevel=5,
        )


def _error(
    layer: LayerPlan,
    weight: torch.Tensor,
    made: torch.Tensor,
    importance: Mapping[str, torch.Tensor],
) -> FitError:
    """Return how far a generated weight is from the original's."""
    target = weight.detach().to(sum_dtype(weight))
    difference = target - made
    relative = _share(difference.square(), target.square())
    if not importance:
        return FitError(relative)
    counts = importance.get(layer.name, torch.ones(())).to(target)
    weighted = _share(difference.square_().mul_(counts), target.square().mul_(counts))
    return FitError(relative, weighted)


def _share(part: torch.Tensor, whole: torch.Tensor) -> float:
    total = float(whole.sum(dtype=torch.float64))
    return (float(part.sum(dtype=torch.float64)) / total) ** 0.5 if total > 0 else 0.0


def _tick(show: Show, index: int, name: str) -> Callable[[], None]:
    rounds = itertools.count(1)
    return lambda: show(index, f"{name}, round {next(rounds)}")


def layers_of(
    bank: Bank, weights: Mapping[str, torch.Tensor], importance: Mapping[str, torch.Tensor]
) -> list[FitLayer]:
    """Return a bank's layers as the fit sees them; those that are zero are left out.

    Every layer counts the same, whatever its scale and size: what comes after it in the network
    sees its relative error.
    """
    layers: list[FitLayer] = []
    for name in bank.layer_names():
        plan, target = bank.slot_of(name)[0], weights[name].detach().flatten()
        kept, ones = sum_dtype(target), (1,) * len(plan.shape)
        counts = importance.get(name, torch.ones(ones)).to(target.device, kept)
        factors = target.new_ones(plan.k if plan.has_coefficients else 1, dtype=kept)
        layer = FitLayer(plan, target, counts, factors)
        energy = layer.energy()
        if energy > 0:
            layer.importance = counts / energy
            layers.append(layer)
    return layers


def _fit(
    layers: list[FitLayer],
    bank: Bank,
    generator: torch.Generator,
    from_held: bool,
    tick: Callable[[], None],
) -> BankFit | None:
    """Return the best fit, or None where what the bank holds is exact already."""
    energy = sum(layer.energy() for layer in layers)
    best: BankFit | None = None
    if from_held:
        best = held(layers, bank)
        if best.error() <= EXACT * energy:
            return None
        best = _tried(best)
    for start in (copied, drawn):
        fit = _tried(start([layer.copy() for layer in layers], bank, generator))
        if best is None or fit.errors[-1] < best.errors[-1]:
            best = fit
        del fit
    assert best is not None
    best.run(ROUNDS, tick)
    return best


def _tried(fit: BankFit) -> BankFit:
    """Run a start for a few rounds."""
    tied = [x for x in fit.layers if x.free and x.layer.downsample == "emb"]
    if min(len(tied), max((x.layer.k for x in tied), default=0)) > EMBEDDING:
        fit.shared = SharedRows.of(tied)
    fit.run(_TRIAL)
    return fit
