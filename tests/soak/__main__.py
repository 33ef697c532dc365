"""``python -m tests.soak [TARGET ...] [--n N] [--seed S]``: mutate and run; resumable.

Without a target all run, as many cases as the project promises. ``--report`` prints what was kept,
``--write`` writes it, with a hundred killed saves, to benchmarks/results and docs/trust.md.
A case that fails is written to build/soak, with its name, which ``--case NAME`` runs again.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.kills import kill_saves
from benchmarks.runner import environment
from tests.soak.report import write
from tests.soak.run import KEPT, run, summary
from tests.soak.targets import TARGETS

CASES = {
    "plans": 1_000_000,
    "tensors": 100_000,
    "mappings": 100_000,
    "commands": 5_000,
    "references": 2_000,
    "networks": 15_000,
    "stacks": 5_000,
    "compiles": 500,
}
KILLS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET")
    parser.add_argument("--n", type=int, help="cases of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--case", help="run one again, without catching what it raises")
    options = parser.parse_args(arguments)
    if options.case:
        target = TARGETS[options.case.partition("-")[0]]
        print(target(random.Random(options.case))[0])
        return 0
    if not options.report:
        for name in options.targets or TARGETS:
            run(name, options.n or CASES[name], options.seed, options.kept)
    rows = summary(options.kept)
    print(json.dumps({"rows": rows}, indent=1))
    if options.write:
        made = environment(torch.device("cpu"))
        write({"made with": made, "rows": rows, "kills": {"kills": KILLS, **kill_saves(KILLS)}})
    return int(any(name[0].isupper() for row in rows for name in row["outcomes"]))


if __name__ == "__main__":
    sys.exit(main())
