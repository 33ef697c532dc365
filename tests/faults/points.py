"""Raise an error at a chosen line of npas, as Ctrl-C and a full memory do at any."""

import ast
import functools
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import npas

ROOT = str(Path(npas.__file__).parent)
#: Functions that put generators of random numbers back, or unlock a folder, behind what is done. A
#: trace may raise between a `finally` and its only line, where Python handles no signal.
PUT_BACK = frozenset({"steady", "_fixed_randomness", "seeded", "set_random_states", "_alone"})


class Point(NamedTuple):
    """A line of npas that is about to run for the nth time."""

    file: str
    function: str
    line: int
    nth: int


class Trace:
    """Counts the lines of npas that run inside, and raises an error at one of them.

    Args:
        at: where to raise, or None.
        error: what to raise.
    """

    def __init__(self, at: Point | None = None, error: BaseException | None = None) -> None:
        self.at, self.error = at, error
        self.seen: dict[tuple[str, str, int], int] = {}
        self.raised = False

    def __enter__(self) -> "Trace":
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        del event, arg
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        entered: set[int] = set()

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            del arg
            self._line(frame, event, entered)
            return local

        return local

    def _line(self, frame: FrameType, event: str, entered: set[int]) -> None:
        code, line = frame.f_code, frame.f_lineno
        if event == "line" and line in _with_lines(code.co_filename):
            # Met again where the block ends. A trace may raise there, so that nothing is left as it
            # was entered; Python handles signals where what the block is left by has begun.
            event = "left" if line in entered else event
            entered.add(line)
        if event == "line":
            key = (code.co_filename, code.co_name, frame.f_lineno)
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.error is not None and self.at == Point(*key, self.seen[key]):
                sys.settrace(None)
                self.raised = True
                raise self.error


@functools.cache
def _with_lines(file: str) -> frozenset[int]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.With))
    return frozenset(line for node in found for line in range(node.lineno, node.body[0].lineno))


def points(call: Callable[[], object], files: Collection[str] = ()) -> list[Point]:
    """Return the points that a call passes: the first and the last time that each line runs.

    Args:
        call: is called, once.
        files: names of files to look at; all where there is none.
    """
    with Trace() as trace:
        call()
    return [
        Point(*key, nth)
        for key, count in trace.seen.items()
        for nth in sorted({1, count})
        if key[1] not in PUT_BACK and (not files or Path(key[0]).name in files)
    ]


def sample(found: list[Point], n: int) -> list[Point]:
    """Return n of the points, evenly from the first to the last."""
    return found if len(found) <= n else [found[i * (len(found) - 1) // (n - 1)] for i in range(n)]
