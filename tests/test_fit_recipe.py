"""The recipe of docs/fitting.md runs as it stands there."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas

pytestmark = pytest.mark.pure

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "fitting.md"


def recipe() -> str:
    text = DOCUMENT.read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def digits() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    found: Any = datasets.load_digits()
    x = torch.tensor(found.data, dtype=torch.float32) / 16
    y = torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1280], order[1280:]
    return [(x[i], y[i]) for i in train.split(64)], x[test], y[test]


def test_the_recipe_gives_most_of_the_accuracy_back() -> None:
    batches, x, y = digits()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
        nn.Linear(96, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    def accuracy(module: nn.Module) -> float:
        return float((module.eval()(x).argmax(1) == y).float().mean())

    original = accuracy(model)
    assert original > 0.93
    given = {"model": model.train(), "batches": batches, "loss_fn": F.cross_entropy}
    exec(recipe(), given)
    ssn: Any = given["ssn"]
    start = npas.fit(model, "50%", groups="fit", batches=[inputs for inputs, _ in batches[:8]])
    assert sum(p.numel() for p in ssn.parameters()) <= 0.5 * sum(
        p.numel() for p in model.parameters()
    )
    assert accuracy(ssn) > accuracy(start) + 0.1
    assert accuracy(ssn) > original - 0.05
