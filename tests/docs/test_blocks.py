"""Every block of Python and every command of npas on pages written by hand runs, or says why not.

A page's blocks run in their order, in one namespace and an empty folder. ``<!-- setup`` begins a
comment of Python that runs and is not seen; ``<!-- not run: WHY -->`` on the line before a block
keeps it from running, and is counted below.
"""

import shlex
from pathlib import Path

import pytest

from npas.cli import DIFFERS, OK, main
from tests.docs.pages import ROOT, Block, blocks, by_hand

pytestmark = pytest.mark.pure

#: How many blocks of a page are not run. Whoever marks another one changes this too.
NOT_RUN: dict[str, int] = {"README.md": 1, "docs/distributed.md": 5}

PAGES = {str(page.relative_to(ROOT)): page for page in by_hand()}


def run(page: str, found: list[Block]) -> int:
    """Run blocks, and return how many ran."""
    names: dict[str, object] = {"__name__": "page"}
    n_run = 0
    for block in found:
        if block.not_run is not None:
            continue
        if block.language == "console":
            n_run += sum(run_command(line) for line in block.code.splitlines())
            continue
        # Line numbers in a traceback are those of the page.
        code = "\n" * (block.line - 1) + block.code
        exec(compile(code, page, "exec"), names)
        n_run += block.language == "python"
    return n_run


def run_command(line: str) -> bool:
    """Run a command of npas; other commands of a block are left to the reader."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    if words[:1] != ["npas"]:
        return False
    fine = (OK, DIFFERS) if words[1] == "diff" else (OK,)
    code = main(words[1:])
    assert code in fine, f"{line}: exit code {code}"
    return True


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(PAGES[page].read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    skipped = [f"{page}:{b.line}: {b.not_run}" for b in found if b.not_run is not None]
    print(f"{page}: {run(page, found)} run, {len(skipped)} not run", *skipped, sep="\n")
    assert len(skipped) == NOT_RUN.get(page, 0), skipped


def test_every_fence_of_python_is_seen() -> None:
    """The expression that finds blocks does not miss one, wherever it stands."""
    for page, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        seen = sum(block.language == "python" for block in blocks(text))
        assert seen == sum(line.strip().startswith("```python") for line in text.split("\n")), page


def test_a_block_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fine = "<!-- setup\na = 1\n-->\n\n```python\nb = a + 1\n```\n"
    assert run("page", blocks(fine)) == 1
    bad = "```python\nassert b == 3\n```\n"
    with pytest.raises(AssertionError):
        run("page", blocks(fine + bad))
    marked = blocks(fine + "<!-- not run: it is wrong -->\n" + bad)
    assert run("page", marked) == 1
    assert [block.not_run for block in marked] == [None, None, "it is wrong"]
    with pytest.raises(UserWarning, match="old"):
        run("page", blocks("```python\nimport warnings\nwarnings.warn('old')\n```\n"))
    with pytest.raises(AssertionError, match="exit code 4"):
        run("page", blocks("Text\n\n    npas check nothing.json\n"))
