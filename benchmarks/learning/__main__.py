"""What networks learn within a budget: ``python -m benchmarks.learning list | run | report``.

``list`` names the experiments, ``run`` does the training runs that have no row yet, ``report``
prints the tables of the rows there are. Rows are kept in build/learning.jsonl as runs end, so that
a killed ``run`` goes on where it was. ``report --write`` writes benchmarks/results/learning.json
and the tables of docs/learning.md.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.data import DATA_HELP, DataError
from benchmarks.learning.experiments import quick, select
from benchmarks.learning.report import PAGE, fill, sections
from benchmarks.learning.runs import MixedData, missing, run_missing
from benchmarks.learning.spec import Experiment
from benchmarks.learning.summary import COMMITTED, dump, summarise
from benchmarks.store import read_rows
from benchmarks.tables import show

KEPT = Path("build/learning.jsonl")
COMMAND = "python -m benchmarks.learning run --data CIFAR10"


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("action", choices=("list", "run", "report"))
    made.add_argument(
        "--experiments",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names or families, such as mapping; by default all but the pilot",
    )
    made.add_argument("--seeds", type=int, help="runs of each case, instead of the experiment's")
    made.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    made.add_argument("--data", type=Path, help=DATA_HELP)
    made.add_argument("--rows", type=Path, default=KEPT, help="file of the finished runs")
    made.add_argument("--write", action="store_true", help="with report: write the results")
    made.add_argument(
        "--quick", action="store_true", help="tiny runs that show that everything works"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        chosen = select(options.experiments)
        if options.quick:
            chosen = [quick(experiment) for experiment in chosen]
        if options.seeds is not None:
            chosen = [replace(experiment, seeds=options.seeds) for experiment in chosen]
        if options.action == "run":
            say = partial(print, flush=True)
            run_missing(chosen, options.rows, options.data, options.jobs, say)
        elif options.action == "report":
            _report(chosen, options.rows, write=options.write)
        else:
            _list(chosen, options.rows)
    except (DataError, MixedData, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _list(experiments: Sequence[Experiment], kept: Path) -> None:
    rows = read_rows(kept)
    for experiment in experiments:
        left = len(missing([experiment], rows))
        print(f"{experiment.name}: {experiment.title}; {len(experiment.runs)} runs, {left} to do")


def _report(experiments: Sequence[Experiment], kept: Path, *, write: bool) -> None:
    rows = read_rows(kept)
    summary = summarise(experiments, rows, COMMAND)
    show(Console(width=132), sections(summary).values())
    for experiment in experiments:
        left = missing([experiment], rows)
        if left:
            print(f"{experiment.name} lacks {len(left)} of {len(experiment.runs)} runs")
    if write:
        page = fill(PAGE.read_text(encoding="utf-8"), summary)
        COMMITTED.parent.mkdir(exist_ok=True)
        COMMITTED.write_text(dump(summary), encoding="utf-8")
        PAGE.write_text(page, encoding="utf-8")
        print(f"wrote {COMMITTED} and {PAGE}")


if __name__ == "__main__":
    sys.exit(main())
