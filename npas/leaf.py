"""A module of the original that is called with generated weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from npas.deferred import Deferred, made
from npas.passes.trace import has_hooks

# What a replica has of its own: containers, and the weights that recurrent layers list.
_OWN = frozenset(
    {"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs", "_is_replica"}
)
_MISSING = object()


def _linear(module: nn.Linear, weight: torch.Tensor | Deferred, input: torch.Tensor) -> Any:
    if isinstance(weight, Deferred):
        product = weight.linear(input)
        if product is not None:
            return product if module.bias is None else product + module.bias.to(product.dtype)
        weight = weight.make()
    return F.linear(input, weight, module.bias)


def _conv(module: Any, weight: torch.Tensor | Deferred, input: torch.Tensor) -> Any:
    if isinstance(weight, Deferred):
        pointwise = module.groups == 1 and not any(module._reversed_padding_repeated_twice)
        product = weight.conv1x1(input, module.stride) if pointwise else None
        if product is not None:
            if module.bias is None:
                return product
            return product + module.bias.to(product.dtype).view(-1, *(1 for _ in module.stride))
        weight = weight.make()
    return module._conv_forward(input, weight, module.bias)


# Modules whose forward is a function of the weight: nothing needs to be put into the module.
_FUNCTIONAL: Mapping[type, Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
}


class Leaf(nn.Module):
    """Stands where a module stood and calls it with generated weights.

    Its parameters, buffers and children are the module's own, so state dict keys, ``.to()`` and
    ``train()`` stay what they were; other attributes are looked up and set on the module. The
    module's hooks stay on it. Safe to call from several threads.

    Args:
        inner: the module, with None where a weight is generated. It must not be used otherwise.
    """

    def __init__(self, inner: nn.Module) -> None:
        """Take over what the module holds."""
        super().__init__()
        self.__dict__["inner"] = inner
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = inner.__dict__[name]
        self.__dict__["training"] = inner.training

    def forward(
        self, *args: Any, generated: dict[str, torch.Tensor | Deferred], **kwargs: Any
    ) -> Any:
        """Call the module with ``generated`` (names within the module -> weights) in place."""
        inner = self.__dict__["inner"]
        functional = _FUNCTIONAL.get(type(inner))
        if functional is not None and not has_hooks(inner):
            return functional(inner, generated["weight"], *args, **kwargs)
        weights = made(generated)
        if torch.compiler.is_compiling():
            return torch.func.functional_call(inner, weights, args, kwargs, tie_weights=False)
        # A replica for each call: functional_call puts the weights into the module for the time of
        # the call, which a second thread disturbs (measured: 4 to 8 of 10 calls wrong) and which
        # is over when activation checkpointing runs the module again.
        replicas = _replicate(inner, weights)
        before = [dict(replica.__dict__) for _, replica in replicas]
        result = replicas[0][1](*args, **kwargs)
        for (module, replica), old in zip(replicas, before, strict=True):
            _keep_changes(module, replica, old)
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("inner")
        if inner is not None and name not in self.__dict__ and name in inner.__dict__:
            setattr(inner, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> "Leaf":
        """Set the mode of the module and its children."""
        super().train(mode)
        self.__dict__["inner"].training = mode
        return self

    def extra_repr(self) -> str:
        """Return what the module prints."""
        return self.__dict__["inner"].extra_repr()

    def _get_name(self) -> str:
        return type(self.__dict__["inner"]).__name__

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["inner"]._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["inner"]._load_from_state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("inner")
            if inner is None:
                raise
            return getattr(inner, name)


def _replicate(
    root: nn.Module, weights: Mapping[str, torch.Tensor]
) -> list[tuple[nn.Module, nn.Module]]:
    """Return (module, replica) of a module and all below it, the root first.

    Replicas hold ``weights`` and share parameters and buffers with the modules.
    """
    pairs = [(module, module._replicate_for_data_parallel()) for module in root.modules()]
    new = {id(module): replica for module, replica in pairs}
    owners = {name: module for name, module in root.named_modules(remove_duplicate=False)}
    given: dict[tuple[int, str], torch.Tensor] = {}
    for name, weight in weights.items():
        owner, _, local = name.rpartition(".")
        given[id(owners[owner]), local] = weight
    for module, replica in pairs:
        replica.__dict__.pop("_is_replica", None)
        replica.__dict__["_buffers"] = module._buffers
        for name, value in module.__dict__.items():
            if name not in _OWN:
                replica.__dict__[name] = _translate(replica.__dict__.get(name, value), new)
        children = {
            name: child if child is None else new[id(child)]
            for name, child in module._modules.items()
        }
        replica.__dict__["_modules"] = children
        for name, parameter in module._parameters.items():
            # By assignment, which recurrent layers follow in the list that they keep.
            setattr(replica, name, given.get((id(module), name), parameter))
    return pairs


def _translate(value: Any, new: Mapping[int, nn.Module]) -> Any:
    """Replace modules by their replicas, alone or in a list, tuple or dict."""
    if isinstance(value, nn.Module):
        return new.get(id(value), value)
    if type(value) in (list, tuple) and any(id(item) in new for item in value):
        return type(value)(_translate(item, new) for item in value)
    if type(value) is dict and any(id(item) in new for item in value.values()):
        return {key: _translate(item, new) for key, item in value.items()}
    return value


def _keep_changes(module: nn.Module, replica: nn.Module, before: Mapping[str, Any]) -> None:
    """Write attributes that forward has set back to the module."""
    for name, value in replica.__dict__.items():
        if name not in _OWN and value is not before.get(name, _MISSING):
            module.__dict__[name] = value
