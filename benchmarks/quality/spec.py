"""What is run, as data: recipes, builds, cases, experiments, and the runs that they ask for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from benchmarks.store import key_of

#: Named values of a build or a recipe, sorted by name.
Options = tuple[tuple[str, Any], ...]
#: Finished runs: key -> row.
Rows = Mapping[str, Mapping[str, Any]]


def options(**values: Any) -> Options:
    """Return named values as `Options`."""
    return tuple(sorted(values.items()))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Attributes:
        task: a name of `benchmarks.quality.tasks.TASKS`.
        network: a name of `benchmarks.quality.networks.NETWORKS`.
        epochs: passes over the training samples.
        batch: samples a step.
        optimizer: a name of `benchmarks.quality.train.OPTIMIZERS`.
        lr: highest learning rate of a one-cycle schedule; None where a `Tuning` chooses it.
        weight_decay: of the parameters that decay (`npas.param_groups`).
        how: options of `benchmarks.quality.train`.
    """

    task: str
    network: str
    epochs: int
    batch: int = 128
    optimizer: str = "sgd"
    lr: float | None = None
    weight_decay: float = 5e-4
    how: Options = ()


@dataclass(frozen=True, slots=True)
class Build:
    """How a dense network becomes what is trained.

    Attributes:
        method: a name of `benchmarks.quality.builds.METHODS`.
        budget: as for `npas.plan`; None for the dense network's own.
        how: options of the method.
    """

    method: str = "dense"
    budget: str | None = None
    how: Options = ()


def npas_build(budget: str, **how: Any) -> Build:
    """Return a network compiled to a budget; options are those of `npas.plan` and a few more."""
    return Build("npas", budget, options(**how))


