"""What networks learn within a budget: ``python -m benchmarks.learning list | run | report``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.data import DATA_HELP, DataError
from benchmarks.learning.experiments import select
from benchmarks.learning.runs import MixedData, run_missing
from benchmarks.learning.store import KEPT


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    made.add_argument("action", choices=("list", "run", "report"))
    made.add_argument("--experiments", nargs="+", default=[], metavar="NAME")
    made.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    made.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    made.add_argument("--data", type=Path, help=DATA_HELP)
    made.add_argument("--rows", type=Path, default=KEPT, help="file of the finished runs")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        chosen = select(options.experiments)
        if options.action == "run":
            say = partial(print, flush=True)
            run_missing(chosen, options.rows, options.data, options.jobs, say)
    except (DataError, MixedData, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
