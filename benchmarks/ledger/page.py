"""docs/benchmarks.md, from committed summaries alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ledger.suite import Suite
from benchmarks.ledger.summary import read
from benchmarks.tables import table_lines

PAGE = Path("docs/benchmarks.md")
PICTURES = Path("docs/benchmarks")
_HEAD = """# The cost ledger

What parameter sharing costs and saves: on every network of the paper (Plummer et al., "Neural
Parameter Allocation Search", ICLR 2022), beside the methods that it is compared with. This page is
made by `python -m benchmarks report --write` from benchmarks/results; each part names the command
that made its rows. Numbers of the paper stand beside ours where it has them
(benchmarks/paper.toml).

One multiply-accumulate counts once: a convolution or product of 2 FLOPs each. What the paper calls
FLOPs is the same count: its 26.7M for WRN-16-1 are our 26,657,408 multiply-accumulates.
"""


def page(suites: Sequence[Suite]) -> str:
    """Return the page's text."""
    parts = [_HEAD]
    for suite in suites:
        summary = read(suite.committed)
        if summary is not None:
            parts.append(_part(suite, summary))
    return "\n".join(parts)


def _part(suite: Suite, summary: Mapping[str, Any]) -> str:
    made = "; ".join(f"{name} {', '.join(values)}" for name, values in summary["made with"].items())
    lines = [f"## {suite.title}", "", f"Made by `{summary['command']}` ({made}).", ""]
    for case, error in summary["errors"].items():
        lines += [f"{case}: {error}.", ""]
    for plot in suite.plots:
        picture = (PICTURES / f"{plot.name}.svg").relative_to(PAGE.parent)
        lines += [f"![{plot.title}]({picture})", ""]
    for section in suite.sections(summary["rows"]):
        lines += [f"### {section.title}", "", section.note, "", *table_lines(section), ""]
    return "\n".join(lines)


def draw(suites: Sequence[Suite]) -> list[Path]:
    """Draw the pictures of the page and return their files."""
    import matplotlib

    matplotlib.use("agg")
    # The same rows give the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "npas"
    PICTURES.mkdir(parents=True, exist_ok=True)
    found = []
    for suite in suites:
        summary = read(suite.committed)
        if summary is None:
            continue
        for plot in suite.plots:
            path = PICTURES / f"{plot.name}.svg"
            figure = plot.draw(summary["rows"])
            figure.savefig(path, metadata={"Date": None})
            found.append(path)
    return found
