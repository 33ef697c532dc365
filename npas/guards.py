"""Guards: which calls a captured graph answers. The original's own forward answers the others."""

import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from npas.autocast import autocast_dtype
from npas.errors import NpasError
from npas.structures import Structure, flatten, rebuild

CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Refused(Exception):
    """A call that a graph does not answer, with the reason."""


class Guard(Protocol):
    """Decides for one graph.

    Attributes:
        compiles: whether torch.compile is to see the graph instead of the original's forward.
    """

    compiles: ClassVar[bool]

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return positional and keyword inputs of the graph.

        Raises:
            Refused: if the graph was not made for such a call.
        """
        ...

    def outputs(self, result: Any) -> Any:
        """Return what forward returns, from what the graph returns."""
        ...


def has_hooks(module: nn.Module) -> bool:
    """Tell whether calling the module runs hooks that a trace through it would freeze."""
    return any(module.__dict__.get(name) for name in CALL_HOOKS)


def bind(names: "Names", args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return argument name -> value.

    Raises:
        Refused: if there are more arguments than positions, or one has no name among them.
    """
    if len(args) > names.n_positional:
        raise Refused("more positional arguments than the graph was made for")
    values = dict(zip(names.every, args, strict=False))
    for name, value in kwargs.items():
        if name in values or name not in names.every:
            raise Refused(f"argument {name} was given")
        values[name] = value
    return values


@dataclass(frozen=True, slots=True)
class Names:
    """The arguments of a forward.

    Attributes:
        every: names of the arguments that are passed by position or by name.
        n_positional: how many of them may be passed by position.
    """

    every: tuple[str, ...]
    n_positional: int

    @classmethod
    def of(cls, forward: Callable[..., Any], *more: str) -> "Names":
        """Return those of a forward, and more that it takes by ``**``."""
        parameters = inspect.signature(forward).parameters.values()
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        positional = [p.name for p in parameters if p.kind in by_position]
        named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        return cls(tuple(dict.fromkeys((*positional, *named, *more))), len(positional))


def is_same(value: Any, expected: Any) -> bool:
    """Tell whether a constant is the one that a graph was made with."""
    return value is expected or (
        type(value) is type(expected)
        and not isinstance(value, torch.Tensor)
        and bool(value == expected)
    )


