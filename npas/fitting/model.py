"""Fit whole models: from pretrained weights, or a state dict into a plan that is there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from npas.bank import Bank, banks_of
from npas.compiled import required_state
from npas.errors import NpasError
from npas.fitting.weights import check_weights, fit_weights
from npas.init import initialise
from npas.kernels.accumulate import sum_dtype
from npas.naming import nearest
from npas.plan import LayerPlan, Plan
from npas.report import Fit, LayerStart


def start_banks(
    plan: Plan,
    banks: Mapping[str, Bank],
    weights: Mapping[str, torch.Tensor],
    init: str,
    importance: Mapping[str, torch.Tensor] | None = None,
) -> tuple[dict[str, LayerStart], Fit | None]:
    """Fill new banks as ``init`` says.

    Args:
        plan: what was compiled.
        banks: the generated banks by name.
        weights: original weights by first name.
        init: one of `npas.init.INITS`.
        importance: for ``"fit"``: what the elements of weights count.

    Returns:
        layer -> how it starts, and the errors of a fit.
    """
    if init != "fit":
        return initialise(plan, banks, weights, init), None
    check_weights(plan, weights)
    return fit_weights(plan, banks, weights, importance)


def load_dense_(ssn: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state dict of the original model into a compiled one, in place.

    Generated weights are fitted by its banks, as ``init="fit"`` does but starting from what they
    hold too, so that what `npas.dense_state_dict` made of the module comes back exactly. All
    other parameters and buffers are copied. Parameters stay the same tensors, so an optimizer
    goes on with them; `npas.report` tells the errors.

    Args:
        ssn: a compiled module; left as it was if anything does not fit.
        state_dict: the original's keys, all of them.

    Raises:
        NpasError: if the module was not compiled by npas or is on the meta device, or the state
            dict lacks a key, has one too many, or another shape (all are named), or holds NaN or
            infinite values for a generated weight.
    """
    state = required_state(ssn, "npas.load_dense_")
    plan, banks = state.plan, banks_of(ssn)
    kept = {n: t for n, t in ssn.state_dict().items() if n.partition(".")[0] != "npas"}
    generated = {
        alias: layer
        for layer in plan.layers
        if not plan.is_ordinary(layer.bank)
        for alias in (layer.name, *layer.aliases)
    }
    _check_keys(type(ssn).__name__, kept, generated, state_dict)
    if any(tensor.is_meta for tensor in (*ssn.parameters(), *ssn.buffers())):
        raise NpasError("load_dense_: the module is on the meta device; call to_empty(device)")
    _check_ties(generated, state_dict)
    devices = {n: bank.theta.device for bank in banks.values() for n in bank.layer_names()}
    weights = {
        layer.name: state_dict[layer.name]
        .detach()
        .to(devices.get(layer.name), sum_dtype(torch.empty(0, dtype=getattr(torch, layer.dtype))))
        for layer in plan.layers
    }
    check_weights(plan, weights)
    starts, fit = fit_weights(plan, banks, weights, from_held=True)
    own = {name: value for name, value in state_dict.items() if name in kept}
    ssn.load_state_dict(own, strict=False)
    for bank in banks.values():
        bank.refresh()
    state.report = replace(state.report, starts={**state.report.starts, **starts}, fit=fit)


def _check_keys(
    model: str,
    kept: Mapping[str, Any],
    generated: Mapping[str, LayerPlan],
    state_dict: Mapping[str, Any],
) -> None:
    """Raise an `NpasError` listing what is missing, unknown or of another shape."""
    if not isinstance(state_dict, Mapping):
        raise NpasError(f"load_dense_: state_dict is a {type(state_dict).__name__}, not a dict")
    shapes = {name: layer.shape for name, layer in generated.items()}
    shapes |= {n: tuple(t.shape) for n, t in kept.items() if isinstance(t, torch.Tensor)}
    expected = {**generated, **kept}
    wrong = [f"{name} is missing" for name in expected if name not in state_dict]
    wrong += [
        f"{name} is not in the model{nearest(str(name), expected)}"
        for name in state_dict
        if name not in expected
    ]
    for name, shape in shapes.items():
        value = state_dict.get(name)
        if value is None:
            continue
        if not isinstance(value, torch.Tensor):
            wrong.append(f"{name} is a {type(value).__name__}, not a tensor")
        elif tuple(value.shape) != shape:
            wrong.append(f"{name} is {tuple(value.shape)}, the model's {shape}")
        elif name in generated and not value.is_floating_point():
            wrong.append(f"{name} is {value.dtype}, the model's {generated[name].dtype}")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise NpasError(
            f"load_dense_: the state dict is not of the original of this {model}: "
            f"{'; '.join(wrong[:8])}{more}"
        )


def _check_ties(generated: Mapping[str, LayerPlan], state_dict: Mapping[str, Any]) -> None:
    for name, layer in generated.items():
        first = state_dict[layer.name]
        if name != layer.name and not torch.equal(state_dict[name], first):
            raise NpasError(
                f"load_dense_: {layer.name} and {name} are one weight in the model, and differ in "
                "the state dict"
            )
