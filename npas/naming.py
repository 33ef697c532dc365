"""Names and patterns: how users point at weights and modules."""

import difflib
import fnmatch
import keyword
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from npas.errors import NpasError

_MODULES = nn.ModuleDict()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``" (nearest: 'single')"``, or nothing if none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f" (nearest: {found[0]!r})" if found else ""


def check_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise an `NpasError` that names the nearest choice, unless the value is one of them."""
    known = list(choices)
    if value not in known:
        raise NpasError(
            f"{argument}={value!r} is unknown{nearest(str(value), known)}; use one of "
            f"{', '.join(known)}"
        )


def prefixes(name: str) -> list[str]:
    """Return ``a``, ``a.b``, ``a.b.c`` for ``a.b.c``: the modules above a weight, and it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern points at a weight.

    Args:
        pattern: a name or its last parts (``"fc1"``, ``"attn.q"``), a glob (``"blocks.*.attn"``),
            or a regular expression after ``re:``, which must match a whole name. It may name the
            weight, its module, or any module above.
        name: fully qualified name of the weight.
    """
    candidates = prefixes(name)
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise NpasError(f"pattern {pattern!r} is not a regular expression: {error}") from error
        return any(expression.fullmatch(candidate) for candidate in candidates)
    if any(character in pattern for character in "*?["):
        return any(fnmatch.fnmatchcase(candidate, pattern) for candidate in candidates)
    return any(c == pattern or c.endswith("." + pattern) for c in candidates)


def select(patterns: Iterable[str], names: Iterable[str], *, argument: str) -> set[str]:
    """Return the names that any of the patterns points at.

    Raises:
        NpasError: if a pattern matches nothing.
    """
    known = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise NpasError(
                f"{argument}: pattern {pattern!r} is a {type(pattern).__name__}, no text"
            )
        found = {name for name in known if matches(pattern, name)}
        if not found:
            every = {prefix for name in known for prefix in prefixes(name)}
            raise NpasError(
                f"{argument}: pattern {pattern!r} matches no weight of the model"
                f"{nearest(pattern, every)}; weights are named as in named_parameters(), "
                f"for example {known[0] if known else '(none)'}"
            )
        chosen |= found
    return chosen


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as a tuple; one tensor stands for itself.

    Raises:
        NpasError: for what cannot be positional inputs.
    """
    if not isinstance(inputs, torch.Tensor | Iterable):
        raise NpasError(f"example_inputs={inputs!r} must be a tuple of what forward takes")
    return (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)


def identifier(name: str) -> str:
    """Return a fully qualified name as a Python identifier."""
    plain = "".join(c if f"_{c}".isidentifier() else "_" for c in name)
    return plain if plain.isidentifier() and not keyword.iskeyword(plain) else f"_{plain}"


def is_bank_name(name: str) -> bool:
    """Tell whether a bank may have this name: it is an attribute of a module, and so in code."""
    return name.isidentifier() and not keyword.iskeyword(name) and not hasattr(_MODULES, name)
