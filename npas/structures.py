"""Structures: tensors in and out of tuples, dicts, dataclasses and whatever pytree knows."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from npas.errors import NpasError

_CONSTANTS = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None))


@dataclass(frozen=True, slots=True)
class Structure:
    """How a value is put together.

    Attributes:
        kind: ``"tensor"``, ``"constant"``, ``"node"`` (a type that pytree knows), ``"dataclass"``
            or ``"object"`` (any other, by its attributes).
        type: of the value, or None.
        context: the constant, pytree's context, or the names of the fields.
        parts: of the value.
    """

    kind: str
    type: Any = None
    context: Any = None
    parts: tuple["Structure", ...] = ()


# Numbers that torch.export does not know yet, and what has yet to run.
_UNKNOWN = (torch.SymFloat, torch.SymBool, Iterator)
_TENSOR = Structure("tensor")
# Attributes of attributes of results are looked into this deep.
_DEPTH = 8


def flatten(value: Any, *, objects: bool = False) -> tuple[list[torch.Tensor], Structure]:
    """Return the tensors of a value and how they are put together.

    Args:
        value: anything.
        objects: whether to take any other object apart by its attributes, and one that holds no
            tensors as a constant. What is put together again is then another object, so this is
            for results.

    Raises:
        NpasError: for an object that is neither a tensor, a constant, a dataclass, nor of a type
            that ``torch.utils._pytree`` knows.
    """
    tensors: list[torch.Tensor] = []
    return tensors, _flatten(value, tensors, _DEPTH if objects else 0)


def rebuild(tensors: Sequence[torch.Tensor], structure: Structure) -> Any:
    """Put tensors together again; the inverse of `flatten`."""
    left = list(reversed(tensors))
    return _rebuild(left, structure)


def _flatten(value: Any, tensors: list[torch.Tensor], depth: int) -> Structure:
    # A size that torch.export left free is a result of its graph as tensors are.
    if isinstance(value, torch.Tensor | torch.SymInt):
        tensors.append(value)  # pyright: ignore[reportArgumentType]
        return _TENSOR
    if isinstance(value, _CONSTANTS):
        return Structure("constant", type(value), value)
    cls = pytree._get_node_type(value)
    if cls in pytree.SUPPORTED_NODES:
        children, context = pytree.SUPPORTED_NODES[cls].flatten_fn(value)
        parts = tuple(_flatten(child, tensors, depth) for child in children)
        return Structure("node", cls, context, parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in dataclasses.fields(value))
        parts = tuple(_flatten(getattr(value, name), tensors, depth) for name in names)
        return Structure("dataclass", type(value), names, parts)
    if depth > 1 and not isinstance(value, _UNKNOWN):
        held, found = getattr(value, "__dict__", {}), len(tensors)
        parts = tuple(_flatten(part, tensors, depth - 1) for part in held.values())
        if len(tensors) > found:
            return Structure("object", type(value), tuple(held), parts)
        return Structure("constant", type(value), value)
    raise NpasError(f"an object of type {type(value).__name__}, whose tensors cannot be told")


def _rebuild(left: list[torch.Tensor], structure: Structure) -> Any:
    if structure.kind == "tensor":
        return left.pop()
    if structure.kind == "constant":
        return structure.context
    parts = [_rebuild(left, part) for part in structure.parts]
    if structure.kind == "node":
        return pytree.SUPPORTED_NODES[structure.type].unflatten_fn(parts, structure.context)
    fields = dict(zip(structure.context, parts, strict=True))
    if structure.kind == "object":
        made = object.__new__(structure.type)
        made.__dict__.update(fields)
        return made
    made = {f.name: fields.pop(f.name) for f in dataclasses.fields(structure.type) if f.init}
    result = structure.type(**made)
    for name, part in fields.items():
        object.__setattr__(result, name, part)
    return result
