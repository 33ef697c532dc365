"""The tasks: a data set ready for training, with its loss and its score."""

from collections.abc import Callable
from functools import lru_cache

from benchmarks.quality.tasks import grounding, pretrained, retrieval_emoji, text, tiny, vision
from benchmarks.quality.tasks.base import Task
from benchmarks.sources import Sources
from npas.naming import nearest

__all__ = ["TASKS", "Task", "task"]

#: name -> reads the task. Every family is a file.
TASKS: dict[str, Callable[[Sources], Task]] = {
    **vision.TASKS,
    **text.TASKS,
    **retrieval_emoji.TASKS,
    **grounding.TASKS,
    **tiny.TASKS,
    **pretrained.TASKS,
}


@lru_cache(maxsize=2)
def task(name: str, sources: Sources) -> Task:
    """Return a task by its name; the last two stay in memory.

    Raises:
        KeyError: with the nearest name, if there is none.
        DataError: if its data are not there; the message says how to get them.
    """
    if name not in TASKS:
        raise KeyError(f"no task {name!r}{nearest(name, TASKS)}; there are {', '.join(TASKS)}")
    return TASKS[name](sources)
