"""A module of the original that is called with generated weights."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _linear(module: nn.Linear, weight: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    return F.linear(input, weight, module.bias)


def _conv(module: Any, weight: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
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

    Its parameters, buffers, children and hooks are the module's own, so state dict keys,
    ``.to()``, ``train()`` and hooks stay what they were; other attributes are looked up on the
    module. Safe to call from several threads.

    Args:
        inner: the module, with None where a weight is generated. It must not be used otherwise.
    """

    def __init__(self, inner: nn.Module) -> None:
        """Take over what the module holds."""
        super().__init__()
        self.__dict__["inner"] = inner
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = inner.__dict__[name]
        for name in HOOKS:
            self.__dict__[name] = inner.__dict__[name]
            inner.__dict__[name] = OrderedDict()
        self._is_full_backward_hook = inner._is_full_backward_hook
        self.training = inner.training
        self._lock = threading.Lock()

    def forward(self, *args: Any, generated: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        """Call the module with ``generated`` (names within the module -> weights) in place."""
        inner = self.__dict__["inner"]
        functional = _FUNCTIONAL.get(type(inner))
        if functional is not None:
            return functional(inner, generated["weight"], *args, **kwargs)
        if torch.compiler.is_compiling():
            return torch.func.functional_call(inner, generated, args, kwargs, tie_weights=False)
        if not inner._modules:
            return _shallow_copy(inner, generated)(*args, **kwargs)
        # functional_call puts the weights into the module for the time of the call, so a second
        # thread (measured: 4 to 8 of 10 calls wrong) takes a copy of its own.
        if self._lock.acquire(blocking=False):
            try:
                return torch.func.functional_call(inner, generated, args, kwargs, tie_weights=False)
            finally:
                self._lock.release()
        memo: dict[int, Any] = {id(t): t for t in (*inner.parameters(), *inner.buffers())}
        replica = copy.deepcopy(inner, memo)
        return torch.func.functional_call(replica, generated, args, kwargs, tie_weights=False)

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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["_lock"] = threading.Lock()


def _shallow_copy(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy of a module without children that holds ``weights`` and shares the rest."""
    replica = object.__new__(type(module))
    replica.__dict__.update(module.__dict__)
    replica.__dict__["_parameters"] = {**module._parameters, **weights}
    return replica
