"""The experiments, most important first. A new one is a new entry here."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from benchmarks.learning.spec import Build, Case, Experiment, Recipe

WRN28 = Recipe("cifar10", 16, 10_000, 10_000, "wrn-28-1", 6, 128, "sgd", 0.3, 5e-4)
WRN16 = replace(WRN28, network="wrn-16-1")
DENSE = Case("dense", Build(), WRN28)

# What `pilot` decided between: the best mean of dense and single has been written into WRN28.
RATES = (("sgd", 0.05), ("sgd", 0.1), ("sgd", 0.3), ("adamw", 3e-3), ("adamw", 1e-2))


def _mapping(budget: str, n_banks: int) -> tuple[Case, ...]:
    """All ways of choosing who shares, at a budget. Manual always has its 14 banks."""
    arms = {
        "single": Build(budget, "single", None, "emb"),
        "random": Build(budget, "random", n_banks, "emb"),
        "manual": Build(budget, "manual", None, "emb"),
        "auto": Build(budget, "auto", n_banks, "emb"),
        "learned, WAvg": Build(budget, "search-wavg", n_banks, "emb"),
        "learned, Emb": Build(budget, "search-emb", n_banks, "emb"),
    }
    return tuple(Case(arm, build, WRN28) for arm, build in arms.items())


def _pilot() -> Experiment:
    builds = {"dense": Build(), "single": Build("100%", "single", None, "emb")}
    cases = [
        Case(f"{name}, {optimizer} {lr:g}", build, _with(WRN28, optimizer, lr))
        for (optimizer, lr), (name, build) in product(RATES, builds.items())
    ]
    return Experiment(
        "pilot",
        "Which optimizer and rate",
        "One seed; decides the recipe of the other experiments.",
        tuple(cases),
        cases[0].arm,
        seeds=1,
    )


def _with(recipe: Recipe, optimizer: str, lr: float, power: float = 0.0) -> Recipe:
    decay = {"sgd": 5e-4, "adamw": 1e-2}[optimizer]
    return replace(recipe, optimizer=optimizer, lr=lr, weight_decay=decay, sharing_power=power)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "mapping/100%",
        "Who shares with whom, at 100%",
        "WRN-28, 14 banks; the paper's Table 9 (WRN-28-10, 14 groups).",
        (DENSE, *_mapping("100%", 14)),
        "dense",
    ),
    Experiment(
        "mapping/11%",
        "Who shares with whom, at 11%",
        "WRN-28, 4 banks (manual has its 14); the paper's Table 12 is best at 4.",
        (DENSE, *_mapping("11%", 4)),
        "single",
    ),
    _pilot(),
)


def select(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names or families (what stands before the slash).

    Raises:
        ValueError: if a name is none.
    """
    for name in names:
        if not any(name in (e.name, e.name.split("/")[0]) for e in EXPERIMENTS):
            known = ", ".join(e.name for e in EXPERIMENTS)
            raise ValueError(f"there is no experiment {name!r}; there are {known}")
    if not names:
        return [e for e in EXPERIMENTS if e.name != "pilot"]
    return [e for e in EXPERIMENTS if e.name in names or e.name.split("/")[0] in names]
