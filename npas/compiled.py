"""What every compiled module is: the original's class, with the scope of a forward pass."""

import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from npas.errors import NpasError
from npas.leaf import leaf_class, sources_of
from npas.plan import Plan
from npas.recompute import (
    LiveWeights,
    can_recompute,
    can_recompute_compiled,
    recompute_compiled,
    recompute_scope,
)
from npas.report import Report
from npas.ties import Ties


@dataclass(slots=True)
class State:
    """What npas keeps with a compiled module.

    Attributes:
        original: class of the root before it was compiled.
        plan: what was compiled.
        report: how it was compiled.
        live: the generated weights that are alive, shared with the banks.
        recompute: whether generated weights are made again for the backward pass.
        how: what `npas.load` needs to compile the same again, as JSON values.
        ties: names of kept parameters that are one.
        fallbacks: why forward ran without its graph -> how often.
    """

    original: type[nn.Module]
    plan: Plan
    report: Report
    live: LiveWeights
    recompute: bool
    how: Mapping[str, Any]
    ties: Ties = ()
    fallbacks: dict[str, int] = field(default_factory=dict)


class Compiled(nn.Module):
    """Stands in front of the class of a compiled root: every call is one forward pass.

    A class made of this and the original's has the original's name, and its instances are
    instances of the original's class: methods, properties and ``isinstance`` go on working.
    """

    _npas: State

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run forward, keeping recipes instead of generated weights for the backward pass."""
        if torch.compiler.is_compiling():
            if self._npas.recompute and can_recompute_compiled():
                return recompute_compiled(super().__call__, args, kwargs)
            return super().__call__(*args, **kwargs)
        with forward_scope(self._npas):
            return super().__call__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a class without telling the original, which may keep a list of its subclasses."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Return the banks, then the original's children.

        Banks are seen by what looks at a module from outside (FSDP, distributed checkpoints), and
        come first, so that code that cuts off a head goes on doing that.
        """
        pairs = dict(super().named_children())
        first = {"npas": pairs.pop("npas")} if "npas" in pairs else {}
        return iter((first | pairs).items())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as (class of the original, state): the class is made again."""
        reduced = super().__reduce_ex__(protocol)
        return _empty, (self._npas.original, tuple(sources_of(self))), *reduced[2:]


class Held(nn.ModuleDict):
    """What stands under ``npas``.

    Code that runs through a module's children, one after the other, runs through this one too: it
    returns what it is given.
    """

    def forward(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument."""
        return x


class _Steps(nn.Module):
    """Stands in front of nn.Sequential and nn.ModuleList, whose items the banks are not."""

    def __iter__(self) -> Iterator[nn.Module]:
        return (module for name, module in self._modules.items() if name != "npas")  # type: ignore

    def __len__(self) -> int:
        return len(self._modules) - ("npas" in self._modules)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return list(self)[index]
        plain = nn.ModuleList() if isinstance(self, nn.ModuleList) else nn.Sequential()
        for name, item in self._modules.items():
            if name != "npas":
                plain.add_module(name, item)
        return plain[index]


class _Entries(nn.Module):
    """Stands in front of nn.ModuleDict, whose entries the banks are not."""

    def keys(self) -> Any:
        return {name: None for name in self._modules if name != "npas"}.keys()

    def items(self) -> Any:
        return {name: module for name, module in self._modules.items() if name != "npas"}.items()

    def values(self) -> Any:
        return [module for name, module in self._modules.items() if name != "npas"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@contextmanager
def forward_scope(state: State) -> Iterator[None]:
    """Let what runs inside be one forward pass: banks take part once, recipes are saved."""
    with state.live.forward_pass():
        if not state.recompute or not can_recompute():
            yield
            return
        with recompute_scope(state.live):
            yield


def compiled_class(original: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of the same name whose calls are forward passes."""
    return subclass(original, Compiled)


def subclass(original: type[nn.Module], mixin: type, **members: Any) -> Any:
    """Return a subclass of ``(mixin, original)`` that goes by the original's name.

    There is one for each original as long as anything uses it; Python lists a class's subclasses.
    """
    for made in original.__subclasses__():
        if made.__bases__[0] is mixin and made.__qualname__ == original.__qualname__:
            return made
    names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    space = {"__doc__": original.__doc__, **names, **members}
    items: tuple[type, ...] = ()
    if issubclass(original, nn.Sequential | nn.ModuleList):
        items = (_Steps,)
    elif issubclass(original, nn.ModuleDict):
        items = (_Entries,)
    bases = (mixin, *items, original)
    return types.new_class(original.__name__, bases, exec_body=lambda made: made.update(space))


def _empty(original: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls = compiled_class(leaf_class(original, names) if names else original)
    return cls.__new__(cls)


def required_state(module: nn.Module, function: str) -> State:
    """Return what npas keeps with a module.

    Args:
        module: what a user gave.
        function: that it was given to, for the error.

    Raises:
        NpasError: if it was not compiled, which names a part that was: a wrapper's module.
    """
    state = state_of(module)
    if state is not None:
        return state
    parts = (name for name, part in module.named_modules() if name and state_of(part) is not None)
    part = next(parts, None)
    what = f"{type(module).__name__} was not compiled by npas"
    if part is not None:
        raise NpasError(f"{what}, but its part {part} was: give {function} that")
    raise NpasError(f"{what}; {function} takes what npas.compile or npas.compile_ returned")


def state_of(module: object) -> State | None:
    """Return what npas keeps with a module, or None if it was not compiled."""
    return module._npas if isinstance(module, Compiled) else None
