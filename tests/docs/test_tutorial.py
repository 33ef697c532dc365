"""What the tutorial says that its blocks print, they print; what is learned is not compared."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import rich

from tests.docs.pages import ROOT

pytestmark = pytest.mark.pure

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def missing(shown: str, printed: str) -> list[str]:
    """Return the lines that were not printed, in their order; ``...`` stands for anything."""
    rest = iter(line.rstrip() for line in printed.splitlines())
    lines = [line.rstrip() for line in shown.splitlines() if line.strip() != "..."]
    return [line for line in lines if not any(_is(line, found) for found in rest)]


def _is(line: str, found: str) -> bool:
    start, dots, _ = line.partition("...")
    return found.startswith(start) if dots else found == line


def test_blocks_print_what_stands_below_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rich.get_console(), "width", 110)  # that an earlier test may have made
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("## Train\n")
    names: dict[str, object] = {"__name__": "page"}
    n_compared = 0
    for code, shown in _BLOCK.findall(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert not missing(shown, printed.getvalue()), printed.getvalue()
        n_compared += bool(shown)
    assert n_compared >= 6


def test_another_line_is_seen() -> None:
    printed = "a\nb 1\nc, d and 8 more\n"
    assert missing("a\n  ...\nc, d ...\n", printed) == []
    assert missing("a\nb 2\n", printed) == ["b 2"]
    assert missing("b 1\na\n", printed) == ["a"]
