"""What a training step costs: ``python -m benchmarks.cost [--network NAME ...] [--json]``.

Time and memory of npas, of the dense network and of what npas is compared with, in turn in this
process. ``python -m benchmarks run cost`` measures the same with a process for each case and keeps
the rows.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.ledger.cost import CPU, QUICK, QUICK_ROUNDS, ROUNDS, SETTINGS, cases_of, sections
from benchmarks.ledger.suite import Rows
from benchmarks.runner import environment
from benchmarks.tables import show


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the networks that are named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--budget", nargs="+", metavar="SHARE", help="only these, such as 10%%")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny networks, fewer rounds")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, 2 by default")
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}, quick {QUICK_ROUNDS}")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else SETTINGS
    names = list(dict.fromkeys(setting.name for setting in settings))
    unknown = [name for name in options.network or () if name not in names]
    if unknown:
        parser.error(f"no network {unknown[0]!r}; there are {', '.join(names)}")
    budgets = list(dict.fromkeys(budget for s in settings for budget in s.budgets))
    unknown = [budget for budget in options.budget or () if budget not in budgets]
    if unknown:
        parser.error(f"no budget {unknown[0]!r}; there are {', '.join(budgets)}")
    rounds = options.rounds
    if rounds is None:
        rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    if rounds < 2:
        parser.error("--rounds must be at least 2: a spread is between quartiles")
    torch.set_num_threads(options.threads)
    chosen = [s for s in settings if s.name in (options.network or names)]
    found: Rows = []
    for case in cases_of(chosen, rounds, options.budget):
        print(case.name, file=sys.stderr, flush=True)
        found += case.run()
    if options.json:
        print(json.dumps({"rows": [row | environment(CPU) for row in found]}))
    else:
        show(Console(width=170), sections(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
