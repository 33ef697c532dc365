"""Watch: what a graph froze of the modules that it runs through without calling them."""

import operator
import random
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from npas.guards import Refused

_CONSTANTS = (bool, int, float, str, type(None))
# What torch.nn.Module itself holds.
_OWN = frozenset(nn.Module().__dict__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What one module, or an object that modules hold (a configuration), was like."""

    holder: Any
    kind: str
    names: tuple[str, ...]
    values: tuple[Any, ...]
    inside: tuple[tuple[str, tuple[Any, ...]], ...]
    children: tuple[nn.Module | None, ...] | None
    absent: frozenset[str]


class Watch:
    """Remembers modules as a graph found them, and refuses calls once they have changed.

    Args:
        root: whose forward was captured.
        modules: those below it that the graph runs through.
        but: attributes that are no business of the graph.
        of_dtype: whether the graph holds for the dtype that parameters have now.
    """

    def __init__(
        self,
        root: nn.Module,
        modules: Iterable[nn.Module],
        but: Iterable[str] = (),
        *,
        of_dtype: bool = False,
    ) -> None:
        """Look at everything once."""
        self._dtypes = _first_dtype(root) if of_dtype else None
        self._but = _OWN | frozenset(but)
        self._modules = list(modules)
        self._kept: list[_Kept] = []
        seen: set[int] = set()
        for module in (root, *self._modules):
            self._keep(module)
            for name in self._names(module.__dict__):
                self._keep_settings(module.__dict__[name], seen, 3)
        self._ties = _ties(root)

    def check(self, training: bool) -> None:
        """Check the modules against what they were.

        Raises:
            Refused: if one is in another mode than the root, has hooks, other attributes or
                children, or parameters that were one are not any more.
        """
        for module in self._modules:
            held = module.__dict__
            if held["training"] is not training:
                raise Refused("a submodule is in another mode than the root")
            if (
                held["_forward_hooks"]
                or held["_forward_pre_hooks"]
                or held["_backward_hooks"]
                or held["_backward_pre_hooks"]
            ):
                raise Refused("a submodule that the graph runs through has hooks")
        for kept in self._kept:
            self._compare(kept)
        if self._dtypes is not None:
            holder, name, dtype = self._dtypes
            parameter = holder._parameters.get(name)
            if parameter is None or parameter.dtype != dtype:
                raise Refused("parameters of another dtype")
        for tie in self._ties:
            (first, name), *others = tie
            shared = first._parameters.get(name)
            if any(module._parameters.get(other) is not shared for module, other in others):
                raise Refused("parameters that were tied are not any more")

    def _compare(self, kept: _Kept) -> None:
        held = kept.holder.__dict__
        what = type(kept.holder).__name__
        if _kind(kept.holder) != kept.kind or tuple(self._names(held)) != kept.names:
            raise Refused(f"{what} has other attributes")
        values = [held[name] for name in kept.names]
        if not all(map(operator.is_, values, kept.values)):
            for name, value, before in zip(kept.names, values, kept.values, strict=True):
                if not _is_same(before, value):
                    raise Refused(f"{what}.{name} was changed")
        for name, items in kept.inside:
            now = _items(held[name])
            same = map(_is_same_item, items, now)
            if len(now) != len(items) or not all(same):
                raise Refused(f"{what}.{name} was changed")
        if kept.children is not None:
            if tuple(held["_modules"].values()) != kept.children:
                raise Refused(f"a part of {what} was replaced")
            if _absent(kept.holder) != kept.absent:
                raise Refused(f"a parameter or buffer of {what} came or went")

    def _names(self, held: Mapping[str, Any]) -> list[str]:
        return [name for name in held if name not in self._but]

    def _keep(self, holder: Any) -> None:
        names = tuple(self._names(holder.__dict__))
        values = tuple(holder.__dict__[name] for name in names)
        inside = tuple(
            (name, _items(value))
            for name, value in zip(names, values, strict=True)
            if isinstance(value, list | dict | set)
        )
        module = isinstance(holder, nn.Module)
        children = tuple(holder._modules.values()) if module else None
        absent = _absent(holder) if module else frozenset()
        self._kept.append(_Kept(holder, _kind(holder), names, values, inside, children, absent))

    def _keep_settings(self, value: Any, seen: set[int], depth: int) -> None:
        """Keep objects that only hold values, such as a configuration, and what they hold."""
        settings = hasattr(value, "__dict__") and not (
            callable(value) or isinstance(value, torch.Tensor | nn.Module | type | Mapping)
        )
        if settings and depth and id(value) not in seen:
            seen.add(id(value))
            self._keep(value)
            for held in value.__dict__.values():
                self._keep_settings(held, seen, depth - 1)


def _first_dtype(root: nn.Module) -> tuple[nn.Module, str, torch.dtype] | None:
    """Return where the first floating-point parameter is, and its dtype."""
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                return module, name, parameter.dtype
    return None


def _kind(holder: Any) -> str:
    # By name: the classes that npas makes do not pickle.
    return f"{type(holder).__module__}.{type(holder).__qualname__}"


def _items(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    return tuple(value)


def _absent(module: nn.Module) -> frozenset[str]:
    held = (*module._parameters.items(), *module._buffers.items())
    return frozenset(name for name, tensor in held if tensor is None)


def _ties(root: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    holders: dict[int, dict[tuple[int, str], tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), {})[id(module), name] = (module, name)
    return [list(found.values()) for found in holders.values() if len(found) > 1]


class Draws:
    """Tells whether anything drew random numbers, which a captured graph would repeat for ever."""

    def __init__(self, *, of_torch: bool = True) -> None:
        """Note the state of every generator; torch's too where a graph would not draw again."""
        self._of_torch = of_torch
        self._before = self._states()

    def any(self) -> bool:
        """Return whether a generator has moved."""
        return self._before != self._states()

    def _states(self) -> tuple[Any, ...]:
        numpy: Any = np.random.get_state()
        place = numpy[1].tobytes(), numpy[2]
        own = torch.get_rng_state().numpy().tobytes() if self._of_torch else b""
        return random.getstate(), place, own


class Attributes:
    """Tells whether a forward that is being captured assigns attributes, which a graph drops.

    Args:
        root: about to be called.
    """

    def __init__(self, root: nn.Module) -> None:
        """Look at everything once."""
        self._before = [(path, module, _snapshot(module)) for path, module in root.named_modules()]

    def changed(self, but: str = "") -> str | None:
        """Return the path of an attribute that is not what it was, or None.

        Args:
            but: attributes that begin with this are the tracer's.
        """
        for path, module, before in self._before:
            after = _snapshot(module)
            for name in before.keys() | after.keys():
                if but and name.startswith(but):
                    continue
                if not _is_same(before.get(name, self), after.get(name, self)):
                    return f"{path}.{name}" if path else name
        return None


def _snapshot(module: nn.Module) -> dict[str, Any]:
    held = module.__dict__
    found = {name: value for name, value in held.items() if name not in _OWN}
    for group in ("_parameters", "_buffers", "_modules"):
        found |= held[group]
    # A list or dict that grows in forward is changed as well.
    sizes = {f"len({n})": len(v) for n, v in found.items() if isinstance(v, list | dict | set)}
    return found | sizes


def _is_same_item(before: Any, after: Any) -> bool:
    held = (torch.Tensor, weakref.ReferenceType)
    return _is_same(before, after) or (isinstance(before, held) and isinstance(after, held))


def _is_same(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is type(after) and isinstance(before, list | tuple):
        # Recurrent layers list their weights, and references to them, anew.
        pairs = zip(before, after, strict=False)
        return len(before) == len(after) and all(_is_same_item(*pair) for pair in pairs)
    return isinstance(before, _CONSTANTS) and type(before) is type(after) and before == after
