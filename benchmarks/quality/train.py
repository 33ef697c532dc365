"""One run: the network of the seed, what a case makes of it, training, a score, and the row."""

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import npas
from benchmarks.peers.base import n_params as n_params_of
from benchmarks.quality.builds import Job, build, in_params
from benchmarks.quality.distillation import distil
from benchmarks.quality.distillation_features import exposed
from benchmarks.quality.networks import network
from benchmarks.quality.optimizers import OPTIMIZERS, one_cycle
from benchmarks.quality.pruning import prune
from benchmarks.quality.spec import Recipe, Run
from benchmarks.quality.tasks import Task, pretrained, task
from benchmarks.runner import environment
from benchmarks.sources import Sources
from npas.bank import Bank

ROOT = Path(__file__).parents[2]
#: What decides the outcome of a run. Tasks are taken together: they read and describe their data
#: with each other's files.
SOURCES = (
    *("npas/**/*.py", "benchmarks/networks/*.py", "benchmarks/peers/*.py"),
    *(f"benchmarks/{name}.py" for name in ("data", "emoji", "images", "sources", "text")),
    *("benchmarks/learning/starts.py", "benchmarks/quality/tasks/*.py"),
    *("benchmarks/quality/*networks.py", "benchmarks/quality/builds.py"),
    "benchmarks/quality/bank_sizes.py",
    *("benchmarks/quality/groups.py", "benchmarks/quality/optimizers.py"),
    *("benchmarks/quality/train.py", "benchmarks/quality/variants.py"),
)
#: An option of recipes -> the sources that it needs besides.
OPTIONS = {
    "distil": ("benchmarks/quality/distillation*.py", "benchmarks/quality/teachers.py"),
    "prune": ("benchmarks/quality/pruning*.py",),
}
#: A task -> the sources that it needs besides, for the networks and starts that go with it.
TASKS = dict.fromkeys(
    pretrained.TASKS,
    ("benchmarks/fit_models.py", "benchmarks/fit_svd.py", "benchmarks/quality/pretrained*.py"),
)


def code(recipe: Recipe) -> str:
    """Return a digest of the sources that decide the outcome of runs of a recipe."""
    named = tuple(p for name, _ in recipe.how for p in OPTIONS.get(name, ()))
    return _digest(SOURCES + named + TASKS.get(recipe.task, ()))


@cache
def _digest(patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted({p for pattern in patterns for p in ROOT.glob(pattern)}):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def train(run: Run, sources: Sources) -> dict[str, Any]:
    """Do a run on one thread and return its row.

    The initial weights of the dense network and the order of the samples follow from the seed
    alone, so that the runs of a seed are paired. A run whose loss stops being a number, or whose
    search does, has a score of 0 and is marked as diverged. Times are of the process, not of the
    clock.

    The recipe's options: ``recalibrate``, see there; ``sharing_power``, of `npas.param_groups`;
    ``hold_coefficients``, the share of steps at the start in which coefficients stay as they are;
    ``distil`` puts a teacher beside the task's loss, and ``prune`` takes filters out of what was
    trained and trains on (`distil`, `prune`). Their fields are in the row.

    Raises:
        DataError: if the task's data or the network's weights are not there.
    """
    torch.set_num_threads(1)
    recipe = run.recipe
    how = dict(recipe.how)
    data = task(recipe.task, sources)
    chosen = network(recipe.network, sources)
    job = Job(exposed(chosen) if "distil" in how else chosen, run.build, recipe, data, run.seed)
    row = {
        "key": run.key,
        **run.spec,
        "label": data.label,
        "measure": data.measure,
        "n_dense": in_params(job.network, "100%"),
        "steps": recipe.epochs * (data.n_train // recipe.batch),
        "code": code(recipe),
        **environment(torch.device("cpu")),
    }
    begun = time.process_time()
    try:
        built = build(job)
    except npas.DivergedError:
        # The search did; there is no network.
        n_params = in_params(job.network, run.build.budget or "100%")
        nothing = {"score": 0.0, "losses": [], "n_banks": 0, "banks": None, "train_s": 0.0}
        spent = round(time.process_time() - begun, 2)
        return row | nothing | {"diverged": True, "n_params": n_params, "search_s": spent}
    module, extra = built.module, {}
    if "distil" in how:
        taught = distil(job, built.module, run.part, fit, code(recipe))
        module, data, extra = taught.pupil, taught.task, taught.fields
    start = time.process_time()
    losses, diverged = fit(module, recipe, data, run.seed)
    if how.get("recalibrate") and not diverged:
        recalibrate(module, recipe, data, run.seed)
    final = built.module if diverged else tested(built.module)
    if "prune" in how and not diverged:
        pruned = prune(job, final, fit)
        final, diverged, extra = pruned.module, pruned.diverged, pruned.fields
        losses += pruned.losses
    train_s = time.process_time() - start
    return row | {
        "score": 0.0 if diverged else data.score(final, run.part),
        "diverged": diverged,
        "losses": losses,
        "n_params": n_params_of(built.module),
        "n_banks": built.n_banks,
        "banks": built.banks,
        "train_s": round(train_s, 2),
        "search_s": round(built.search_s, 2),
        **extra,
    }


def fit(module: nn.Module, recipe: Recipe, data: Task, seed: int) -> tuple[list[float], bool]:
    """Train; returns each epoch's mean loss, and whether one was no number, which ends it."""
    assert recipe.lr is not None
    how = dict(recipe.how)
    groups = npas.param_groups(
        module,
        recipe.weight_decay,
        lr=recipe.lr,
        sharing_power=how.get("sharing_power", 0.0),
    )
    optimizer = OPTIMIZERS[recipe.optimizer](groups, recipe.lr)
    schedule = one_cycle(optimizer, recipe.epochs * (data.n_train // recipe.batch))
    losses: list[float] = []
    module.train()
    held = _coefficients(module)
    n_held = int(how.get("hold_coefficients", 0.0) * schedule.total_steps)
    torch.manual_seed(20_000 + seed)  # of dropout
    for epoch in range(recipe.epochs):
        values: list[Tensor] = []
        for batch in data.batches(seed, epoch, recipe.batch):
            loss = data.loss(module, batch)
            optimizer.zero_grad()
            loss.backward()
            if schedule.last_epoch < n_held:
                for parameter in held:
                    parameter.grad = None
            optimizer.step()
            schedule.step()
            values.append(loss.detach())
        mean = float(torch.stack(values).mean())
        if not abs(mean) < float("inf"):
            return losses, True
        losses.append(round(mean, 5))
    return losses, False


def _coefficients(module: nn.Module) -> list[nn.Parameter]:
    """Return what combines a compiled module's templates: all of its banks' but theta."""
    return [
        parameter
        for bank in module.modules()
        if isinstance(bank, Bank)
        for name, parameter in bank.named_parameters(recurse=False)
        if name in ("alpha", "phi", "projection")
    ]


@torch.no_grad()
def recalibrate(module: nn.Module, recipe: Recipe, data: Task, seed: int) -> None:
    """Let batch normalisation average over an epoch of the weights as they are now."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    module.train()
    for batch in data.batches(seed, recipe.epochs, recipe.batch):
        data.loss(module, batch)


def tested(module: nn.Module) -> nn.Module:
    """Return the module as it is tested: of a compiled one, the ordinary one of its weights."""
    if hasattr(module, "npas"):
        return npas.materialize(module)
    return module
