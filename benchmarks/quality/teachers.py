"""Teachers: trained once for each recipe, and kept under build/quality."""

import fcntl
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.quality.networks import network
from benchmarks.quality.spec import Recipe
from benchmarks.quality.tasks import Task
from benchmarks.store import key_of
from npas.naming import nearest

FOLDER = Path("build/quality")
#: Trains a module in place; returns each epoch's loss, and whether it diverged.
Fit = Callable[[nn.Module, Recipe, Task, int], tuple[list[float], bool]]


@dataclass(frozen=True, slots=True)
class Teacher:
    """How a teacher is trained.

    Attributes:
        recipe: its ``lr`` is None.
        rates: learning rates that are tried, a network each; the best on validation data teaches.
        seed: of its weights and batches; no student has it.
    """

    recipe: Recipe
    rates: tuple[float, ...]
    seed: int = 2000


@dataclass(frozen=True, slots=True)
class Trained:
    """A teacher.

    Attributes:
        module: the network, not in training.
        lr: the learning rate that was best.
        scores: ``"validation"`` and ``"test"`` -> its score.
        train_s: processor time of the training at all rates.
    """

    module: nn.Module
    lr: float
    scores: Mapping[str, float]
    train_s: float


#: Task and network -> teacher. Those of digits are for `benchmarks.quality.quick`.
TEACHERS: dict[tuple[str, str], Teacher] = {
    (recipe.task, recipe.network): Teacher(recipe, rates)
    for recipe, rates in (
        # After 8 epochs it was hardly better than WRN-16-1: a wider network needs longer.
        (Recipe("cifar10", "wrn-28-2", 32), (0.2, 0.5, 1.2)),
        (Recipe("digits", "wrn-22-tiny-grey", 1, 32), (0.1, 0.3)),
    )
}


def teacher(task: str, name: str, data: Task, fit: Fit, code: str) -> Trained:
    """Return a teacher, from its files or else trained now.

    Args:
        task: name of the task.
        name: of the network.
        data: the task.
        fit: trains.
        code: a digest of the sources; a teacher of other sources is not used.

    Raises:
        KeyError: if no such teacher is described.
    """
    if (task, name) not in TEACHERS:
        known = [other for where, other in TEACHERS if where == task]
        raise KeyError(f"{task} has no teacher {name!r}{nearest(name, known)}; see TEACHERS")
    made = TEACHERS[task, name]
    tried = {rate: _one(made, rate, data, fit, code) for rate in made.rates}
    lr = max(tried, key=lambda rate: (tried[rate]["scores"]["validation"], -rate))
    module = network(name).make()
    module.load_state_dict(tried[lr]["state"])
    train_s = sum(one["train_s"] for one in tried.values())
    return Trained(module.eval(), lr, tried[lr]["scores"], round(train_s, 2))


def _one(made: Teacher, rate: float, data: Task, fit: Fit, code: str) -> dict[str, Any]:
    """Return a teacher of one learning rate: its state, scores and the time that it took."""
    recipe = replace(made.recipe, lr=rate)

    def train() -> dict[str, Any]:
        torch.manual_seed(made.seed)
        module = network(recipe.network).make()
        begun = time.process_time()
        _, diverged = fit(module, recipe, data, made.seed)
        train_s = time.process_time() - begun
        parts = ("validation", "test")
        scores = {part: 0.0 if diverged else data.score(module, part) for part in parts}
        return {"state": module.state_dict(), "scores": scores, "train_s": train_s}

    return kept(_file(recipe, made.seed, code), train)


def _file(recipe: Recipe, seed: int, code: str) -> Path:
    digest = key_of([asdict(recipe), seed, code])
    return FOLDER / f"teacher-{recipe.task}-{recipe.network}-{digest}.pt"


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds; where there is none, make it and keep it.

    One process makes it while others wait. The file appears whole: what a killed process left is
    written over.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                part = path.with_suffix(".part")
                torch.save(make(), part)
                part.replace(path)
    return torch.load(path, weights_only=True)
