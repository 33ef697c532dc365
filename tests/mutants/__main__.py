"""``python -m tests.mutants [FILE ...]``: change the planner, one line at a time; resumable.

Without a file all of `FILES` are changed, 1,800 mutants in half an hour of one core. What is done
stays in build/mutants.jsonl, and the same command goes on. A mutant meets the tests that run its
line, the quick ones first, for `MOST_S` seconds. ``--again --most 90`` runs what survived and is
not explained with more of them, or after tests were added, and ``--write`` makes
benchmarks/results/mutants.json of it all.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.run import GRACE_S, MOST_S, Request, run
from tests.mutants.summary import SUMMARY, reasons, summary, write

KEPT = Path("build/mutants.jsonl")
FILES = (
    "npas/passes/demand.py",
    "npas/passes/layout.py",
    "npas/passes/templates.py",
    "npas/passes/allocate.py",
    "npas/budget.py",
    "npas/planning.py",
    "npas/passes/mapping.py",
    "npas/passes/verify.py",
)
#: What meets the mutants: the tests of the planner that are quick, and those of captured graphs.
TESTS = (
    "tests/passes/test_layout.py",
    "tests/passes/test_allocate.py",
    "tests/passes/test_templates.py",
    "tests/passes/test_mapping.py",
    "tests/passes/test_blocks.py",
    "tests/passes/test_frontends.py",
    "tests/passes/test_verify.py",
    "tests/test_budget.py",
    "tests/test_plan.py",
    "tests/test_planning.py",
    "tests/test_bad_input.py",
    "tests/test_golden.py",
    "tests/test_mapping_file.py",
    "tests/test_fit_groups.py",
    "tests/test_robust.py",
    "tests/faults/test_interrupts.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 if a mutant survived that is not explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES, metavar="FILE")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH")
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--again", action="store_true", help="run only what survived unexplained")
    parser.add_argument("--most", type=float, default=MOST_S, help="seconds of tests for a mutant")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds that one may add")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants, a fixed sample")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help=f"write {SUMMARY}")
    options = parser.parse_args(arguments)
    if not options.report:
        request = Request(
            options.files,
            options.tests,
            options.kept,
            again=options.again,
            most_s=options.most,
            grace_s=options.grace,
            share=options.share,
            leave_out=reasons() if options.again else (),
        )
        if status := run(request):
            return status
    found = summary(options.files, options.kept)
    for file, row in found["files"].items():
        print(f"{file}: {row}")
    for survivor in found["survivors"]:
        if not survivor["why"]:
            print(f"{survivor['file']}:{survivor['line']} {survivor['change']}")
    if options.write:
        write(found)
    return int(any(not survivor["why"] for survivor in found["survivors"]))


if __name__ == "__main__":
    sys.exit(main())
