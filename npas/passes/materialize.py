"""Materialize: an ordinary module again, with the generated weights baked in."""

import copy
from typing import Any

import torch
from torch import nn

from npas.bank import Bank
from npas.compiled import required_state
from npas.errors import NpasError
from npas.leaf import give_back, leaf_class, parameter_order, sources_of
from npas.module import Shapeshifter
from npas.passes.trace import loose_tensors


def materialize(ssn: nn.Module) -> nn.Module:
    """Return the original class with plain weights: no banks, no generation, ties kept.

    Args:
        ssn: a compiled module; it is not changed and shares nothing with the result.

    Returns:
        A module that computes what ``ssn.eval()`` computes, in ``ssn``'s mode.

    Raises:
        NpasError: if the module was not compiled by npas, or weights of a part that it shares come
            from the banks of another model.
    """
    state = required_state(ssn, "npas.materialize")
    weights = dense_weights(ssn)
    is_graph = isinstance(ssn, Shapeshifter)
    held = ssn.original_attributes() if is_graph else dict(ssn.__dict__)
    held["_modules"] = {n: child for n, child in ssn._modules.items() if n != "npas"}
    held.pop("_npas", None)
    # Modules refer to the banks that they read from, which the result does without.
    memo: dict[int, Any] = {id(m): m for m in ssn.modules() if isinstance(m, Bank)}
    for module in ssn.modules():
        memo |= loose_tensors(module)
    names = tuple(sources_of(ssn))
    result: Any = object.__new__(leaf_class(state.original, names) if names else state.original)
    memo[id(ssn)] = result  # for what refers to the root, such as a hook that is a method of it
    result.__dict__.update(copy.deepcopy(held, memo))
    give_back_all(result, weights)
    return result


def give_back_all(root: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Make every module below a root, and the root, hold its weights again, in place."""
    found: list[tuple[nn.Module, dict[str, nn.Parameter]]] = []
    for path, module in root.named_modules():
        names = {name: f"{path}.{name}" if path else name for name in sources_of(module)}
        foreign = [full for full in names.values() if full not in weights]
        if foreign:
            raise NpasError(
                f"{foreign[0]} comes from the banks of another model, which shares the module and "
                "was compiled in place; call npas.uncompile_ on that model first"
            )
        if names:
            found.append((module, {name: weights[full] for name, full in names.items()}))
    for module, own in found:
        give_back(module, own)


def dense_state_dict(ssn: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict that the original would have: its keys in its order, no banks.

    Args:
        ssn: a compiled module; it is not changed.

    Returns:
        key -> tensor: generated weights made now, everything else as in ``ssn.state_dict()``.

    Raises:
        NpasError: if the module was not compiled by npas.
    """
    required_state(ssn, "npas.dense_state_dict")
    weights = {name: weight.detach() for name, weight in dense_weights(ssn).items()}
    kept = {n: t for n, t in ssn.state_dict().items() if n.partition(".")[0] != "npas"}
    result: dict[str, torch.Tensor] = {}
    for path, module in ssn.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name in parameter_order(module):
            key = prefix + name
            if key in weights:
                result[key] = weights[key]
            elif key in kept:
                result[key] = kept[key]
        result |= {k: t for k, t in kept.items() if k.rpartition(".")[0] == path}
    return result | kept


def dense_weights(ssn: nn.Module) -> dict[str, nn.Parameter]:
    """Return every name of a generated weight -> a new parameter of its value, ties kept."""
    made: dict[str, nn.Parameter] = {}
    for bank in (module for module in ssn.modules() if isinstance(module, Bank)):
        for layer in bank.layer_names():
            with torch.no_grad():
                weight = nn.Parameter(bank.generate(layer).clone())
            made |= dict.fromkeys((layer, *bank.slot_of(layer)[0].aliases), weight)
    return made