@dataclass(frozen=True, slots=True)
class Tuning:
    """A grid of learning rates, judged on validation data; what is chosen holds for a kind of case.

    Attributes:
        build: of the kind's representative.
        recipe: its ``lr`` is None.
        rates: that are tried first, in rising order; the same for all that are compared.
        seeds: none of them a seed of the cases.
        wider: all rates that may be tried, in rising order: the grid grows by the next one for as
            long as its lowest or highest rate is the best.
    """

    build: Build
    recipe: Recipe
    rates: tuple[float, ...]
    seeds: tuple[int, ...] = (1000, 1001)
    wider: tuple[float, ...] = ()

    def runs(self, rate: float) -> list["Run"]:
        """Return the runs of one rate, a seed each."""
        recipe = replace(self.recipe, lr=rate)
        return [Run(self.build, recipe, seed, "validation") for seed in self.seeds]

    def grid(self, rows: Rows) -> tuple[float, ...]:
        """Return the rates that are asked for, in rising order, as far as it is known."""
        rates = self.rates
        while (best := self._best(rates, rows)) is not None:
            lower = [rate for rate in self.wider if best == rates[0] and rate < best]
            higher = [rate for rate in self.wider if best == rates[-1] and rate > best]
            if not lower and not higher:
                break
            rates = (*lower[-1:], *rates, *higher[:1])
        return rates

    def known_runs(self, rows: Rows) -> list["Run"]:
        """Return the runs of the grid."""
        return [run for rate in self.grid(rows) for run in self.runs(rate)]

    def chosen(self, rows: Rows) -> float | None:
        """Return the rate of the best mean score, the lower one of equals; None while unknown."""
        return self._best(self.grid(rows), rows)

    def _best(self, rates: Sequence[float], rows: Rows) -> float | None:
        runs = {rate: self.runs(rate) for rate in rates}
        if any(run.key not in rows for found in runs.values() for run in found):
            return None
        scores = {rate: sum(rows[r.key]["score"] for r in found) for rate, found in runs.items()}
        return max(scores, key=lambda rate: (scores[rate], -rate))


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared: an arm of an experiment, a row of its table.

    Attributes:
        arm: its name.
        build: how the network is made.
        recipe: how it is trained.
        tuning: chooses the learning rate where the recipe has none.
        paper: its method in `benchmarks/paper.toml`, empty where the paper has none.
        against: the arm that it is compared with, where that is not the experiment's baseline.
    """

    arm: str
    build: Build
    recipe: Recipe
    tuning: Tuning | None = None
    paper: str = ""
    against: str = ""

    def run(self, seed: int, rows: Rows) -> "Run | None":
        """Return the run of a seed, None while its learning rate is not known."""
        lr = self.recipe.lr
        if lr is None:
            assert self.tuning is not None, f"{self.arm}: neither a learning rate nor a tuning"
            lr = self.tuning.chosen(rows)
        if lr is None:
            return None
        return Run(self.build, replace(self.recipe, lr=lr), seed, "test")


@dataclass(frozen=True, slots=True)
class Run:
    """One training run, and the part of the data that it is scored on."""

    build: Build
    recipe: Recipe
    seed: int
    part: str

    @property
    def spec(self) -> dict[str, Any]:
        """What the run is, as JSON values.

        What has its default is left out, so that a field that is added later changes no key.
        """
        return {
            "build": _values(self.build),
            "recipe": _values(self.recipe),
            "seed": self.seed,
            "part": self.part,
        }

    @property
    def key(self) -> str:
        """A digest of the spec: the same run in two experiments is run once."""
        return key_of(self.spec)


def _values(spec: Build | Recipe) -> dict[str, Any]:
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    changed = {f.name: values[f.name] for f in fields(spec) if values[f.name] != f.default}
    return {name: dict(v) if name == "how" else v for name, v in changed.items()}


@dataclass(frozen=True, slots=True)
class Printed:
    """Numbers of the paper to put beside: a filter of `benchmarks.paper.rows`.

    Attributes:
        table: its number.
        network: name in paper.toml.
        task: a data set.
        budget: as printed; None where the table has one only, or the arms differ in it.
        measure: what is measured; None where the table has one only.
    """

    table: str
    network: str
    task: str
    budget: str | None = None
    measure: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A question, and the runs that answer it.

    Attributes:
        name: ``family/part``; the command line takes either.
        title: of its table.
        note: how to read the table.
        cases: what is compared, in the order of the table.
        baseline: the arm that the others are compared with, but for those that name another.
        also: a second arm that they are compared with, or None.
        seeds: runs of each case, from seed ``first`` on.
        first: the first seed; confirmations use seeds that no choice was made on.
        paper: the paper's numbers for it.
        minutes: expected on one thread, all runs together.
    """

    name: str
    title: str
    note: str
    cases: tuple[Case, ...]
    baseline: str
    also: str | None = None
    seeds: int = 8
    first: int = 0
    paper: tuple[Printed, ...] = ()
    minutes: float = 0.0

    @cached_property
    def tunings(self) -> tuple[Tuning, ...]:
        """The tunings of the cases, each once."""
        found = (case.tuning for case in self.cases if case.recipe.lr is None)
        return tuple(dict.fromkeys(tuning for tuning in found if tuning is not None))

    @property
    def all_seeds(self) -> range:
        """The seeds of the cases."""
        return range(self.first, self.first + self.seeds)

    def n_runs(self, rows: Rows) -> int:
        """Return the number of runs of cases and of tunings, whose grids may grow."""
        tuned = sum(len(tuning.known_runs(rows)) for tuning in self.tunings)
        return tuned + self.seeds * len(self.cases)

    def known_runs(self, rows: Rows) -> list[Run]:
        """Return the runs that can be named: tunings first, then a seed of every case in turn."""
        tuned = [run for tuning in self.tunings for run in tuning.known_runs(rows)]
        runs = (case.run(seed, rows) for seed in self.all_seeds for case in self.cases)
        return tuned + [run for run in runs if run is not None]

    def n_done(self, rows: Rows) -> int:
        """Return how many of the runs have a row."""
        return sum(run.key in rows for run in self.known_runs(rows))


def missing(experiments: Sequence[Experiment], rows: Rows) -> list[Run]:
    """Return the runs that can be done now and have no row, in the order of the experiments."""
    runs: Iterable[Run] = (run for e in experiments for run in e.known_runs(rows))
    wanted = {run.key: run for run in runs}
    return [run for key, run in wanted.items() if key not in rows]
