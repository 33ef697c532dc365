"""Run a function in a child process, so that whatever it does to itself ends with that."""

import json
import os
from collections.abc import Callable
from typing import Any


class Ended(Exception):
    """A child was ended by a signal."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


def forked(function: Callable[[], Any]) -> Any:
    """Run a function in a child, which prints nothing, and return what it returned, as JSON does.

    Raises:
        Ended: if a signal ended it.
        RuntimeError: if it raised something, or left in another way.
    """
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reads)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            try:
                found = {"returned": function()}
            except BaseException as error:
                found = {"raised": f"{type(error).__name__}: {error}"}
            with os.fdopen(writes, "w") as file:
                json.dump(found, file)
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Ended(os.WTERMSIG(status))
    found = json.loads(text or '{"raised": "nothing came back"}')
    if "raised" in found:
        raise RuntimeError(f"a child failed: {found['raised']}")
    return found["returned"]
