"""What a training loop needs around a compiled module."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from npas.bank import Bank, banks_of
from npas.compiled import state_of
from npas.errors import NpasError
from npas.init import draw_again
from npas.naming import nearest
from npas.passes.collect import module_kind
from npas.report import Report
from npas.search_bank import SearchBank


def param_groups(module: nn.Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Return two parameter groups for any torch optimizer: with weight decay and without.

    Banks and other weights of two or more dimensions decay; coefficients, layer embeddings and
    their projections, masks, scalars, norms and biases do not.

    Args:
        module: a compiled module (or any other).
        weight_decay: for the first group.

    Raises:
        NpasError: for what is not a module, or a negative weight decay.
    """
    if not isinstance(module, nn.Module):
        raise NpasError(f"param_groups takes a module, found a {type(module).__name__}")
    if not weight_decay >= 0:
        raise NpasError(f"weight_decay={weight_decay!r} must be 0 or more")
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            matrix = parameter.dim() >= 2 and parameter.numel() > max(parameter.shape)
            decays = matrix and module_kind(owner) != "norm"
            if isinstance(owner, Bank | SearchBank):
                decays = name == "theta"
            (decayed if decays else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def refresh(ssn: nn.Module) -> None:
    """Drop the weights that evaluation caches.

    Needed only after a write that autograd's version counters do not see, such as through
    ``parameter.data``.
    """
    for bank in banks_of(ssn).values():
        bank.refresh()


def reset(ssn: nn.Module, stds: Mapping[str, float] | None = None) -> None:
    """Draw every bank again, each layer at the scale it was compiled at.

    For a module that came from the meta device through ``to_empty``, whose banks and gains have no
    values, or to start once more. Parameters that were kept belong to their modules, whose own
    ``reset_parameters`` draws them.

    Args:
        ssn: a compiled module, on a real device.
        stds: layer -> standard deviation to start at, for a module that was compiled on the meta
            device. Layers that are neither here nor in the report start as torch.nn's
            ``reset_parameters`` would.

    Raises:
        NpasError: if the module was not compiled by npas, is on the meta device, or a name in
            ``stds`` is no generated layer.
    """
    state = state_of(ssn)
    if state is None:
        raise NpasError(f"{type(ssn).__name__} was not compiled by npas")
    banks = banks_of(ssn)
    if any(bank.theta.is_meta for bank in banks.values()):
        raise NpasError("reset: the banks are on the meta device; call ssn.to_empty(device) first")
    known = {name for bank in banks.values() for name in bank.layer_names()}
    for name in stds or {}:
        if name not in known:
            raise NpasError(f"stds: {name!r} is no generated layer{nearest(name, known)}")
    remembered = {n: start.std for n, start in state.report.starts.items() if n in known}
    starts = draw_again(state.plan, banks, {**remembered, **(stds or {})})
    state.report = replace(state.report, starts={**state.report.starts, **starts})


def report(ssn: nn.Module) -> Report:
    """Return how a module was compiled: front end, passes, and how each layer starts.

    Raises:
        NpasError: if the module was not compiled by npas.
    """
    state = state_of(ssn)
    if state is None:
        raise NpasError(f"{type(ssn).__name__} was not compiled by npas")
    return replace(state.report, fallbacks=dict(state.fallbacks))
