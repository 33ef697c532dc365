"""From a dense network to what is trained: as it is, compiled by npas, or as a peer has it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

import npas
from benchmarks.learning.starts import STARTS, restart
from benchmarks.networks.spec import Network
from benchmarks.peers import PEERS, peer
from benchmarks.peers.base import n_params
from benchmarks.quality import bank_sizes, pretrained_builds
from benchmarks.quality.groups import PATTERNS
from benchmarks.quality.optimizers import OPTIMIZERS, one_cycle
from benchmarks.quality.spec import Build, Recipe
from benchmarks.quality.tasks import Task
from benchmarks.quality.variants import VARIANTS, room
from npas.budget import parse_budget

# A search takes this share of the training steps; the paper: 10 to 15% of the time (3.2).
SEARCH_SHARE = 0.1
# Learning rates of a search, of that of training, each tried where the one before diverges.
SEARCH_RATES = (1.0, 1 / 3, 1 / 9, 1 / 27)


@dataclass(frozen=True, slots=True)
class Job:
    """What a method has to work with.

    Attributes:
        network: that is trained.
        build: how.
        recipe: of the training, which a search follows.
        task: has the data.
        seed: of the run.
    """

    network: Network
    build: Build
    recipe: Recipe
    task: Task
    seed: int

    def dense(self) -> nn.Module:
        """Return the dense network of the seed: the same initial weights for every method."""
        torch.manual_seed(self.seed)
        return self.network.make()

    @property
    def how(self) -> dict[str, Any]:
        """The options of the build."""
        return dict(self.build.how)


@dataclass(frozen=True, slots=True)
class Built:
    """What is trained, and what it took to make it.

    Attributes:
        module: to train.
        n_banks: banks that layers share, 0 without npas.
        search_s: processor time of a search for who shares with whom, or of an SVD or a fit.
        banks: bank -> its layers, where a search found them.
    """

    module: nn.Module
    n_banks: int = 0
    search_s: float = 0.0
    banks: dict[str, tuple[str, ...]] | None = None


def build(job: Job) -> Built:
    """Return what the job's method makes of the dense network.

    Raises:
        KeyError: if there is no such method.
        npas.NpasError: if npas cannot meet the budget.
        benchmarks.peers.PeerError: if a peer cannot.
    """
    return METHODS[job.build.method](job)


def _dense(job: Job) -> Built:
    return Built(job.dense())


def _npas(job: Job) -> Built:
    how = job.how
    start = how.pop("start", "default")
    assert start in STARTS, start
    variant, templates = how.pop("variant", None), how.pop("room", None)
    tilt, by_value = how.pop("tilt", None), how.pop("by_value", False)
    model = job.dense()
    groups, search_s = how.pop("groups", "auto"), 0.0
    if groups in PATTERNS:
        groups = dict(PATTERNS[groups])
    elif str(groups).startswith("search-"):
        begun = time.process_time()
        groups = _search(model, job, groups, how.pop("n_banks"))
        search_s = time.process_time() - begun
    assert job.build.budget is not None
    with room(templates):
        plan = npas.plan(model, job.build.budget, groups=groups, seed=job.seed, **how)
    if variant is not None:
        plan = VARIANTS[variant](plan)
    if tilt is not None:
        plan = bank_sizes.tilted(plan, tilt)
    if by_value:
        begun = time.process_time()
        plan = bank_sizes.by_value(plan, _squared_gradients(job))
        search_s += time.process_time() - begun
    torch.manual_seed(10_000 + job.seed)
    module = npas.compile(model, plan=plan)
    if start != "default":
        restart(module, start, job.seed)
    searched = str(job.how.get("groups")).startswith("search-")
    banks = {bank.name: bank.layers for bank in plan.banks} if searched else None
    return Built(module, len(plan.banks), search_s, banks)


def _peer(job: Job) -> Built:
    torch.manual_seed(job.seed)
    assert job.build.budget is not None
    n = in_params(job.network, job.build.budget)
    return Built(peer(job.build.method).build(job.network, n).module)


def _svd(job: Job) -> Built:
    assert job.build.budget is not None
    n = in_params(job.network, job.build.budget)
    inputs = _first_inputs(job)
    begun = time.process_time()
    module = pretrained_builds.svd(job.dense(), n, inputs)
    return Built(module, search_s=time.process_time() - begun)


def _fit(job: Job) -> Built:
    assert job.build.budget is not None
    inputs = _first_inputs(job)
    begun = time.process_time()
    module, n_banks = pretrained_builds.fit(
        job.dense(), job.build.budget, inputs, seed=job.seed, **job.how
    )
    return Built(module, n_banks, time.process_time() - begun)


METHODS: dict[str, Callable[[Job], Built]] = {
    "dense": _dense,
    "npas": _npas,
    "svd": _svd,
    "fit": _fit,
    **dict.fromkeys(PEERS, _peer),
}


def in_params(network: Network, budget: str) -> int:
    """Return a budget of a network in parameters.

    ``"largest"`` is what one bank as large as the largest layer comes to, all else included.
    """
    with torch.device("meta"):
        model = network.make()
    found = parse_budget(budget).resolve(n_params(model), 4)
    return npas.plan(model, "largest", groups="single").n_params if found is None else found


def _first_batches(job: Job) -> tuple[int, Iterator[Any]]:
    """Return how many steps come before training, and the batches of training they take."""
    recipe, task = job.recipe, job.task
    n_steps = max(1, int(SEARCH_SHARE * recipe.epochs * (task.n_train // recipe.batch)))
    epochs = (task.batches(job.seed, epoch, recipe.batch) for epoch in range(recipe.epochs))
    return n_steps, islice(chain.from_iterable(epochs), n_steps)


def _first_inputs(job: Job) -> list[torch.Tensor]:
    """Return the inputs of the first training batches of the seed, without their classes."""
    batches = job.task.batches(job.seed, 0, job.recipe.batch)
    return [x for x, _ in islice(batches, pretrained_builds.N_BATCHES)]


def _squared_gradients(job: Job) -> dict[str, float]:
    """Return parameter -> sum of its squared gradients, over the dense network's first steps."""
    recipe = job.recipe
    assert recipe.lr is not None
    n_steps, batches = _first_batches(job)
    model = job.dense()
    optimizer = OPTIMIZERS[recipe.optimizer](
        npas.param_groups(model, recipe.weight_decay), recipe.lr
    )
    schedule = one_cycle(optimizer, n_steps)
    named = dict(model.named_parameters())
    found = dict.fromkeys(named, 0.0)
    for batch in batches:
        optimizer.zero_grad()
        job.task.loss(model, batch).backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                found[name] += float(parameter.grad.square().sum())
        optimizer.step()
        schedule.step()
    return found


