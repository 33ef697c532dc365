"""Images ready for training, and batches in an order that follows from the seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import load
from benchmarks.images import augmented, choose, pooled
from benchmarks.learning.spec import Recipe

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """Images [n, channels, size, size] of mean 0 and standard deviation 1, and their classes."""

    label: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def task_of(recipe: Recipe, data: Path | None) -> Task:
    """Return the images that a recipe asks for.

    Raises:
        DataError: if the data set is not there.
        ValueError: if it has fewer images than the recipe asks for.
    """
    return _task(recipe.images, recipe.size, recipe.n_train, recipe.n_test, data)


@lru_cache(maxsize=2)
def _task(name: str, size: int, n_train: int, n_test: int, data: Path | None) -> Task:
    images = load(name, data)
    train = choose(images.train_y, n_train)
    test = choose(images.test_y, n_test)
    x = pooled(images.train_x[train], size)
    mean, std = (f(x, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    layout = torch.channels_last
    train_x = ((x - mean) / std).contiguous(memory_format=layout)
    test_x = ((pooled(images.test_x[test], size) - mean) / std).contiguous(memory_format=layout)
    return Task(images.label, train_x, images.train_y[train], test_x, images.test_y[test])


def batches(task: Task, recipe: Recipe, seed: int, epoch: int) -> Iterator[Batch]:
    """Yield an epoch's batches; which ones depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(1_000 * seed + epoch)
    order = torch.randperm(len(task.train_x), generator=generator)
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        chosen = order[start : start + recipe.batch]
        x = task.train_x[chosen]
        yield augmented(x, generator) if recipe.augment else x, task.train_y[chosen]
