"""What every task shares: its data are read once, and batches follow from the seed alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Any


class Task(Protocol):
    """A data set in parts, a loss and a score.

    Attributes:
        label: what results on it are called.
        measure: what the score is: ``"accuracy"`` or ``"recall"``, of 1.
        n_train: training samples.
    """

    @property
    def label(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def n_train(self) -> int: ...

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's whole batches; which ones depends on the seed and the epoch alone."""
        ...

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        ...

    def score(self, module: nn.Module, part: str) -> float:
        """Return the score on ``"validation"`` or ``"test"``, of 1; higher is better."""
        ...


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Samples and their classes.

    Attributes:
        x: [n, ...], whatever the network takes.
        y: [n] int64.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Classification:
    """Samples of one class each; the score is accuracy.

    Attributes:
        label: what results on it are called.
        parts: ``"train"``, ``"validation"`` and ``"test"``.
        n_classes: the network's outputs.
        augment: changes the samples of a batch at random, or None.
    """

    label: str
    parts: dict[str, Labelled]
    n_classes: int
    augment: Augment | None = None

    @property
    def measure(self) -> str:
        """What the score is."""
        return "accuracy"

    @property
    def n_train(self) -> int:
        """Training samples."""
        return len(self.parts["train"].x)

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's whole batches; which ones depends on the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(1_000 * seed + epoch)
        train = self.parts["train"]
        order = torch.randperm(len(train.x), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            x = train.x[chosen]
            yield self.augment(x, generator) if self.augment else x, train.y[chosen]

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        x, y = batch
        return F.cross_entropy(module(x), y)

    @torch.no_grad()
    def score(self, module: nn.Module, part: str, size: int = 500) -> float:
        """Return the share of a part's samples whose class is right."""
        module.eval()
        samples = self.parts[part]
        pairs = zip(samples.x.split(size), samples.y.split(size), strict=True)
        right = sum(int((module(x).argmax(1) == y).sum()) for x, y in pairs)
        return right / len(samples.y)
