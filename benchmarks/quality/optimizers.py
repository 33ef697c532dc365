"""Optimizers by name, and the schedule of all runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

Groups = list[dict[str, Any]]


def _sgd(groups: Groups, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def _adamw(groups: Groups, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr)


OPTIMIZERS: dict[str, Callable[[Groups, float], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR:
    """Return a schedule that warms up to the optimizer's rates and anneals to zero."""
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, highest, steps, cycle_momentum=False)
