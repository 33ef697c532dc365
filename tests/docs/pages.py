"""What the tests read of the site: its pages by section, and the blocks of a page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
#: The section of the navigation whose pages are made by commands, or are records of runs.
MEASUREMENTS = "Measurements"

_PIECES = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->\n"
    r"|(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence) *$"
    r"|^    (?P<command>npas [^\n]*)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page that can be run.

    Attributes:
        line: of its first line of code, from 1.
        language: ``"python"``, ``"console"``, or ``"setup"`` (Python in a comment, unseen).
        code: its text.
        not_run: why it cannot run in the tests, or None.
    """

    line: int
    language: str
    code: str
    not_run: str | None


def blocks(text: str) -> list[Block]:
    """Return the blocks of Python, setups, and commands of npas in a page, in their order."""
    return list(_blocks(text))


def _blocks(text: str) -> Iterator[Block]:
    for piece in _PIECES.finditer(text):
        kind = "setup" if piece["setup"] else "command" if piece["command"] else "code"
        line = text.count("\n", 0, piece.start(kind)) + 1
        if kind == "setup":
            yield Block(line, "setup", piece["setup"], None)
        elif kind == "command":
            yield Block(line, "console", piece["command"], None)
        elif piece["language"].split(" ")[0] in ("python", "console"):
            yield Block(line, piece["language"].split(" ")[0], piece["code"], piece["reason"])


def navigation() -> dict[str, str]:
    """Return page -> section of the navigation ("" for pages at the top)."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return {page: section for section, page in _entries(site["nav"])}


def _entries(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for entry in nav:
        for title, value in entry.items():
            if isinstance(value, str):
                yield "", value
            else:
                yield from ((title, page) for _, page in _entries(value))


def by_hand() -> list[Path]:
    """Return the pages whose blocks are run: the README, and the site without measurements."""
    pages = [page for page, section in navigation().items() if section != MEASUREMENTS]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / page for page in pages)]
