"""One run: the dense network of the seed, what a case makes of it, training, and the row."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import npas
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.spec import Build, Recipe, Run
from benchmarks.learning.starts import STARTS, restart
from benchmarks.learning.task import Batch, Task, batches, task_of
from benchmarks.quality.groups import PATTERNS
from benchmarks.quality.optimizers import OPTIMIZERS, Groups, one_cycle
from benchmarks.runner import environment

# A search takes this share of the training steps; the paper: 10 to 15% of the time (3.2).
SEARCH_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Built:
    """What is trained, and what it took to make it."""

    module: nn.Module
    n_banks: int
    search_steps: int = 0
    search_cpu_s: float = 0.0
    mapping: npas.Mapping | None = None


def train(run: Run, data: Path | None) -> dict[str, Any]:
    """Do a run on one thread and return its row.

    The initial weights of the dense network and the order of the images follow from the seed
    alone, so that the runs of a seed are paired. Times are of the process, not of the clock.
    """
    torch.set_num_threads(1)
    recipe, seed = run.recipe, run.seed
    task = task_of(recipe, data)
    torch.manual_seed(seed)
    model = NETWORKS[recipe.network]()
    torch.manual_seed(10_000 + seed)
    built = build(model, run.build, recipe, task, seed)
    start = time.process_time()
    losses = fit(built.module, recipe, task, seed)
    train_s = time.process_time() - start
    row = {
        "key": run.key,
        **run.spec,
        "data": task.label,
        "accuracy": accuracy(built.module, task),
        "losses": losses,
        "n_params": sum(p.numel() for p in built.module.parameters() if p.requires_grad),
        "n_dense": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "n_banks": built.n_banks,
        "steps": recipe.steps,
        "train_cpu_s": round(train_s, 2),
        "search_steps": built.search_steps,
        "search_cpu_s": round(built.search_cpu_s, 2),
        "banks": None if built.mapping is None else dict(built.mapping.banks),
    }
    return row | environment(torch.device("cpu"))


def build(model: nn.Module, how: Build, recipe: Recipe, task: Task, seed: int) -> Built:
    """Return what a case makes of the dense network."""
    assert how.start in STARTS, how.start
    if how.budget is None:
        return Built(model, 0)
    groups: Any = how.groups
    n_banks = how.n_banks
    steps, search_s = 0, 0.0
    if how.groups in PATTERNS:
        groups, n_banks = dict(PATTERNS[how.groups]), None
    elif how.groups.startswith("search-"):
        steps = max(1, int(SEARCH_SHARE * recipe.steps))
        start = time.process_time()
        groups = search(model, how, recipe, task, seed, steps)
        search_s, n_banks = time.process_time() - start, None
    plan = npas.plan(
        model,
        how.budget,
        groups=groups,
        n_banks=n_banks,
        downsample=how.downsample,
        seed=seed,
    )
    # The same bits as with recomputation, in a tenth less time.
    module = npas.compile(model, plan=plan, recompute=False)
    if how.start != "default":
        restart(module, how.start, seed)
    mapping = npas.Mapping({bank.name: bank.layers for bank in plan.banks}, plan.groups)
    return Built(module, len(plan.banks), steps, search_s, mapping)


def search(
    model: nn.Module, how: Build, recipe: Recipe, task: Task, seed: int, steps: int
) -> npas.Mapping:
    """Return a learned mapping, searched on the first batches of training, as it trains."""
    schedules: list[OneCycleLR] = []

    def optimizer(groups: Groups) -> torch.optim.Optimizer:
        made = OPTIMIZERS[recipe.optimizer](groups, recipe.lr)
        schedules.append(one_cycle(made, steps))
        return made

    epochs = (batches(task, recipe, seed, epoch) for epoch in range(recipe.epochs))
    assert how.n_banks is not None
    _, method, *start = how.groups.split("-")
    return npas.search(
        model,
        islice(chain.from_iterable(epochs), steps),
        loss_of,
        groups=how.n_banks,
        method=method,
        start=start[0] if start else "equal",
        steps=steps,
        optimizer=optimizer,
        callbacks=[lambda _: schedules[0].step()],
        seed=seed,
        progress=False,
    )


def loss_of(module: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    x, y = batch
    return F.cross_entropy(module(x), y)


def fit(module: nn.Module, recipe: Recipe, task: Task, seed: int) -> list[float]:
    """Train, and return each epoch's mean loss; stops at a loss that is no number."""
    groups = npas.param_groups(
        module, recipe.weight_decay, lr=recipe.lr, sharing_power=recipe.sharing_power
    )
    optimizer = OPTIMIZERS[recipe.optimizer](groups, recipe.lr)
    schedule = one_cycle(optimizer, recipe.steps)
    losses: list[float] = []
    module.train()
    for epoch in range(recipe.epochs):
        values: list[Tensor] = []
        for batch in batches(task, recipe, seed, epoch):
            loss = loss_of(module, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            values.append(loss.detach())
        losses.append(round(float(torch.stack(values).mean()), 5))
        if not losses[-1] < float("inf"):
            return [*losses[:-1], float("inf")]
    return losses


@torch.no_grad()
def accuracy(module: nn.Module, task: Task, batch: int = 500) -> float:
    """Return the share of test images whose class is right."""
    module.eval()
    parts: Iterable[tuple[Tensor, Tensor]] = zip(
        task.test_x.split(batch), task.test_y.split(batch), strict=True
    )
    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in parts)
    return right / len(task.test_y)
