"""Rows as tables: for a terminal, and as a Markdown file with the command that made it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
Format = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, the row's key, and how a value is written. None is a dash."""

    head: str
    key: str
    write: Format = str

    def text(self, row: Row) -> str:
        """Return the cell of a row."""
        value = row.get(self.key)
        return "-" if value is None else self.write(value)


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a title, and a note that says how to read them."""

    title: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def count(value: int) -> str:
    """Write a number of bytes or elements."""
    return f"{value:,}"


def ms(value: float) -> str:
    """Write milliseconds to three places that say something."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def times(value: float) -> str:
    """Write a ratio."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def percent(value: float) -> str:
    """Write a share."""
    return f"{value:.1%}"


def show(console: Console, sections: Iterable[Section]) -> None:
    """Print tables."""
    for section in sections:
        table = Table(title=section.title, caption=section.note, caption_justify="left")
        for column in section.columns:
            numeric = section.rows and not isinstance(section.rows[0].get(column.key), str)
            table.add_column(column.head, justify="right" if numeric else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*(column.text(row) for column in section.columns))
        console.print(table)


def markdown(title: str, command: str, where: str, sections: Iterable[Section]) -> str:
    """Return a document of tables."""
    lines = [f"# {title}", "", f"Made by `{command}` ({where}).", ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.note, "", *table_lines(section), ""]
    return "\n".join(lines)


def table_lines(section: Section) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [
        "| " + " | ".join(column.head for column in section.columns) + " |",
        "|" + " --- |" * len(section.columns),
    ]
    for row in section.rows:
        lines.append("| " + " | ".join(column.text(row) for column in section.columns) + " |")
    return lines


def read_markdown(path: Path) -> list[dict[str, str]]:
    """Return the rows of all tables of a document, with the heads as keys."""
    found: list[dict[str, str]] = []
    heads: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not heads:
            heads = cells
        elif set(cells) != {"---"}:
            found.append(dict(zip(heads, cells, strict=True)))
    return found
