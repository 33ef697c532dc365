"""From a fit to the bank's parameters, and back: who carries the scale of a layer."""

from collections.abc import Mapping

import torch

from npas.bank import Bank
from npas.fitting.bank import BankFit
from npas.fitting.layer import FitLayer
from npas.init import spread
from npas.plan import LayerPlan
from npas.report import LayerStart

# Gains that differ from 1 by rounding alone are 1, so that windows are views of the bank.
_ROUNDING = 1e-6


def write(
    bank: Bank, fit: BankFit, targets: Mapping[str, float], generator: torch.Generator
) -> dict[str, LayerStart]:
    """Fill a bank with what was fitted.

    A layer's gain is what would give it the original's scale with coefficients of unit norm, as
    for other starts, and the coefficients carry the rest: their norm says how much of the weight
    was found. A layer that has nothing but its gain has the fitted scale, and sign, there. The
    gains' geometric mean is 1, as always.

    Args:
        bank: its parameters are written in place, in their dtype.
        fit: of its layers that are not zero in the original.
        targets: standard deviation of every layer's original weight.
        generator: of the directions of embeddings.

    Returns:
        layer -> how it starts.
    """
    size = spread(fit.theta)
    fitted = {layer.layer.name: layer for layer in fit.layers}
    names = bank.layer_names()
    needed = [_gain(bank.slot_of(n)[0], fitted.get(n), targets[n], size) for n in names]
    gains = torch.tensor(needed, dtype=torch.float64)
    mean = gains.abs().log().mean().exp()
    bank.theta.copy_(fit.theta * float(mean))
    if bank.mask is not None:
        bank.mask.copy_(fit.mask)
    _write_rows(bank, fit, generator)
    for name, gain in zip(names, needed, strict=True):
        found = fitted.get(name)
        _write_factors(bank, name, None if found is None else found.factors.double() / gain)
    gains = gains / mean
    if bool(((gains - 1).abs() < _ROUNDING).all()):
        gains = torch.ones_like(gains)
    bank.set_gains(gains.float())
    return {
        name: LayerStart(targets[name], gain, _kind(bank.slot_of(name)[0], name in fitted))
        for name, gain in zip(names, gains.tolist(), strict=True)
    }


def read(bank: Bank, name: str) -> torch.Tensor:
    """Return what a layer's templates are multiplied with now, gain included: float64."""
    layer, place, scale = bank.slot_of(name)
    gain = bank.gain[bank.layer_names().index(name)].double()
    if layer.has_coefficients and layer.downsample == "wavg":
        assert bank.alpha is not None
        return gain * bank.alpha[place : place + layer.k].detach().double()
    if layer.has_coefficients:
        assert bank.phi is not None and bank.projection is not None and bank.bias is not None
        rows, bias = bank.projection[: layer.k].detach(), bank.bias[: layer.k].detach()
        return gain * (rows.double() @ bank.phi[place].detach().double() + bias.double())
    if scale is not None:
        assert bank.scale is not None
        return gain * bank.scale[scale : scale + 1].detach().double()
    return gain[None]


def _gain(layer: LayerPlan, found: FitLayer | None, target: float, size: float) -> float:
    if found is None:
        fan_in = layer.n / layer.shape[0] if len(layer.shape) > 1 else layer.n
        return fan_in**-0.5 / size
    return float(found.factors) if found.only_gain else target / size


def _kind(layer: LayerPlan, fitted: bool) -> str:
    if fitted:
        return "fitted"
    return "zero" if layer.has_coefficients or layer.scale else "fan-in"


def _write_rows(bank: Bank, fit: BankFit, generator: torch.Generator) -> None:
    """Set what a bank's layer embeddings share: orthonormal rows, or those that were fitted."""
    if bank.projection is None:
        return
    assert bank.bias is not None
    if fit.shared is None:
        rows = torch.empty(bank.projection.shape, dtype=torch.float64)
        torch.nn.init.orthogonal_(rows, generator=generator)
    else:
        rows = fit.shared.rows
    bank.projection.copy_(rows)
    bank.bias.zero_()


def _write_factors(bank: Bank, name: str, values: torch.Tensor | None) -> None:
    """Set the coefficients, embedding or scalar of a layer; None is zero."""
    layer, place, scale = bank.slot_of(name)
    if layer.has_coefficients and layer.downsample == "wavg":
        assert bank.alpha is not None
        bank.alpha[place : place + layer.k] = 0 if values is None else values.to(bank.alpha)
    elif layer.has_coefficients:
        assert bank.phi is not None and bank.projection is not None
        if values is None:
            bank.phi[place] = 0
            return
        rows = bank.projection[: layer.k].double()
        # The shortest embedding that gives these coefficients: the transpose's where rows are
        # orthonormal.
        bank.phi[place] = (torch.linalg.pinv(rows) @ values).to(bank.phi)
    elif scale is not None:
        assert bank.scale is not None
        bank.scale[scale] = 0 if values is None else values.to(bank.scale)[0]
