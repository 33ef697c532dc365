"""Text that was written by others, made safe to show, and JSON that is safe inside HTML."""

import html
import json
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
