"""The navigation has every page, and the reference every public name and command."""

import argparse
import importlib
import importlib.util
import re
from typing import Any

import pytest

import npas
from npas.cli import _parser
from tests.docs.pages import MEASUREMENTS, ROOT, navigation

pytestmark = pytest.mark.pure

DOCS = ROOT / "docs"


def hook(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def reference(parser: argparse.ArgumentParser) -> str:
    assert hook("cli_reference").on_page_markdown("no mark") == "no mark"
    return hook("cli_reference").reference(parser)


def test_the_navigation_has_every_page() -> None:
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(navigation()) == pages
    # Otherwise no block of theirs would be run.
    assert {page.partition("/")[0] for page, section in navigation().items() if not section} >= {
        "index.md",
        "tutorial.md",
        "concepts.md",
        "limits.md",
    }
    assert MEASUREMENTS in navigation().values()


def test_the_reference_has_every_public_name_once() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    entries = re.findall(
        r"^::: ([\w.]+)\n(?: +options:\n +heading: npas\.(\w+)\n)?", "\n".join(pages), re.MULTILINE
    )
    found = {}
    for path, heading in entries:
        assert path not in found, path
        found[path] = getattr(npas, heading or path.rpartition(".")[2], None)
    public = {path: value for path, value in found.items() if value is not None}
    assert sorted(value.__name__ for value in public.values()) == npas.__all__
    for path, value in public.items():
        # The site reads code without running it: for it a module hides a function of its name.
        where, _, name = path.rpartition(".")
        assert not (ROOT / path.replace(".", "/")).with_suffix(".py").exists(), path
        assert getattr(importlib.import_module(where), name) is value, path


def test_the_command_line_is_described_by_its_parser() -> None:
    parser = _parser()
    text = reference(parser)
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    assert re.findall(r"^## npas (\w+)$", text, re.MULTILINE) == list(commands.choices)
    for command in commands.choices.values():
        for option in command._option_string_actions.keys() - {"-h", "--help"}:
            assert f"| `{option}" in text, option
    assert "%%" not in text
    mark = "<!-- commands -->"
    assert (DOCS / "reference" / "cli.md").read_text(encoding="utf-8").count(mark) == 1


def test_another_command_changes_the_page() -> None:
    parser = argparse.ArgumentParser(prog="npas")
    only = parser.add_subparsers().add_parser("grow", help="make a plan larger")
    only.add_argument("--by", required=True, metavar="SHARE", help="a share, 10%%")
    assert "| `--by SHARE` | a share, 10% | required |" in reference(parser)


def test_files_that_development_pages_name_are_there() -> None:
    named: set[str] = set()
    for path in (ROOT / "CONTRIBUTING.md", DOCS / "architecture.md", DOCS / "design.md"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"`((?:npas|tests|benchmarks|docs|examples)/[\w./]+)`", text))
    assert len(named) > 50
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_pictures_that_pages_show_are_there_and_described() -> None:
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
            assert alternative, (path, target)
            assert (path.parent / target).is_file(), (path, target)


def test_nothing_is_loaded_from_other_sites() -> None:
    assert "font: false" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shipped = [*DOCS.rglob("*.css"), *(DOCS / "drawings").glob("*.svg")]
    for path in shipped:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text and "@import" not in text, path
    loaded = hook("other_sites").loaded
    assert loaded('<a href="https://a.org">x</a><script src="assets/b.js"></script>') == []
    assert loaded('<script async src="https://c.org/d.js"></script><link href=//e.org/f.css>') == [
        "https://c.org/d.js",
        "//e.org/f.css",
    ]
