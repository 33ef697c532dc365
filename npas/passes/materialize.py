"""Materialize: an ordinary module again, with the generated weights baked in."""

import copy
from typing import Any

import torch
from torch import nn

from npas.bank import Bank
from npas.errors import NpasError
from npas.leaf import Leaf
from npas.module import Shapeshifter
from npas.passes.trace import HOOKS


def materialize(ssn: nn.Module) -> nn.Module:
    """Return the original class with plain weights: no banks, no generation, ties kept.

    Args:
        ssn: a compiled module; it is not changed and shares nothing with the result.

    Returns:
        A module that computes what ``ssn.eval()`` computes, in ``ssn``'s mode.

    Raises:
        NpasError: if the module was not compiled by npas.
    """
    if not isinstance(ssn, Shapeshifter):
        raise NpasError(
            f"{type(ssn).__name__} was not compiled by npas; materialize takes the result of "
            "npas.compile"
        )
    state = {name: ssn.__dict__[name] for name in ssn._npas.attributes}
    modules = {name: child for name, child in state["_modules"].items() if name != "npas"}
    copied: dict[str, Any] = copy.deepcopy({**state, "_modules": modules})
    result = object.__new__(ssn._npas.original)
    result.__dict__.update(copied)
    result.__dict__["training"] = ssn.training
    for parent in list(result.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, Leaf):
                parent._modules[name] = _open(child)
    plan = ssn._npas.plan
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            continue
        bank = ssn.get_submodule(f"npas.banks.{layer.bank}")
        assert isinstance(bank, Bank)
        with torch.no_grad():
            weight = nn.Parameter(bank.generate(layer.name).clone())
        for name in (layer.name, *layer.aliases):
            owner, _, local = name.rpartition(".")
            setattr(result.get_submodule(owner), local, weight)
    return result


def _open(leaf: Leaf) -> nn.Module:
    """Return the module inside, with the hooks that were put on the leaf since."""
    for name in HOOKS:
        if leaf.__dict__.get(name):
            leaf.inner.__dict__[name].update(leaf.__dict__[name])
    return leaf.inner
