"""Run the tests on each mutant, in a fork of a process that has them imported."""

import ast
import importlib
import json
import math
import os
import resource
import signal
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coverage
import pytest

from benchmarks.store import append_row, read_rows
from tests.mutants.changes import Mutant, mutants
from tests.mutants.patch import install

#: Seconds of tests that a mutant meets, the quick ones first; of processor time that one may take
#: besides; and bytes that a process may hold besides what it maps.
MOST_S, GRACE_S, LIMIT_BYTES = 20.0, 10.0, 6 * 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        files: that are changed, as paths from the root.
        tests: files of tests that meet the mutants.
        kept: file of the mutants that are done.
        again: whether mutants that survived are run again.
        most_s: seconds of tests for one mutant.
        grace_s: of processor time that a mutant may take besides.
        share: of the mutants that are run, drawn with a fixed seed a mutant.
        say: told of every survivor.
    """

    files: Sequence[str]
    tests: Sequence[str]
    kept: Path
    again: bool = False
    most_s: float = MOST_S
    grace_s: float = GRACE_S
    share: float = 1.0
    say: Callable[[str], None] = print


def run(request: Request) -> int:
    """Run the tests on all mutants that were not run; returns pytest's exit status."""
    options = ["-qq", "-s", "-p", "no:cacheprovider"]
    return int(pytest.main([*options, *request.tests], plugins=[_Loop(request)]))


def key_of(file: str, text: str, mutant: Mutant, number: int) -> str:
    """Return what names a mutant, also where lines above it change.

    Args:
        file: path of the source.
        text: the line.
        mutant: the change.
        number: counts mutants that are alike in all else.
    """
    again = f" #{number}" if number else ""
    return f"{file} | {mutant.function} | {text.strip()} | {mutant.change}{again}"


def keyed(file: str, source: str, tree: ast.Module) -> dict[str, Mutant]:
    """Return the mutants of a file by key."""
    lines = source.splitlines()
    found: dict[str, Mutant] = {}
    for mutant in mutants(tree):
        number = 0
        while (key := key_of(file, lines[mutant.line - 1], mutant, number)) in found:
            number += 1
        found[key] = mutant
    return found


@dataclass
class _Loop:
    """A plugin of pytest that runs mutants instead of the tests that were collected.

    Attributes:
        request: what to run.
        failed: the test that failed in this process, if one did.
        seconds: what each test took.
    """

    request: Request
    failed: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_configure(self) -> None:
        """Let hypothesis draw few examples, the same ones each time, and not make them smaller."""
        # pytest rewrites its asserts, and has to import it first.
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "mutants",
            max_examples=25,
            database=None,
            derandomize=True,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See what a test took, and whether it failed."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure once what each test reaches, then run all mutants."""
        measured = _forked(lambda: self._measure(session), math.inf)["found"]
        if not isinstance(measured, list):
            raise pytest.UsageError(f"the tests without a mutant: {measured}")
        reached, seconds, left_out = measured
        for name in left_out:
            self.request.say(f"{name} fails without a mutant, and is left out")
        items = {item.nodeid: item for item in session.items if item.nodeid not in left_out}
        done = read_rows(self.request.kept)
        for file in self.request.files:
            source = Path(file).read_text(encoding="utf-8")
            tree = ast.parse(source)
            module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
            for key, mutant in keyed(file, source, tree).items():
                row = done.get(key)
                if row and not (self.request.again and row["outcome"] == "survived"):
                    continue
                if _draw(key) >= self.request.share:
                    continue
                tests = _reaching(reached[file], mutant) & items.keys()
                chosen = self._quick(tests, seconds)
                start = time.perf_counter()
                found = _on(module, tree, mutant, [items[name] for name in chosen], self, seconds)
                took = time.perf_counter() - start
                place = {"file": file, "line": mutant.line, "tests": len(chosen)}
                append_row(self.request.kept, {"key": key, **place, **found, "seconds": took})
                if found["outcome"] == "survived":
                    self.request.say(f"{file}:{mutant.line} {mutant.change} ({len(chosen)} tests)")
        return True

    def _measure(
        self, session: pytest.Session
    ) -> tuple[dict[str, Any], dict[str, float], list[str]]:
        """Return, for each file, line -> tests that run it; seconds of tests; those that fail."""
        measured = coverage.Coverage(data_file=None, include=list(self.request.files))
        left_out: list[str] = []
        measured.start()
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            measured.switch_context(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                left_out.append(self.failed)
                self.failed = ""
        measured.stop()
        data = measured.get_data()
        found = {
            file: data.contexts_by_lineno(str(Path(file).resolve())) for file in self.request.files
        }
        return found, self.seconds, left_out

    def _quick(self, tests: Collection[str], seconds: dict[str, float]) -> list[str]:
        """Return the quickest tests, the first of them first, as many as there is time for."""
        chosen, total = [], 0.0
        for name in sorted(tests, key=lambda name: (seconds[name], name)):
            total += seconds[name]
            if chosen and total > self.request.most_s:
                break
            chosen.append(name)
        return chosen

    def attempt(self, items: Sequence[pytest.Item]) -> str:
        """Run tests until one fails; returns it, or nothing."""
        for i, item in enumerate(items):
            following = items[i + 1] if i + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                break
        return self.failed


def _reaching(reached: dict[str, list[str]], mutant: Mutant) -> set[str]:
    """Return the tests that run a mutant's line, or any of its file if that runs on import."""
    found: set[str] = set()
    for lines in mutant.lines:
        found = found or {name for line in lines for name in reached.get(str(line), ())}
    return set().union(*reached.values()) if mutant.on_import else found


def _draw(key: str) -> float:
    """Return a number from 0 to 1 that follows from a key alone."""
    return zlib.crc32(key.encode()) / 2**32


def _on(
    module: Any,
    tree: ast.Module,
    mutant: Mutant,
    items: Sequence[pytest.Item],
    loop: _Loop,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return what came of a mutant."""
    limit = loop.request.grace_s + 4 * sum(seconds[item.nodeid] for item in items)

    def changed() -> str:
        with mutant.applied():
            try:
                install(module, tree)
            except Exception as error:
                return f"import: {type(error).__name__}"
        return loop.attempt(items)

    found = _forked(changed, limit)
    if found["signal"] in (signal.SIGPROF, signal.SIGALRM):
        return {"outcome": "timed out", "by": ""}
    by = f"signal {found['signal']}" if found["signal"] else found["found"]
    return {"outcome": "killed" if by else "survived", "by": by}


def _forked(function: Callable[[], Any], limit_s: float) -> dict[str, Any]:
    """Run a function in a child; returns what it returned, or the signal that ended it."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reads)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            if limit_s < math.inf:
                resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
                # Ended from outside: what hangs may sit in C, and what loops may catch anything.
                signal.setitimer(signal.ITIMER_PROF, limit_s)
                signal.setitimer(signal.ITIMER_REAL, 20 * limit_s)
            try:
                found = function()
            except BaseException as error:
                found = f"{type(error).__name__}: {error}"[:500]
            with os.fdopen(writes, "w") as file:
                json.dump(found, file)
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"signal": ended, "found": text and json.loads(text)}
