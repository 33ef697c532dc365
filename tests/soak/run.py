"""Run a target many times, each chunk in a process of its own, and keep what came of it."""

import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.store import append_row, read_rows
from tests.forked import Ended, forked
from tests.soak.targets import TARGETS, Target

KEPT = Path("build/soak.jsonl")
FAILURES = Path("build/soak")
#: Cases of a process: about a minute at most. What is drawn takes longer than what is read.
CHUNK = 2_000
CHUNKS = {"references": 200, "networks": 500, "stacks": 500, "compiles": 50}
#: Seconds that one case may take, and bytes that a process may hold besides what it maps.
LIMIT_S, LIMIT_BYTES = 10, 4 * 2**30


class Slow(BaseException):
    """A case took longer than `LIMIT_S`; not an Exception, which the case might catch."""


def run(
    name: str, n: int, seed: int, kept: Path = KEPT, say: Callable[[str], None] = print
) -> None:
    """Run a target on n cases, from where an earlier run was stopped.

    Args:
        name: in `TARGETS`.
        n: cases.
        seed: that all of them follow from.
        kept: file of the chunks that are done.
        say: told of every chunk.
    """
    done = read_rows(kept)
    TARGETS[name](random.Random(name))  # makes what is mutated, for all chunks
    whole = CHUNKS.get(name, CHUNK)
    for chunk in range(-(-n // whole)):
        size = min(whole, n - chunk * whole)
        key = f"{name} {seed} {chunk} {size}"
        if key not in done:
            row = {"key": key, "target": name, "n": size, **_in_process(name, seed, chunk, size)}
            append_row(kept, row)
            say(f"{name}, chunk {chunk}: {row['outcomes']}, {row['seconds']:.1f} s")


def _in_process(name: str, seed: int, chunk: int, size: int) -> dict[str, Any]:
    """Run a chunk in a child, so that what kills it is counted."""

    def cases() -> dict[str, Any]:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        return _cases(TARGETS[name], name, seed, chunk, size)

    start = time.perf_counter()
    try:
        found = forked(cases)
    except Ended as error:
        found = {"outcomes": {f"CRASH, status {error.signal}": 1}, "peak_bytes": 0}
    except RuntimeError as error:
        found = {"outcomes": {f"CRASH: {error}": 1}, "peak_bytes": 0}
    return {**found, "seconds": time.perf_counter() - start}


def _cases(target: Target, name: str, seed: int, chunk: int, size: int) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    signal.signal(signal.SIGALRM, _too_slow)
    for i in range(size):
        case = f"{name}-{seed}-{chunk}-{i}"
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            outcome, _ = target(random.Random(case))
        except (Exception, Slow) as error:
            outcome = f"WRONG: {type(error).__name__}"
            FAILURES.mkdir(parents=True, exist_ok=True)
            (FAILURES / f"{case}.txt").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        outcomes[outcome] += 1
        slowest = max(slowest, time.perf_counter() - start)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"outcomes": dict(outcomes), "slowest_s": slowest, "peak_bytes": peak}


def _too_slow(*_: object) -> None:
    raise Slow(f"more than {LIMIT_S} s")


def summary(kept: Path = KEPT) -> list[dict[str, Any]]:
    """Return a row a target: cases by outcome, seconds a case, the slowest, and the most memory."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(kept).values():
        found.setdefault(row["target"], []).append(row)
    return [
        {
            "target": name,
            "cases": sum(row["n"] for row in rows),
            "outcomes": dict(sum((Counter(row["outcomes"]) for row in rows), Counter())),
            "ms a case": 1e3 * sum(r["seconds"] for r in rows) / sum(r["n"] for r in rows),
            "slowest s": max(row.get("slowest_s", 0.0) for row in rows),
            "peak MB": max(row["peak_bytes"] for row in rows) / 1e6,
        }
        for name, rows in found.items()
    ]
