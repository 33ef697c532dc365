"""What weight generation costs: ``python -m benchmarks.kernels [--aot] [--quick] [--json] ...``.

Without ``--aot``: milliseconds of each op and of all weights of a network, beside a copy of as many
bytes, the form a user would write and autograd through the reference; results are compared with
float64 before anything is timed. On the CPU, or on a CUDA device where there is one (not tried).

With ``--aot``: every kernel compiled for GPUs that need not be there, and the bytes that it moves,
counted in Triton's interpreter. The command fails where a kernel breaks a promise: spills, narrow
loads or stores, too many launches or bytes.

``interpolate`` has no rows: it has no kernels.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import kernel_ahead, kernel_cases, kernel_generation, kernel_tables, kernel_times
from benchmarks.runner import environment
from benchmarks.tables import markdown, show

TITLES = {True: "Kernels, compiled ahead of time", False: "What weight generation costs"}


def main() -> None:
    """Run, print, and write a file where one is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--aot", action="store_true", help="compile and count instead of timing")
    parser.add_argument("--quick", action="store_true", help="a few small cases: 45 seconds")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    ops = sorted({case.op for case in kernel_cases.CASES})
    parser.add_argument("--op", choices=ops, help="only this one")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--threads", type=int, help="of the CPU: 2, with --quick 1")
    parser.add_argument("--rounds", type=int, help="rounds timed: 11, with --quick 5")
    given = parser.parse_args()
    # On busy processors two threads wait for each other longer than small shapes take.
    torch.set_num_threads(given.threads or (1 if given.quick else 2))
    device = torch.device("cuda" if torch.cuda.is_available() and not given.aot else "cpu")
    broken: list[str] = []
    if given.aot:
        rows = kernel_ahead.rows(quick=given.quick, op=given.op)
        broken = [problem for row in rows for problem in kernel_ahead.problems(row)]
        sections = kernel_tables.ahead(rows)
    else:
        rounds = given.rounds or (5 if given.quick else 11)
        rows = kernel_times.rows(device=device, rounds=rounds, quick=given.quick, op=given.op)
        networks = []
        if given.op in (None, "combine"):
            # A round of a whole network takes seconds: half as many do.
            half = (rounds + 1) // 2
            networks = kernel_generation.rows(device=device, rounds=half, quick=given.quick)
        sections = kernel_tables.timed(rows, networks)
        rows = [*rows, *networks]
    if given.write:
        where = ", ".join(f"{key} {value}" for key, value in environment(device).items())
        command = shlex.join(["python", "-m", "benchmarks.kernels", *sys.argv[1:]])
        text = markdown(TITLES[given.aot], command, where, sections)
        given.write.write_text(text, encoding="utf-8")
    if given.json:
        print(json.dumps({"rows": rows}))
    else:
        show(Console(width=200), sections)
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
