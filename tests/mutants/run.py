"""Run the tests on each mutant, in a fork of a process that has them imported."""

import ast
import importlib
import random
import resource
import signal
import sys
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import coverage
import numpy as np
import pytest

from benchmarks.store import append_row, read_rows
from tests.forked import Ended, forked
from tests.mutants.changes import Mutant, mutants
from tests.mutants.patch import install

#: Seconds of tests that a mutant meets, the quick ones first; of processor time that a test of it
#: may take besides; and bytes that a process may hold besides what it maps.
MOST_S, GRACE_S, LIMIT_BYTES = 20.0, 3.0, 6 * 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        files: that are changed, as paths from the root.
        tests: files of tests that meet the mutants.
        kept: file of the mutants that are done.
        again: whether mutants that survived are run, and no others.
        most_s: seconds of tests for one mutant.
        grace_s: of processor time that one test of a mutant may take besides.
        share: of the mutants that are run, drawn with a fixed seed a mutant.
        leave_out: keys of mutants that are not run.
        say: told of every survivor.
    """

    files: Sequence[str]
    tests: Sequence[str]
    kept: Path
    again: bool = False
    most_s: float = MOST_S
    grace_s: float = GRACE_S
    share: float = 1.0
    leave_out: Collection[str] = ()
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
        seconds: of processor time that each test takes without a mutant.
    """

    request: Request
    failed: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

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
        """See whether a test failed."""
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure once what each test reaches, then run all mutants."""
        reached, self.seconds, left_out = forked(lambda: self._measure(session))
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
                survived = row is not None and row["outcome"] == "survived"
                if not (survived if self.request.again else row is None):
                    continue
                if _draw(key) >= self.request.share or key in self.request.leave_out:
                    continue
                tests = self._quick(_reaching(reached[file], mutant) & items.keys())
                start = time.perf_counter()
                found = self._meet(module, tree, mutant, [items[name] for name in tests])
                took = time.perf_counter() - start
                place = {"file": file, "line": mutant.line, "tests": len(tests)}
                append_row(self.request.kept, {"key": key, **place, **found, "seconds": took})
                if found["outcome"] == "survived":
                    self.request.say(f"{file}:{mutant.line} {mutant.change} ({len(tests)} tests)")
        return True

    def _measure(
        self, session: pytest.Session
    ) -> tuple[dict[str, Any], dict[str, float], list[str]]:
        """Return, for each file, line -> tests that run it; seconds of tests; those that fail."""
        measured = coverage.Coverage(
            data_file=None, config_file=False, include=list(self.request.files)
        )
        seconds: dict[str, float] = {}
        left_out: list[str] = []
        measured.start()
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            measured.switch_context(item.nodeid)
            start = time.process_time()
            _seed()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            seconds[item.nodeid] = time.process_time() - start
            if self.failed:
                left_out.append(self.failed)
                self.failed = ""
        measured.stop()
        data = measured.get_data()
        found = {
            file: data.contexts_by_lineno(str(Path(file).resolve())) for file in self.request.files
        }
        return found, seconds, left_out

    def _quick(self, tests: Collection[str]) -> list[str]:
        """Return the quickest tests, the first of them first, as many as there is time for."""
        chosen, total = [], 0.0
        for name in sorted(tests, key=lambda name: (self.seconds[name], name)):
            total += self.seconds[name]
            if chosen and total > self.request.most_s:
                break
            chosen.append(name)
        return chosen

    def _meet(
        self, module: ModuleType, tree: ast.Module, mutant: Mutant, items: Sequence[pytest.Item]
    ) -> dict[str, str]:
        """Return what came of a mutant, and what noticed it."""

        def changed() -> str:
            resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
            with mutant.applied():
                try:
                    install(module, tree)
                except Exception as error:
                    return f"the import: {type(error).__name__}"
            return self._attempt(items)

        try:
            by = forked(changed)
        except Ended as error:
            late = error.signal in (signal.SIGPROF, signal.SIGALRM)
            return {"outcome": "timed out" if late else "killed", "by": f"signal {error.signal}"}
        return {"outcome": "killed" if by else "survived", "by": by}

    def _attempt(self, items: Sequence[pytest.Item]) -> str:
        """Run tests until one fails; returns it, or nothing."""
        for i, item in enumerate(items):
            following = items[i + 1] if i + 1 < len(items) else None
            # Ended from outside: what hangs may sit in C, and what loops may catch anything.
            most = self.request.grace_s + 4 * self.seconds[item.nodeid]
            signal.setitimer(signal.ITIMER_PROF, most)
            signal.setitimer(signal.ITIMER_REAL, 20 * most)
            _seed()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                break
        return self.failed


def _seed() -> None:
    """Start a test from the same random numbers, whatever ran before: none may fail by chance."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _reaching(reached: dict[str, list[str]], mutant: Mutant) -> set[str]:
    """Return the tests that run a mutant's line, or any of its file if that runs on import."""
    found: set[str] = set()
    for lines in mutant.lines:
        found = found or {name for line in lines for name in reached.get(str(line), ())}
    return set().union(*reached.values()) if mutant.on_import else found


def _draw(key: str) -> float:
    """Return a number from 0 to 1 that follows from a key alone."""
    return zlib.crc32(key.encode()) / 2**32
