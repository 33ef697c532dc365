"""The progress bar of long work: quiet where nobody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Called with how much is done, and with a few words on it.
Show = Callable[[int, str], None]


@contextmanager
def shown(what: str, total: int | None, wanted: bool | None = None) -> Iterator[Show]:
    """Draw a bar with a note and the time left on standard error.

    Args:
        what: is being done.
        total: how much there is to do, or None where that is not known.
        wanted: whether to draw it; None: where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda done, note: None
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

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)
