"""Mutations of files: of the bytes, and of what JSON they hold. A number decides all of them."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_NUMBERS = (
    0, -1, 1, 2, 63, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30,
    0.5, -0.0, 1e308, float("inf"), float("nan"), True, False,
)  # fmt: skip
_STRINGS = (
    "", " ", "\x00", "\x1b[31m", "[red]", "<script>", "../../etc/passwd", "/", "a" * 5_000,
    "\ud800", "é", "\u202e", "npas", "b0", "None", "nan", "9" * 400, "float32", "wavg", "mask",
    "%s", "{}",
)  # fmt: skip


def mutate_json(text: str, random: random.Random, others: Sequence[str]) -> str:
    """Return JSON text with one to four changes, most of them of its structure."""
    if random.random() < 0.25:
        return mutate_bytes(text.encode(), random, [t.encode() for t in others]).decode(
            "utf-8", errors="replace"
        )
    if random.random() < 0.01:
        return _bomb(random)
    data = json.loads(text)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(data, random, others)
    written = json.dumps(data)
    if random.random() < 0.02:  # a key twice
        return written.replace("{", '{"n_params": 1, "size": 3, ', 1)
    return written


def _change(data: Any, random: random.Random, others: Sequence[str]) -> None:
    places = list(_places(data))
    if not places:
        return
    holder, key = random.choice(places)
    value = holder[key]
    changes: list[Callable[[], Any]] = [
        lambda: random.choice(_NUMBERS),
        lambda: random.choice(_STRINGS),
        lambda: value + random.choice((-1, 1, 2, -16, 16, 1000)) if _is_number(value) else None,
        lambda: value * random.choice((2, 3, -1, 10**6)) if _is_number(value) else [value],
        lambda: random.choice((None, [], {}, [[]], {"": 0})),
        lambda: _any(random.choice(places)),
        lambda: _any(random.choice(list(_places(json.loads(random.choice(others)))))),
        lambda: value[::-1] if isinstance(value, list | str) else value,
        lambda: value * 2 if isinstance(value, list | str) else value,
    ]
    if random.random() < 0.15:
        if isinstance(holder, dict):
            del holder[key]
        else:
            holder.pop(key)
    elif random.random() < 0.1 and isinstance(holder, dict):
        holder[random.choice(_STRINGS)] = value
    else:
        # A copy: what is put into itself would have no end.
        holder[key] = json.loads(json.dumps(random.choice(changes)()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _any(place: tuple[Any, Any]) -> Any:
    holder, key = place
    return holder[key]


def _places(data: Any) -> Any:
    """Yield (holder, key) of every value below the root."""
    keys: Any = ()
    if isinstance(data, dict):
        keys = list(data)
    elif isinstance(data, list):
        keys = range(len(data))
    for key in keys:
        yield data, key
        yield from _places(data[key])


def _bomb(random: random.Random) -> str:
    n = random.choice((1_000, 100_000))
    return random.choice(
        (
            "[" * n,
            "[" * n + "]" * n,
            '{"a":' * n,
            '{"npas_plan": ' + "9" * n + "}",
            '{"npas_plan": 1, "budget": "' + "x" * n + '"}',
            '{"npas_plan": 1, "layers": [' + "0," * n + "0]}",
            "1e" + "9" * n,
            '"' + "\\u0000" * n + '"',
        )
    )


def mutate_bytes(data: bytes, random: random.Random, others: Sequence[bytes]) -> bytes:
    """Return bytes with one to four changes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        first = random.randrange(len(changed) + 1)
        last = min(len(changed), first + random.choice((1, 2, 8, 100, 10_000)))
        match random.randrange(7):
            case 0 if changed:
                changed[min(first, len(changed) - 1)] ^= 1 << random.randrange(8)
            case 1:
                del changed[first:last]
            case 2:
                changed[first:first] = changed[first:last]
            case 3:
                changed[first:first] = random.randbytes(random.choice((1, 4, 100)))
            case 4:
                del changed[first:]
            case 5:
                other = random.choice(others)
                start = random.randrange(len(other) + 1)
                changed[first:last] = other[start : start + last - first]
            case _ if len(changed) >= 8:
                # Of the header's length, which comes first in a safetensors file.
                changed[:8] = random.choice((0, 1, 7, 2**20, 2**63, 2**64 - 1)).to_bytes(
                    8, "little"
                )
    return bytes(changed)
