"""Text that was written by others, made safe to show, and JSON that is safe inside HTML."""

import html
import json
from collections.abc import Iterable
from typing import Any

#: Characters of a name that are shown; longer ones lose their middle.
MOST_CHARACTERS = 300
_TAIL = 60
# What could end the script element that holds the JSON, or a line of JavaScript.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def visible(text: str) -> str:
    r"""Return text with what cannot be seen spelled out: ``\x1b``, ``\u202e``.

    Control characters, overrides of the writing direction and spaces without a width would make a
    name look like another. What is left is still markup to a browser: escape it.
    """
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
        )
    if len(text) <= MOST_CHARACTERS:
        return text
    head = text[: MOST_CHARACTERS - _TAIL]
    return f"{head} [{len(text) - MOST_CHARACTERS:,} characters left out] {text[-_TAIL:]}"


def escaped(text: str) -> str:
    """Return text as it can stand between tags or in a quoted attribute."""
    return html.escape(visible(text), quote=True)


def embedded(data: Any) -> str:
    """Return data as JSON that can stand in a ``<script type="application/json">``."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_UNSAFE)


_UNITS = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def amount(n: int, one: str) -> str:
    """Return ``"1 layer"`` or ``"2,000 layers"``."""
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def short(n: int) -> str:
    """Return a number in three digits and a letter: ``5,243,328,768`` is ``5.24 G``."""
    for size, letter in _UNITS:
        if n >= size:
            return f"{_three(n / size)} {letter}"
    return f"{n} "


def bytes_text(n: int) -> str:
    """Return bytes in three digits: ``13.8 MiB``."""
    size, unit = float(n), "bytes"
    for larger in _BYTE_UNITS:
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{n:,} bytes" if unit == "bytes" else f"{_three(size)} {unit}"


def _three(x: float) -> str:
    """Return three digits, and all of those before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def tiles_html(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Return numbers with what they are above and what more there is to say below."""
    inside = "".join(
        f'<div class="tile"><dt>{escaped(name)}</dt><dd>{escaped(value)}'
        f"<small>{escaped(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{inside}</dl>'
