"""The progress bar of long work: quiet where nobody looks."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class Shown:
    """Tells the bar, where there is one, what happened; and when a state was saved last."""

    def __init__(self, bar: "Progress | None", task: int | None) -> None:
        """Start the clock."""
        self._bar, self._task = bar, task
        self._saved = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        """Show a step and its loss."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, loss=f"loss {loss:.4g}")  # type: ignore

    def saved(self) -> None:
        """Note that the state was saved now."""
        self._saved = time.monotonic()

    def seconds_since_save(self) -> float:
        """Return the time since then."""
        return time.monotonic() - self._saved


@contextmanager
def shown(n_steps: int | None, progress: bool | None) -> Iterator[Shown]:
    """Draw a bar with loss and time left on standard error.

    Args:
        n_steps: how many there will be, or None where that is not known.
        progress: whether to; None: where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if progress is None else progress):
        yield Shown(None, None)
        return
    # Imported here: rich draws from Python's global generator when it is imported.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("search"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console) as bar:
        yield Shown(bar, bar.add_task("search", total=n_steps, loss=""))