def _search(model: nn.Module, job: Job, groups: str, n_banks: int | str) -> npas.Mapping:
    """Return a learned mapping, searched on the first batches of training.

    At the learning rate of training first. A search shares much more than what is trained later,
    and may diverge where that learns: then it begins anew at a third of the rate.

    Args:
        model: the dense network.
        job: has the data and the recipe.
        groups: ``"search-METHOD"``, and ``"-orthogonal"`` where it starts as the paper's does.
        n_banks: how many groups; ``"auto"`` for the most stable number.

    Raises:
        npas.DivergedError: if it diverges at all of these rates.
    """
    assert job.recipe.lr is not None
    for times in SEARCH_RATES[:-1]:
        try:
            return _searched(model, job, groups, n_banks, times * job.recipe.lr)
        except npas.DivergedError:
            continue
    return _searched(model, job, groups, n_banks, SEARCH_RATES[-1] * job.recipe.lr)


def _searched(
    model: nn.Module, job: Job, groups: str, n_banks: int | str, rate: float
) -> npas.Mapping:
    """Search as `_search`, at one learning rate."""
    recipe = job.recipe
    n_steps, batches = _first_batches(job)
    schedules = []

    def optimizer(parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made = OPTIMIZERS[recipe.optimizer](parameters, rate)
        schedules.append(one_cycle(made, n_steps))
        return made

    _, method, *start = groups.split("-")
    return npas.search(
        model,
        batches,
        job.task.loss,
        groups=n_banks,
        method=method,
        start=start[0] if start else "equal",
        steps=n_steps,
        optimizer=optimizer,
        callbacks=[lambda _: schedules[0].step()],
        seed=job.seed,
        budget=job.build.budget if n_banks == "auto" else None,
        progress=False,
    )
