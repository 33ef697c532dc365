"""Images ready for training, and batches in an order that follows from the seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.data import load
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
    x = _pool(images.train_x[train], size)
    mean, std = (f(x, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    layout = torch.channels_last
    train_x = ((x - mean) / std).contiguous(memory_format=layout)
    test_x = ((_pool(images.test_x[test], size) - mean) / std).contiguous(memory_format=layout)
    return Task(images.label, train_x, images.train_y[train], test_x, images.test_y[test])


def choose(classes: Tensor, n: int) -> Tensor:
    """Return the places of n images, as many of each class as of any other, always the same.

    Raises:
        ValueError: if a class has too few.
    """
    kinds = classes.unique()
    each = n // len(kinds)
    generator = torch.Generator().manual_seed(0)
    chosen: list[Tensor] = []
    for kind in kinds:
        places = (classes == kind).nonzero()[:, 0]
        if len(places) < each:
            raise ValueError(
                f"{each} images of class {kind} are asked for, there are {len(places)}"
            )
        chosen.append(places[torch.randperm(len(places), generator=generator)[:each]])
    return torch.cat(chosen)


def _pool(x: Tensor, size: int) -> Tensor:
    return F.adaptive_avg_pool2d(x.float(), size)


def batches(task: Task, recipe: Recipe, seed: int, epoch: int) -> Iterator[Batch]:
    """Yield an epoch's batches; which ones depends on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(1_000 * seed + epoch)
    order = torch.randperm(len(task.train_x), generator=generator)
    for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
        chosen = order[start : start + recipe.batch]
        x = task.train_x[chosen]
        yield augmented(x, generator) if recipe.augment else x, task.train_y[chosen]


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images shifted by up to an eighth of their size, and half of them flipped.

    Args:
        x: [batch, channels, size, size].
        generator: draws a shift and a side for each image.
    """
    n, _, height, width = x.shape
    most = max(1, height // 8)
    shift = torch.randint(-most, most + 1, (2, n, 1), generator=generator)
    flip = torch.randint(0, 2, (n, 1), generator=generator)
    rows = torch.arange(height) + shift[0]
    columns = torch.arange(width) + shift[1]
    columns = torch.where(flip == 1, width - 1 - columns, columns)
    padded = F.pad(x, (most,) * 4)
    image = torch.arange(n)[:, None, None]
    moved = padded[image, :, rows[:, :, None] + most, columns[:, None, :] + most]
    return moved.permute(0, 3, 1, 2)  # the indices come first: channels last, as it was
