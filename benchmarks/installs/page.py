"""The table of docs/installing.md, made from the committed rows."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.installs.rows import ROOT

PAGE = ROOT / "docs" / "installing.md"
BEGIN, END = "<!-- installs: begin -->\n", "<!-- installs: end -->"
# Versions with a column of their own; the others stand in the last one.
_COLUMNS = ("torch", "triton", "numpy")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    head = ["environment", "Python", *_COLUMNS, "others", "packages", "MB", "installed in", "works"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    lines += [" | ".join(_cells(row)) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _cells(row: dict[str, Any]) -> list[str]:
    versions = row.get("versions", {})
    others = ", ".join(f"{n} {v}" for n, v in versions.items() if n not in _COLUMNS)
    return [
        f"**{row['name']}**: {row['note']}",
        row.get("python", "-"),
        *(versions.get(name, "-") for name in _COLUMNS),
        others or "-",
        str(row.get("packages", "-")),
        f"{row['size_mb']:,}" if "size_mb" in row else "-",
        f"{row['install_s']:.0f} s" if "install_s" in row else "-",
        "yes" if row["works"] else "no",
    ]


def write(rows: Sequence[dict[str, Any]], page: Path) -> None:
    """Put the table between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert len(found.findall(text)) == 1, f"{page} must have the marks once"
    new = f"{BEGIN}\n{table(rows)}\n{END}"
    page.write_text(found.sub(lambda _: new, text), encoding="utf-8")
