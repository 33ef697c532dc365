"""Distillation (Table 3 of the paper): a student learns from the classes and from a teacher.

A distilled run trains a pupil, which is the student with the connectors of a lesson, on a task
whose loss has the lesson in it. The student returns its features beside its logits, so that a
compiled one, whose modules hold no weights, is taught as a dense one is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.builds import Job
from benchmarks.quality.distillation_features import Exposed
from benchmarks.quality.distillation_losses import LESSONS, Lesson
from benchmarks.quality.tasks import Task
from benchmarks.quality.tasks.base import Batch
from benchmarks.quality.teachers import Fit, teacher


class Pupil(nn.Module):
    """What a distilled run trains: a student, and the connectors of its lesson.

    Args:
        student: returns logits and features.
        lesson: what it is taught by.
    """

    def __init__(self, student: nn.Module, lesson: Lesson) -> None:
        super().__init__()
        self.student = student
        self.lesson = lesson


class Answers(nn.Module):
    """A student as it is tested: it returns its logits alone."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)[0]


@dataclass(frozen=True, slots=True)
class Distilled:
    """A classification task with a teacher: a pupil is trained on it, a student is scored.

    Attributes:
        task: without the teacher.
        teacher: `Exposed`, in the mode that the lesson wants, with nothing that trains.
    """

    task: Task
    teacher: nn.Module

    @property
    def label(self) -> str:
        """What results on it are called."""
        return self.task.label

    @property
    def measure(self) -> str:
        """What the score is."""
        return self.task.measure

    @property
    def n_train(self) -> int:
        """Training samples."""
        return self.task.n_train

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's whole batches, those of the task."""
        return self.task.batches(seed, epoch, size)

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean of a pupil's cross-entropy and its lesson, which has its own weight."""
        x, y = batch
        logits, features = module.get_submodule("student")(x)
        with torch.no_grad():
            taught_logits, taught = self.teacher(x)
        lesson = module.get_submodule("lesson")(features, taught_logits, taught)
        return F.cross_entropy(logits, y) + lesson

    def score(self, module: nn.Module, part: str) -> float:
        """Return the score of a student."""
        return self.task.score(Answers(module), part)


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a distilled run trains, and what its row says besides.

    Attributes:
        pupil: to train.
        task: to train it on, and to score its student on.
        fields: of the row.
    """

    pupil: Pupil
    task: Distilled
    fields: dict[str, Any]


def distil(job: Job, student: nn.Module, part: str, fit: Fit, code: str) -> Distillation:
    """Return a student with its teacher, which is trained first if there is none.

    The recipe's ``distil`` is a name of `LESSONS` and ``teacher`` a network of
    `benchmarks.quality.teachers.TEACHERS`; ``strength`` is the lesson's, if it is not to be the
    authors'.

    Args:
        job: its network is `exposed`.
        student: what the job's build made.
        part: of the data, that the row has the teacher's score on.
        fit: trains a teacher.
        code: a digest of the sources.
    """
    how = dict(job.recipe.how)
    trained = teacher(job.recipe.task, how["teacher"], job.task, fit, code)
    master = Exposed(trained.module)
    with torch.device("meta"):
        own = job.network.make()
    assert isinstance(own, Exposed), "the job's network returns no features"
    torch.manual_seed(30_000 + job.seed)
    options = {"strength": how["strength"]} if "strength" in how else {}
    channels = [norm.num_features for norm in own.norms]
    lesson = LESSONS[how["distil"]](channels, master.norms, master.head, **options)
    task = Distilled(job.task, still(master, lesson.batch_statistics))
    fields = {
        "teacher": how["teacher"],
        "teacher_lr": trained.lr,
        "teacher_score": trained.scores[part],
        "teacher_s": trained.train_s,
    }
    return Distillation(Pupil(student, lesson), task, fields)


def still(module: nn.Module, batch_statistics: bool) -> nn.Module:
    """Return a module that nothing trains, and whose statistics stay, whatever goes through it.

    Args:
        module: is changed.
        batch_statistics: whether it normalises by the batch instead of its own statistics.
    """
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and batch_statistics:
            norm.track_running_stats = False
    return module.requires_grad_(False).train(batch_statistics)
