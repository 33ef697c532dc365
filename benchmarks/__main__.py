"""The benchmarks: ``python -m benchmarks list | run | report``.

``list`` names the suites of the cost ledger, their cases, and the commands of the other benchmarks.
``run`` measures the cases that have no rows yet, each in a process of its own, and keeps the rows
in build/benchmarks.jsonl, so that a run which is stopped goes on where it was. ``report`` prints
tables of the kept rows, or of the committed ones where none are kept; ``report --write`` writes
benchmarks/results and docs/benchmarks.md with its pictures.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.ledger.page import PAGE, draw, page
from benchmarks.ledger.registry import OTHERS, SUITES, suite
from benchmarks.ledger.runs import KEPT, key_of, run_here, run_missing
from benchmarks.ledger.suite import Case, Suite
from benchmarks.ledger.summary import read, rows_of, summarise, write
from benchmarks.store import forget, read_rows
from benchmarks.tables import show
from npas.errors import NpasError
from npas.naming import nearest


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = made.add_subparsers(dest="action", required=True)
    what = {
        "list": "suites, cases and other benchmarks",
        "run": "measure the cases that have no rows",
        "report": "tables of rows",
    }
    every = {name: actions.add_parser(name, help=text) for name, text in what.items()}
    for action in every.values():
        action.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
        action.add_argument("--rows", type=Path, default=KEPT, help="file of the kept rows")
    every["run"].add_argument("--fresh", action="store_true", help="measure cases again")
    every["report"].add_argument("--write", action="store_true", help="write results and page")
    every["report"].add_argument("--json", action="store_true", help="print rows as JSON")
    one = actions.add_parser("case", help="one case in this process, its rows as JSON")
    one.add_argument("key", metavar="SUITE/CASE")
    for action in (every["run"], one):
        action.add_argument("--memory", type=int, metavar="BYTES", help="that a case may hold")
        action.add_argument("--threads", type=int, default=2, help="of a case")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        if options.action == "case":
            found = run_here(_case(options.key), memory=options.memory, threads=options.threads)
            print(json.dumps(found))
            return 0
        chosen = [suite(name) for name in options.suites or SUITES]
        if options.action == "list":
            _list(chosen, options.rows)
        elif options.action == "run":
            if options.fresh:
                _forget(chosen, options.rows)
            say = partial(print, flush=True)
            how = {"memory": options.memory, "threads": options.threads}
            return int(run_missing(chosen, options.rows, say=say, **how) > 0)
        else:
            _report(chosen, options.rows, to_json=options.json, to_files=options.write)
    except NpasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _case(key: str) -> Case:
    name, _, case = key.partition("/")
    cases = {c.name: c for c in suite(name).cases()}
    if case not in cases:
        raise NpasError(f"suite {name} has no case {case!r}{nearest(case, cases)}")
    return cases[case]


def _list(suites: Sequence[Suite], kept: Path) -> None:
    rows = read_rows(kept)
    for one in suites:
        print(f"{one.name}: {one.title}")
        for case in one.cases():
            print(f"  {key_of(one, case)}{'' if key_of(one, case) in rows else '  (to run)'}")
    print("\nOther benchmarks have commands of their own:")
    for command, what in OTHERS.items():
        print(f"  {command}: {what}")


def _forget(suites: Sequence[Suite], kept: Path) -> None:
    names = {one.name for one in suites}
    forget(kept, [key for key in read_rows(kept) if key.partition("/")[0] in names])


def _report(suites: Sequence[Suite], kept: Path, *, to_json: bool, to_files: bool) -> None:
    rows = read_rows(kept)
    found = []
    for one in suites:
        command = shlex.join(["python", "-m", "benchmarks", "run", one.name])
        summary = summarise(one, rows, command)
        if not summary["rows"] and not summary["errors"]:
            summary = read(one.committed)
        elif to_files:
            write(one.committed, summary)
        found += rows_of(summary)
        if summary is not None and not to_json:
            show(Console(width=150), one.sections(summary["rows"]))
    if to_json:
        print(json.dumps({"rows": found}))
    if to_files:
        everything = list(SUITES.values())
        PAGE.write_text(page(everything), encoding="utf-8")
        draw(everything)
        print(f"wrote benchmarks/results and {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