@dataclass(frozen=True, slots=True)
class ArgumentGuard:
    """Guards a graph with the original's signature, as fx makes it.

    Attributes:
        names: of the arguments.
        constants: argument -> the value it was traced with.
        needed: arguments that are None by default and were traced with another value.
        starred: whether forward takes ``*args``.
        kinds: argument -> type of its example, where there is one.
        same: of the tensors among the examples by name, those that are one tensor.
    """

    compiles: ClassVar[bool] = True
    names: Names
    constants: Mapping[str, Any]
    needed: frozenset[str] = frozenset()
    starred: bool = False
    kinds: Mapping[str, type] = field(default_factory=dict)
    same: tuple[int, ...] | None = None

    def for_examples(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "ArgumentGuard":
        """Return a guard that keeps the types of the examples, and which of them are one."""
        given = dict(zip(self.names.every, args, strict=False)) | dict(kwargs)
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        kinds = {
            n: torch.Tensor if isinstance(v, torch.Tensor) else type(v) for n, v in given.items()
        }
        return replace(self, kinds=kinds, same=first_same(tensors) if tensors else None)

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Check constants, and that nothing else is None."""
        if len(args) > self.names.n_positional and not self.starred:
            raise Refused("more positional arguments than forward has")
        given = dict(zip(self.names.every, args, strict=False)) | dict(kwargs)
        if not self.needed <= given.keys():
            missing = min(self.needed - given.keys())
            raise Refused(f"argument {missing} was not given")
        for name, value in given.items():
            if name in self.constants:
                if not is_same(value, self.constants[name]):
                    raise Refused(f"argument {name} was traced as {self.constants[name]!r}")
            elif value is None:
                raise Refused(f"argument {name} is None")
            elif name in self.kinds and not isinstance(value, self.kinds[name]):
                raise Refused(f"argument {name} is of another type than the example")
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        if len(tensors) > 1 and first_same(tensors) != (self.same or tuple(range(len(tensors)))):
            raise Refused("other arguments are one tensor")
        return args, kwargs

    def outputs(self, result: Any) -> Any:
        """Return it as it is."""
        return result


@dataclass(frozen=True, slots=True)
class ExampleGuard:
    """Guards a graph of flat tensors that was captured with example inputs, as torch.export does.

    Attributes:
        names: of the arguments.
        given: arguments of the examples, in the order of the graph's inputs.
        defaults: argument -> default, for arguments that may be left out.
        structure: of the given arguments' values.
        shapes: of each input; a text is a size that may vary, equal texts are equal sizes.
        places: `place_of` each input.
        ranges: text of ``shapes`` -> smallest and largest size.
        conditions: what else torch.export assumed, as Python over ``sizes[input][dimension]``.
        result: structure of what forward returns.
        same: for each input, the first one that is the same tensor.
    """

    compiles: ClassVar[bool] = False
    names: Names
    given: tuple[str, ...]
    defaults: Mapping[str, Any]
    structure: Structure
    shapes: tuple[tuple[int | str, ...], ...]
    places: tuple["Place", ...]
    ranges: Mapping[str, tuple[int, int]]
    conditions: str
    result: Structure
    same: tuple[int, ...]

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Flatten the arguments, and check everything that was fixed with the examples."""
        values = bind(self.names, args, kwargs)
        for name, value in values.items():
            if name not in self.given and not is_same(value, self.defaults.get(name)):
                raise Refused(f"argument {name} was given")
        missing = [name for name in self.given if name not in values]
        if missing:
            raise Refused(f"argument {missing[0]} was not given")
        try:
            tensors, structure = flatten([values[name] for name in self.given])
        except NpasError as error:
            raise Refused(str(error)) from error
        if structure != self.structure:
            raise Refused("arguments of another structure or with other constants")
        self._check_tensors(tensors)
        if first_same(tensors) != self.same:
            raise Refused("other arguments are one tensor")
        device = tensors[0].device if tensors else torch.device("cpu")
        if autocast_dtype(device) is not None:
            raise Refused("autocast is on")
        return tensors, {}

    def _check_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        found: dict[str, int] = {}
        for tensor, shape, place in zip(tensors, self.shapes, self.places, strict=True):
            if place_of(tensor) != place or tensor.dim() != len(shape):
                raise Refused("a tensor of another dtype, device, layout or number of dimensions")
            for size, expected in zip(tensor.shape, shape, strict=True):
                if isinstance(expected, str):
                    if found.setdefault(expected, size) != size:
                        raise Refused("sizes that were equal are not")
                    least, most = self.ranges.get(expected, (0, size))
                    if not least <= size <= most:
                        raise Refused(f"a size of {size}, captured for {least} to {most}")
                elif size != expected:
                    raise Refused(f"a size of {size}, captured for {expected}")
        if self.conditions and not _holds(self.conditions, tuple(tuple(t.shape) for t in tensors)):
            raise Refused("sizes that the graph was not captured for")

    def outputs(self, result: Any) -> Any:
        """Put the tensors into the structure that forward returned."""
        return rebuild(list(result), self.result)


# dtype, kind of device, layout, whether it is contiguous.
Place = tuple[torch.dtype, str, torch.layout, bool]


def place_of(tensor: torch.Tensor) -> Place:
    """Return what a forward may ask a tensor for, besides sizes."""
    dense = tensor.layout == torch.strided and tensor.is_contiguous()
    return tensor.dtype, tensor.device.type, tensor.layout, dense


def first_same(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Return, for each tensor, the place of the first that is the same object."""
    places: dict[int, int] = {}
    return tuple(places.setdefault(id(tensor), i) for i, tensor in enumerate(tensors))


@functools.lru_cache(maxsize=4096)
def _holds(conditions: str, sizes: tuple[tuple[int, ...], ...]) -> bool:
    from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP  # imports sympy

    return bool(eval(_code(conditions), {**SYMPY_INTERP, "math": math}, {"sizes": sizes}))


@functools.lru_cache(maxsize=256)
def _code(conditions: str) -> types.CodeType:
    return compile(conditions, "<sizes>", "eval")


@dataclass(frozen=True, slots=True)
class Never:
    """Guards a graph that only shows what is called: the original's forward answers every call."""

    compiles: ClassVar[bool] = False

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Refuse."""
        raise AssertionError("an opaque graph is not run")

    def outputs(self, result: Any) -> Any:
        """Return it as it is."""
        return result
