"""What networks learn at a budget: ``python -m benchmarks.quality list | run | report``.

``list`` names the experiments, their runs and how long they take; ``run`` does the training runs
that have no row yet, ``report`` prints their tables. Rows are kept in build/quality.jsonl as runs
end, so that a killed ``run`` goes on where it was; those that are committed in
benchmarks/results/quality.jsonl count as done. ``report --write`` commits rows, and writes
docs/quality.md with its pictures.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.data import DataError
from benchmarks.peers import PeerError
from benchmarks.quality.experiments import EXPERIMENTS, select
from benchmarks.quality.page import PAGE, PICTURES, page
from benchmarks.quality.plots import draw
from benchmarks.quality.quick import quick
from benchmarks.quality.runs import MixedRows, refuse_mixed, run_missing
from benchmarks.quality.spec import Experiment
from benchmarks.quality.summary import COMMITTED, commit, records
from benchmarks.quality.tables import sections
from benchmarks.sources import HELP, Sources
from benchmarks.store import forget, read_rows
from benchmarks.tables import show
from npas.errors import NpasError

KEPT = Path("build/quality.jsonl")


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = made.add_subparsers(dest="action", required=True)
    what = {
        "list": "experiments, their runs and minutes",
        "run": "do the runs that have no row",
        "report": "tables of the rows",
    }
    every = {name: actions.add_parser(name, help=text) for name, text in what.items()}
    for action in every.values():
        action.add_argument(
            "experiments",
            nargs="*",
            metavar="EXPERIMENT",
            help="names, or families such as mapping; by default all",
        )
        action.add_argument("--rows", type=Path, default=KEPT, help="file of the finished runs")
        action.add_argument(
            "--quick", action="store_true", help="tiny runs that show that everything works"
        )
    run = every["run"]
    run.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    run.add_argument("--data", type=Path, nargs="+", default=[], help=HELP)
    run.add_argument("--fresh", action="store_true", help="forget rows first, and run anew")
    for action in (run, every["report"]):
        action.add_argument("--mix", action="store_true", help="allow rows of different code")
    every["report"].add_argument("--write", action="store_true", help="write results and page")
    every["report"].add_argument("--json", action="store_true", help="print the results as JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        chosen = select(options.experiments)
        if options.quick:
            chosen = [quick(experiment) for experiment in chosen]
        if options.action == "report" and options.write and chosen != list(EXPERIMENTS):
            raise ValueError("--write is of all experiments: name none, and leave --quick out")
        if options.action == "list":
            _list(chosen, options.rows)
        elif options.action == "run":
            _run(chosen, options)
        else:
            _report(chosen, options)
    except (DataError, MixedRows, NpasError, PeerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; what was done is kept, the same command goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def rows_of(kept: Path) -> dict[str, dict]:
    """Return the committed rows and those of a file, which win."""
    return read_rows(COMMITTED) | read_rows(kept)


def _list(experiments: Sequence[Experiment], kept: Path) -> None:
    rows = rows_of(kept)
    for e in experiments:
        done, runs = e.n_done(rows), e.n_runs(rows)
        print(f"{e.name}: {e.title}; {done} of {runs} runs done, {e.minutes:.0f} min in all")


def _run(experiments: Sequence[Experiment], options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: must be at least 1")
    sources = Sources.of(options.data)
    rows = rows_of(options.rows)
    if options.fresh:
        keys = {run.key for e in experiments for run in e.known_runs(rows)}
        forget(options.rows, keys)
        rows = {key: row for key, row in rows.items() if key not in keys}
    say = partial(print, flush=True)
    run_missing(experiments, rows, options.rows, sources, options.jobs, say, mix=options.mix)


def _report(experiments: Sequence[Experiment], options: argparse.Namespace) -> None:
    rows = rows_of(options.rows)
    if not options.mix:
        refuse_mixed(experiments, rows)
    if options.json:
        print(json.dumps({"experiments": records(experiments, rows)}))
        return
    show(Console(width=150), sections(experiments, rows).values())
    if options.write:
        commit(experiments, rows)
        PAGE.write_text(page(experiments, rows), encoding="utf-8")
        draw(experiments, rows, PICTURES)
        print(f"wrote {COMMITTED}, {PAGE} and {PICTURES}")


if __name__ == "__main__":
    sys.exit(main())
