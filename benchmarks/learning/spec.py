"""What is run, as data: recipes, builds, cases and experiments."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from benchmarks.store import key_of


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained and tested.

    Attributes:
        images: a data set of `benchmarks.data`.
        size: height and width of the images after average pooling.
        n_train: training images, a fixed choice with as many of each class.
        n_test: test images, chosen in the same way.
        network: a name of `benchmarks.learning.networks.NETWORKS`.
        epochs: passes over the training images.
        batch: images a step.
        optimizer: a name of `benchmarks.learning.train.OPTIMIZERS`.
        lr: highest learning rate of a one-cycle schedule.
        weight_decay: of the parameters that decay (`npas.param_groups`).
        sharing_power: as for `npas.param_groups`.
        augment: whether images are shifted and flipped at random.
    """

    images: str
    size: int
    n_train: int
    n_test: int
    network: str
    epochs: int
    batch: int
    optimizer: str
    lr: float
    weight_decay: float
    sharing_power: float = 0.0
    augment: bool = True

    @property
    def steps(self) -> int:
        """Training steps."""
        return self.epochs * (self.n_train // self.batch)


@dataclass(frozen=True, slots=True)
class Build:
    """How a dense network becomes what is trained.

    Attributes:
        budget: as for `npas.plan`; None leaves the network dense.
        groups: as for `npas.plan`, or a name of `benchmarks.quality.groups.PATTERNS`, or
            ``"search-emb"`` and ``"search-wavg"`` (learned, 3.2), with ``"-orthogonal"`` behind it
            where the search starts as the paper's does.
        n_banks: number of banks, where ``groups`` leaves it open.
        downsample: as for `npas.plan`.
        start: a name of `benchmarks.learning.starts.STARTS`, ``"default"`` for npas's own.
    """

    budget: str | None = None
    groups: str = "auto"
    n_banks: int | None = None
    downsample: str = "wavg"
    start: str = "default"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train: a row of a table is made of its runs over seeds.

    Attributes:
        arm: what is compared. An arm of several cases (a grid of learning rates) stands for the
            case with the best mean.
        build: how the network is made.
        recipe: how it is trained.
    """

    arm: str
    build: Build
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    build: Build
    recipe: Recipe
    seed: int

    @property
    def spec(self) -> dict[str, Any]:
        """What the run is, as JSON values."""
        return {"build": asdict(self.build), "recipe": asdict(self.recipe), "seed": self.seed}

    @property
    def key(self) -> str:
        """A digest of the spec: the same run in two experiments is run once."""
        return key_of(self.spec)


@dataclass(frozen=True)
class Experiment:
    """A question, and the runs that answer it.

    Attributes:
        name: ``family/part``; the command line takes either.
        title: of its table.
        note: how to read the table.
        cases: what is compared.
        baseline: the arm that the others are compared with.
        also: a second arm that they are compared with, or None.
        seeds: runs of each case.
    """

    name: str
    title: str
    note: str
    cases: tuple[Case, ...]
    baseline: str
    also: str | None = None
    seeds: int = 5

    @cached_property
    def arms(self) -> dict[str, list[Case]]:
        """Arm -> its cases, in the order of the table."""
        found: dict[str, list[Case]] = {}
        for case in self.cases:
            found.setdefault(case.arm, []).append(case)
        return found

    @property
    def runs(self) -> list[Run]:
        """All runs, a seed of every case before the next seed."""
        return [
            Run(case.build, case.recipe, seed) for seed in range(self.seeds) for case in self.cases
        ]
