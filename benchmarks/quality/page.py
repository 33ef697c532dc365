"""docs/quality.md, from finished runs alone."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality import mappings, plots, summary, tables
from benchmarks.quality.cells import family, points
from benchmarks.quality.spec import Experiment, Rows
from benchmarks.quality.verdicts import n_resolved, verdicts
from benchmarks.tables import Column, Section, table_lines

Record = Mapping[str, Any]
PAGE = Path("docs/quality.md")
PICTURES = Path("docs/quality")
#: What rows were made with; of each, every value that occurs is named.
MADE_WITH = ("python", "torch", "triton", "machine", "threads", "revision", "code")
_HEAD = """# Quality within a budget

How well networks learn that share parameters, beside the methods that they are compared with. This
page is made by `python -m benchmarks.quality report --write` from finished runs; each part names
the command that made its runs. What we take from it is in [findings.md](findings.md).

## How to read it

- **These are short trainings of small networks**, so that many seeds can be afforded: `dense` in
  each table says how far they come (about 60% on 10,000 images of CIFAR-10 after 8 epochs). There
  what is learned quickly counts more than capacity. A plateau is looked at in `curve/cifar10-all`
  only.
- **Scores** are on test data and in percent, differences in percent points. `± std` is the
  standard deviation over seeds.
- **Pairs**: the runs of a seed see the same batches and the same augmentation, and arms are
  compared seed by seed. A difference is the mean over the seeds that both arms have; `± (95%)` is
  half the width of its t interval, by itself.
- **Resolved**: the p value of the paired t test, adjusted for all comparisons of the table (`p
  (Holm)`), is below 0.05. What is not resolved is not shown to be equal: it is said what the
  pairs resolve, which is half the width of the interval. Before all seeds are done there are no p
  values.
- **p (exact)** is that of the sign-flip test: the share of all choices of the pairs' signs whose
  mean is as far from 0. It assumes no distribution. With n pairs it is at least 2 / 2^n: 0.062
  for 5 pairs, 0.031 for 6, 0.008 for 8.
- **What was chosen on what**: candidates (`explore/...`) are compared on the test set, with seeds
  from 0; those that became defaults are tried again with seeds from 100 (`recipe/...`), on the
  same test set. All other experiments use seeds from 0 (emoji: from 200), so what they say of the
  defaults at 20 to 75% is from seeds that the room in banks was chosen on.
- **Diverged** runs have the score 0, which enters all means and tests; a column counts them. The
  mean, the interval and the t test of such an arm say little, its exact p value holds.
- **Learning rates** are chosen on validation data from the same grid, over two seeds that no
  compared run has; each method has its own. All networks compiled by npas on a task have one rate
  for a range of budgets, which is that of the defaults; where it is otherwise the table's note
  says so. The grid grows for as long as its lowest or highest rate is the best. `(edge)`: the
  last rate that is allowed was best, so a better one may lie outside of the grid.
- **Of the paper** (Plummer et al., "Neural Parameter Allocation Search", ICLR 2022; numbers in
  benchmarks/paper.toml) are the columns that begin with `paper`. Its networks are larger and are
  trained for longer: orders can be compared, levels cannot.
- **Pictures** show each arm's own 95% interval. That of a difference is mostly narrower, since
  what a seed does to both arms cancels. A cross is an arm with diverged runs, at the edge where
  its mean is not on the scale.
- **Agreement** is the mean adjusted Rand index of the seeds' learned mappings: 1 where all put
  the same layers together, 0 where they agree as chance does.
- **Minutes** are those of training and search. A run that two experiments share counts in both.
"""


_ELSEWHERE = """## Elsewhere, and not here

- Learning-rate scaling for each bank was tried with a rate of its own for every power, before
  this suite ([learning.md](learning.md)): no power above 0 is better.
