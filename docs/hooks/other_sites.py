"""Fails a build whose pages load anything from another site: themes and plugins do so quietly."""

import logging
import re
from typing import Any

_log = logging.getLogger("mkdocs.hooks.other_sites")
_LOADS = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of what a page would load, which is an error in a strict build (called by mkdocs)."""
    for address in loaded(output):
        _log.warning("%s loads %s", page.file.src_uri, address)
    return output


def loaded(html: str) -> list[str]:
    """Return the addresses on other sites that a page loads by itself; links are none."""
    return _LOADS.findall(html)
