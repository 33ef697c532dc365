"""Short training on a task: is a fitted network a better start than others of its size?"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import npas
from benchmarks import fit_svd
from benchmarks.fit_log import Log
from benchmarks.fit_models import cifar, efficientnet, minilm, pooled, sentiment, tokens
from npas.fitting.moments import second_moments

BUDGETS = ("50%", "90%")
METHODS = ("dense", "SVD", "npas fit", "npas fit auto", "npas random")
RATES = (3e-4, 1e-3)
BATCH = 16
_PIXELS = 64
_CLASSES = 10


Batch = tuple[Any, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A task for a pretrained network.

    Attributes:
        body: the network, with what the task's head reads as its output.
        head: makes a new head.
        read: the head's input, from the body and a batch of inputs.
        loss: of the head's output and the labels.
        correct: [samples] whether the head's output is right.
        train: batches, more than are trained on.
        valid: batches on which learning rates are chosen.
        test: batches on which accuracy is reported.
        steps: of training.
    """

    body: nn.Module
    head: Callable[[], nn.Module]
    read: Callable[[nn.Module, Any], torch.Tensor]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    correct: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    train: list[Batch]
    valid: list[Batch]
    test: list[Batch]
    steps: int


def runs(network: str, models: Path, data: Path, seeds: int, log: Log) -> None:
    """Choose a learning rate for each method, and train each at every budget and seed."""
    task = {"minilm": _sentences, "efficientnet": _images}[network](models, data)
    moments = second_moments(task.body, [batch for batch, _ in task.train[:8]])
    for method in METHODS:
        found: dict[float, float] = {}
        for rate in RATES:
            case = {"network": network, "method": method, "choice": rate}
            row = log.find(case)
            if row is None:
                made = compressed(task, method, "50%", 100, moments)
                row = log.add(case, train(task, made, rate, 100, task.valid))
            found[rate] = row["accuracy"]
        rate = max(found, key=lambda each: found[each])
        for budget in BUDGETS if method != "dense" else ("100%",):
            for seed in range(seeds):
                case = {"network": network, "method": method, "budget": budget, "seed": seed}
                if log.find(case) is None:
                    made = compressed(task, method, budget, seed, moments)
                    log.add(case, {**train(task, made, rate, seed, task.test), "rate": rate})


def compressed(
    task: Task, method: str, budget: str, seed: int, moments: dict[str, torch.Tensor]
) -> nn.Module:
    """Return the network of a method at a budget."""
    torch.manual_seed(seed)
    batches = [batch for batch, _ in task.train[:8]]
    match method:
        case "dense":
            return copy.deepcopy(task.body)
        case "SVD":
            total = sum(p.numel() for p in task.body.parameters())
            expected = task.read(task.body, batches[0]).detach()

            @torch.no_grad()
            def distance(module: nn.Module) -> float:
                return float((task.read(module, batches[0]) - expected).square().mean())

            made, _ = fit_svd.best(
                task.body,
                fit_svd.decompose(task.body, moments),
                round(total * float(budget[:-1]) / 100),
                distance,
            )
            return made
        case "npas fit":
            return npas.fit(task.body, budget, groups="fit", batches=batches)
        case "npas fit auto":
            return npas.fit(task.body, budget, batches=batches)
        case "npas random":
            return npas.compile(task.body, budget)
        case _:
            raise AssertionError(method)


def train(
    task: Task, body: nn.Module, rate: float, seed: int, held_out: list[Batch]
) -> dict[str, float]:
    """Train body and head, all of their parameters, and return the accuracy on held-out batches."""
    torch.manual_seed(seed)
    head = task.head()
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, task.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(task.train), generator=generator)[: task.steps].tolist()
    start = time.perf_counter()
    body.train()
    for index in order:
        inputs, labels = task.train[index]
        loss = task.loss(head(task.read(body, inputs)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    body.eval()
    with torch.no_grad():
        right = [task.correct(head(task.read(body, x)), y) for x, y in held_out]
    n_params = sum(p.numel() for p in body.parameters())
    return {
        "accuracy": float(torch.cat(right).float().mean()),
        "seconds": seconds,
        "parameters": n_params,
    }


def _sentences(models: Path, data: Path) -> Task:
    """Sentiment of movie review snippets."""
    del data
    rows = sentiment(models)

    def batches(part: list[tuple[str, float]], size: int) -> list[Batch]:
        inputs = tokens(models, [sentence for sentence, _ in part], size)
        labels = torch.tensor([label for _, label in part]).split(size)
        return list(zip(inputs, labels, strict=True))

    return Task(
        body=minilm(models),
        head=lambda: nn.Sequential(nn.Linear(384, 1), nn.Flatten(0)),
        read=lambda body, x: pooled(body(**x).last_hidden_state, x["attention_mask"]),
        loss=F.binary_cross_entropy_with_logits,
        correct=lambda output, labels: (output > 0) == (labels > 0),
        train=batches(rows[: 60 * BATCH], BATCH),
        valid=batches(rows[5000:5400], 100),
        test=batches(rows[-1000:], 100),
        steps=40,
    )


def _images(models: Path, data: Path) -> Task:
    """CIFAR-10, enlarged; the classifier of 1,000 classes is left away."""
    body = efficientnet(models)
    body._fc = nn.Identity()
    images, labels = cifar(data, "train", 300, _PIXELS)
    tested, answers = cifar(data, "test", 150, _PIXELS)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = [order[: 150 * BATCH].split(BATCH), order[-500:].split(100)]
    train, valid = ([(images[i], labels[i]) for i in part] for part in parts)
    return Task(
        body=body,
        head=lambda: nn.Linear(1280, _CLASSES),
        read=lambda module, x: module(x),
        loss=F.cross_entropy,
        correct=lambda output, labels: output.argmax(1) == labels,
        train=train,
        valid=valid,
        test=list(zip(tested.split(100), answers.split(100), strict=True)),
        steps=150,
    )