- Filters of a shared and a plain network side by side (the paper's Figure 4(a)): `python -m
  benchmarks.quality.filters --write` draws them; they are not drawn yet.
- HyperNetworks on WRN-40-2 (Table 11), and networks for ImageNet: longer than what is affordable
  here.
- By themselves, npas's defaults at 100% share nothing and are the dense network, bit for bit
  (`pytest tests/benchmarks/quality/test_runs.py -k same_weights`), so that curves end at `dense`.
- That a seed decides a run bit for bit is a test (`pytest tests/benchmarks/quality -k
  seed_decides`).
"""


def page(experiments: Sequence[Experiment], rows: Rows) -> str:
    """Return the page's text; experiments without a finished run are named at its end."""
    sections = tables.sections(experiments, rows)
    records: dict[str, list[Record]] = {e.name: [] for e in experiments}
    for record in summary.records(experiments, rows):
        records[record["experiment"]].append(record)
    done = [e for e in experiments if records[e.name]]
    families = list(dict.fromkeys(family(e.name) for e in done))
    lines = [_HEAD, "## Contents", "", *_contents(done, families, records), ""]
    for name in families:
        lines += [f"## {name.replace('_', ' ').capitalize()}", ""]
        for e in done:
            if family(e.name) == name:
                lines += _part(e, records[e.name], sections[e.name], rows)
        for title in (tables.ranks_of(name), tables.overall_of(name)):
            if title in sections:
                lines += _table(sections[title], title)
    if tables.TUNINGS in sections:
        lines += _table(sections[tables.TUNINGS], tables.TUNINGS, "##")
    lines += [_ELSEWHERE]
    waiting = [e for e in experiments if e not in done]
    if waiting:
        lines += ["## Not run yet", "", *_waiting(waiting, rows), ""]
    return "\n".join(lines)


def anchor(name: str) -> str:
    """Return where a link to a part of the page goes."""
    return re.sub(r"\W+", "-", name.replace("%", "pct")).strip("-")


def _contents(
    experiments: Sequence[Experiment],
    families: Sequence[str],
    records: Mapping[str, Sequence[Record]],
) -> list[str]:
    """Return a table of the experiments, a family after the other, with what came out."""
    ordered = [e for name in families for e in experiments if family(e.name) == name]
    found = [
        {
            "family": family(e.name),
            "link": f"[{e.title}](#{anchor(e.name)})",
            "data": ", ".join(dict.fromkeys(r["data"] for r in records[e.name])),
            "arms": len(records[e.name]),
            "seeds": max(r["seeds"] for r in records[e.name]),
            "resolved": "{} of {}".format(*n_resolved(records[e.name])),
            "resolves": _typical([r["resolves"] for r in records[e.name]]),
        }
        for e in ordered
    ]
    columns = (
        Column("", "family"),
        Column("experiment", "link"),
        Column("data", "data"),
        Column("arms", "arms"),
        Column("seeds", "seeds"),
        Column("comparisons resolved", "resolved"),
        Column("what the pairs resolve, in points (median)", "resolves", points),
    )
    return table_lines(Section("", "", columns, found))


def _waiting(experiments: Sequence[Experiment], rows: Rows) -> list[str]:
    found = [
        {"name": f"`{e.name}`", "title": e.title, "runs": e.n_runs(rows), "minutes": e.minutes}
        for e in experiments
    ]
    columns = (
        Column("experiment", "name"),
        Column("", "title"),
        Column("runs", "runs"),
        Column("minutes on one thread, about", "minutes", lambda value: f"{value:.0f}"),
    )
    return table_lines(Section("", "", columns, found))


def _typical(halves: Iterable[float | None]) -> float | None:
    """Return the median of what is known: diverged runs make single ones very large."""
    known = [half for half in halves if half is not None]
    return median(known) if known else None


def _part(
    experiment: Experiment, records: Sequence[Record], section: Section, rows: Rows
) -> list[str]:
    done = summary.runs_done(experiment, rows)
    lines = [*_title(section.title, experiment.name), section.note, ""]
    lines += [*(f"- {sentence}" for sentence in verdicts(records)), ""]
    if plots.has_picture(records):
        picture = (PICTURES / plots.picture(experiment.name)).relative_to(PAGE.parent)
        lines += [f"![{section.title}]({picture})", ""]
    lines += [*table_lines(section), ""]
    learned = mappings.of_experiment(experiment, rows)
    if learned:
        picture = (PICTURES / plots.picture(f"{experiment.name} mappings")).relative_to(PAGE.parent)
        lines += [*_learned(experiment, learned), "", f"![Learned groups]({picture})", ""]
    command = f"python -m benchmarks.quality run {shlex.quote(experiment.name)}"
    asked = experiment.n_runs(rows)
    took = f"{len(done)} of {asked} runs, {summary.minutes(done):.0f} minutes in all"
    return [*lines, f"Made by `{command}` ({took}; {_made_with(done)}).", ""]


def _learned(
    experiment: Experiment, learned: Mapping[str, Sequence[mappings.Banks]]
) -> Iterable[str]:
    layers = mappings.layers_of(experiment, next(iter(learned.values())))
    yield (
        "Learned groups by depth: a row a seed, colours are banks, white layers share with none. "
        "The paper's Figure 4(b) has more of those late than early."
    )
    yield ""
    for arm, found in learned.items():
        first, second = mappings.alone(found, layers)
        yield (
            f"- `{arm}`: {first:.0%} of the first half of the layers share with none, "
            f"{second:.0%} of the second."
        )


def _table(section: Section, name: str, level: str = "###") -> list[str]:
    return [*_title(section.title, name, level), section.note, "", *table_lines(section), ""]


def _title(title: str, name: str, level: str = "###") -> list[str]:
    return [f'<a id="{anchor(name)}"></a>', "", f"{level} {title}", ""]


def _made_with(done: Sequence[Mapping[str, Any]]) -> str:
    """Return every value that occurs, of all that matters to a run."""
    found = {name: sorted({str(row.get(name, "-")) for row in done}) for name in MADE_WITH}
    return "; ".join(f"{name} {', '.join(values)}" for name, values in found.items())
