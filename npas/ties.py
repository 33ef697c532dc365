"""Kept weights that are one tensor under several names, and must stay so."""

from collections.abc import Sequence

from torch import nn

from npas.errors import NpasError
from npas.plan import Plan

Ties = tuple[tuple[str, ...], ...]


def tied_names(module: nn.Module, plan: Plan) -> Ties:
    """Return the names of each kept parameter that has several, of a model to be compiled."""
    generated = {layer.name for layer in plan.layers if not plan.is_ordinary(layer.bank)}
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    kept = (found for found in names.values() if found[0] not in generated)
    return tuple(tuple(found) for found in kept if len(found) > 1)


def untied(module: nn.Module, ties: Sequence[Sequence[str]]) -> str:
    """Return what to say of a parameter that was one with another and is not, "" if all are."""
    held = dict(module.named_parameters(remove_duplicate=False))
    for first, *others in ties:
        for name in others:
            if name in held and first in held and held[name] is not held[first]:
                return (
                    f"{name} was tied to {first} and is no longer (to_empty gives every module a "
                    "tensor of its own); tie them again, module.a.weight = module.b.weight or "
                    "tie_weights of transformers, and make the optimizer behind that"
                )
    return ""


def check_tied(module: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """Check that parameters which were one still are.

    Raises:
        NpasError: that names two which are not.
    """
    if said := untied(module, ties):
        raise NpasError(said)
