"""Learning a mapping: each part finds what was planted, and does not when it is noise."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score
from torch import nn

import npas

from npas import CheckpointError, Mapping, NpasError, NpasWarning
from npas.search import SearchStep
from npas.search_bank import SearchBank, template_shape
from npas.search_state import random_states

pytestmark = pytest.mark.pure

SIZES = [(24, 24), (16, 24), (24, 16), (12, 12), (16, 16), (24, 20), (20, 12), (24, 24), (16, 20)]
PLANTED = [i % 3 for i in range(len(SIZES))]


class Layers(nn.Module):
    """Layers of several sizes side by side, so that each can be taught on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(c, r, bias=False) for r, c in SIZES)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x[:, : layer.in_features]) for layer in self.layers]


def lesson() -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """A loss that teaches each layer one of three patterns, resized to its shape."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(3, 1, 1, 4, 4, generator=generator)
    wanted = [
        F.interpolate(patterns[group], size=size, mode="bilinear", align_corners=True)[0, 0]
        for group, size in zip(PLANTED, SIZES, strict=True)
    ]
    wanted = [w / w.std() / size[1] ** 0.5 for w, size in zip(wanted, SIZES, strict=True)]

    def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        made = model(x)
        errors = [
            (y - x[:, : w.shape[1]] @ w.T).square().mean()
            for y, w in zip(made, wanted, strict=True)
        ]
        return torch.stack(errors).sum()

    return loss_fn


LESSON = lesson()


def inputs(n: int = 120) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 24, generator=generator) for _ in range(n)]


def agreement(mapping: Mapping) -> float:
    """Return how well the banks agree with what was planted: 1 is all, 0 is chance."""
    bank_of = mapping.bank_of
    found = [bank_of[f"layers.{i}.weight"] for i in range(len(SIZES))]
    return float(adjusted_rand_score(PLANTED, found))


def searched(method: str = "emb", seed: int = 0) -> Mapping:
    torch.manual_seed(seed)
    return npas.search(
        Layers(),
        inputs(),
        LESSON,
        groups=3,
        method=method,
        seed=seed,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2),
    )


@pytest.mark.parametrize("method", ["emb", "wavg"])
@pytest.mark.parametrize("seed", [0, 1])
def test_layers_that_learn_the_same_share_a_bank(method: str, seed: int) -> None:
    mapping = searched(method, seed)
    assert agreement(mapping) == 1.0
    learned = mapping.learned
    assert learned is not None and learned.losses is not None
    assert learned.losses[1] < learned.losses[0] / 5
    assert learned.silhouette is not None and learned.silhouette > 0.25
    assert (learned.method, learned.steps, learned.seed) == (method, 120, seed)
    assert mapping.source == f"learned ({method})"


def _noise_for_representations(patch: pytest.MonkeyPatch) -> None:
    def noise(bank: SearchBank) -> torch.Tensor:
        return torch.randn(len(bank.weights), 24, generator=torch.Generator().manual_seed(7))

    patch.setattr(SearchBank, "representation", noise)


def _noise_for_resizing(patch: pytest.MonkeyPatch) -> None:
    mixes: dict[tuple[int, ...], torch.Tensor] = {}

    def noise(image: torch.Tensor, size: tuple[int, int], **_: Any) -> torch.Tensor:
        n_out, n_in = size[0] * size[1], image.numel()
        generator = torch.Generator().manual_seed(n_out * 1000 + len(mixes))
        mix = mixes.setdefault(size, torch.randn(n_out, n_in, generator=generator) / n_in**0.5)
        return (mix @ image.flatten()).view(1, 1, *size)

    patch.setattr("npas.search_bank.F.interpolate", noise)


def _noise_for_clusters(patch: pytest.MonkeyPatch) -> None:
    def noise(points: np.ndarray, n_clusters: int, seed: int, n_init: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(points)) % n_clusters

    patch.setattr(sys.modules["npas.cluster"], "kmeans", noise)


@pytest.mark.parametrize(
    "replace", [_noise_for_representations, _noise_for_resizing, _noise_for_clusters]
)
def test_with_a_part_of_it_noise_the_search_finds_nothing(
    replace: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows that the test above can fail: each part is needed."""
    with monkeypatch.context() as patch:
        replace(patch)
        found = [agreement(searched(method, 0)) for method in ("emb", "wavg")]
    assert max(found) < 0.6, found
