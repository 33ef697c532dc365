"""Watch: what a graph froze of the modules that it runs through without calling them."""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
    names: tuple[str, ...]
    values: tuple[Any, ...]
    children: tuple[nn.Module | None, ...] | None


class Watch:
    """Remembers modules as a graph found them, and refuses calls once they have changed.

    Args:
        root: whose forward was captured.
        modules: those below it that the graph runs through.
        but: attributes that are no business of the graph.
    """

    def __init__(
        self, root: nn.Module, modules: Iterable[nn.Module], but: Iterable[str] = ()
    ) -> None:
        """Look at everything once."""
        self._but = _OWN | frozenset(but)
        self._modules = list(modules)
        self._kept: list[_Kept] = []
        seen: set[int] = set()
        for module in (root, *self._modules):
            self._keep(module, tuple(module._modules.values()))
            for held in module.__dict__.values():
                if id(held) not in seen and _is_settings(held):
                    seen.add(id(held))
                    self._keep(held, None)
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
            held = kept.holder.__dict__
            if tuple(map(held.get, kept.names)) != kept.values:
                name = next(
                    n for n, v in zip(kept.names, kept.values, strict=True) if held.get(n) != v
                )
                raise Refused(f"{type(kept.holder).__name__}.{name} was changed")
            if kept.children is not None and tuple(held["_modules"].values()) != kept.children:
                raise Refused(f"a part of {type(kept.holder).__name__} was replaced")
        for tie in self._ties:
            (first, name), *others = tie
            shared = first._parameters.get(name)
            if any(module._parameters.get(other) is not shared for module, other in others):
                raise Refused("parameters that were tied are not any more")

    def _keep(self, holder: Any, children: tuple[nn.Module | None, ...] | None) -> None:
        found = {
            name: value
            for name, value in holder.__dict__.items()
            if isinstance(value, _CONSTANTS) and name not in self._but
        }
        self._kept.append(_Kept(holder, tuple(found), tuple(found.values()), children))


def _is_settings(value: Any) -> bool:
    return hasattr(value, "__dict__") and not (
        callable(value) or isinstance(value, torch.Tensor | nn.Module | type | Mapping)
    )


def _ties(root: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    holders: dict[int, dict[tuple[int, str], tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), {})[id(module), name] = (module, name)
    return [list(found.values()) for found in holders.values() if len(found) > 1]


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
    return before is after or (isinstance(before, held) and isinstance(after, held))


def _is_same(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is type(after) and isinstance(before, list | tuple):
        # Recurrent layers list their weights, and references to them, anew.
        pairs = zip(before, after, strict=False)
        return len(before) == len(after) and all(_is_same_item(*pair) for pair in pairs)
    return isinstance(before, _CONSTANTS) and type(before) is type(after) and before == after
