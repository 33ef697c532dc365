"""Runs the cases that have no rows yet, each in a process of its own."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ledger.suite import Case, Suite
from benchmarks.runner import environment
from benchmarks.store import append_row, read_rows

KEPT = Path("build/benchmarks.jsonl")
OUT_OF_MEMORY = "out of memory"
Say = Callable[[str], None]


def key_of(suite: Suite, case: Case) -> str:
    """Return the name of a case among those of all suites."""
    return f"{suite.name}/{case.name}"


def missing(suites: Sequence[Suite], kept: Path) -> list[str]:
    """Return the keys of the cases that have no rows, in order."""
    done = read_rows(kept)
    return [key for suite in suites for c in suite.cases() if (key := key_of(suite, c)) not in done]


def run_missing(
    suites: Sequence[Suite], kept: Path, *, memory: int | None, threads: int, say: Say
) -> int:
    """Run every case without rows, and add its rows as it ends.

    A case that runs out of memory is recorded as such, one that fails otherwise is told of and
    left to be run again; the others go on.

    Args:
        suites: whose cases are run.
        kept: file of the rows.
        memory: bytes of data that a case may hold, or None.
        threads: of each process.
        say: told what each case took.

    Returns:
        How many cases failed.
    """
    keys = missing(suites, kept)
    environs = {suite.name: suite.environ for suite in suites}
    say(f"{len(keys)} cases to run, {len(read_rows(kept))} kept in {kept}")
    failed = 0
    for number, key in enumerate(keys, 1):
        start = time.monotonic()
        found = _apart(key, memory, threads, environs[key.partition("/")[0]])
        took = f"{time.monotonic() - start:.0f} s"
        if "failure" in found:
            failed += 1
            say(f"{number}/{len(keys)} {key}: FAILED after {took}: {found['failure']}")
            continue
        append_row(kept, {"key": key, **found})
        say(f"{number}/{len(keys)} {key}: {found.get('error', 'done')}, {took}")
    return failed


def _apart(
    key: str, memory: int | None, threads: int, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "case", key, "--threads", str(threads)]
    command += [] if memory is None else ["--memory", str(memory)]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **environ}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode == -signal.SIGKILL:
        # What the system does to a process when memory is short.
        return {"error": OUT_OF_MEMORY, "rows": [], **environment(torch.device("cpu"))}
    if process.returncode:
        return {"failure": (err.strip().splitlines() or [f"exit {process.returncode}"])[-1]}
    return json.loads(out.splitlines()[-1])


def run_here(case: Case, *, memory: int | None, threads: int) -> dict[str, Any]:
    """Run a case in this process.

    Args:
        case: what is run.
        memory: bytes of data that this process may hold from now on, or None.
        threads: that it may use.

    Returns:
        Its rows, or that memory ran out; and what they were made with.
    """
    torch.set_num_threads(threads)
    made = environment(torch.device("cpu"))
    with _limited(memory):
        try:
            return {"rows": case.run(), **made}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
    return {"error": OUT_OF_MEMORY, "rows": [], **made}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(
        error
    )


@contextlib.contextmanager
def _limited(memory: int | None) -> Iterator[None]:
    if memory is None:
        yield
        return
    old = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)
