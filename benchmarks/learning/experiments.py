"""The experiments, most important first. A new one is a new entry here."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from benchmarks.learning.spec import Build, Case, Experiment, Recipe
from benchmarks.learning.starts import COEFFICIENTS, MASKS

# The optimizer and its rate are what `pilot` decided.
WRN28 = Recipe("cifar10", 12, 10_000, 10_000, "wrn-28-1", 4, 128, "sgd", 0.3, 5e-4)
WRN16 = replace(WRN28, network="wrn-16-1", epochs=3)
WRN10 = replace(WRN28, network="wrn-10-1", epochs=3)
DENSE = Case("dense", Build(), WRN28)
DECAY = {"sgd": 5e-4, "adamw": 1e-2}
RATES: dict[str, tuple[float, ...]] = {"sgd": (0.3, 1.0, 3.0), "adamw": (1e-2, 3e-2, 1e-1, 3e-1)}
POWERS = (0.0, 0.5, 1.0)
_REPEATED = "Layers larger than the bank repeat it under masks."
_COMBINED = "wavg, K = 4 at most."


def _mapping(budget: str, n_banks: int) -> tuple[Case, ...]:
    """All ways of choosing who shares, at a budget. Manual always has its 14 banks."""
    arms = {
        "single": Build(budget, "single", None, "emb"),
        "random": Build(budget, "random", n_banks, "emb"),
        "manual": Build(budget, "manual", None, "emb"),
        "auto": Build(budget, "auto", n_banks, "emb"),
        "learned, WAvg": Build(budget, "search-wavg", n_banks, "emb"),
        "learned, Emb": Build(budget, "search-emb", n_banks, "emb"),
        "learned, Emb, orthogonal": Build(budget, "search-emb-orthogonal", n_banks, "emb"),
    }
    return tuple(Case(arm, build, WRN28) for arm, build in arms.items())


def _tuned(recipe: Recipe, optimizer: str, lr: float, power: float = 0.0) -> Recipe:
    decay = DECAY[optimizer]
    return replace(recipe, optimizer=optimizer, lr=lr, weight_decay=decay, sharing_power=power)


def _rates(optimizer: str, budget: str) -> Experiment:
    """Powers of the sharing degree, each at the best of the same learning rates."""
    cases = [
        Case(f"power {power:g}", Build(budget, "single"), _tuned(WRN10, optimizer, lr, power))
        for power, lr in product(POWERS, RATES[optimizer])
    ]
    return Experiment(
        f"lr_scaling/{optimizer}-{budget}",
        f"Learning rates of banks: {optimizer} at {budget}",
        "WRN-10, one bank, whose learning rate is lr / degree^power; each power at the best of "
        f"the learning rates {', '.join(f'{lr:g}' for lr in RATES[optimizer])}.",
        tuple(cases),
        "power 0",
    )


def _starts(family: str, starts: Sequence[str], budget: str, note: str) -> Experiment:
    """Ways to start one bank's masks or coefficients, compared with the first."""
    cases = [Case(s.rpartition(": ")[2], Build(budget, "single", start=s), WRN16) for s in starts]
    return Experiment(
        f"{family}/{budget}",
        f"How {family} start, at {budget}",
        f"WRN-16, one bank. {note}",
        tuple(cases),
        cases[0].arm,
    )


def _pilot() -> Experiment:
    builds = {"dense": Build(), "single": Build("100%", "single", None, "emb")}
    cases = [
        Case(f"{name}, {optimizer} {lr:g}", build, _tuned(WRN28, optimizer, lr))
        for optimizer, rates in RATES.items()
        for lr, (name, build) in product(rates, builds.items())
    ]
    note = "One seed; decides the optimizer and the rate of the experiments on mappings."
    return Experiment("pilot", "Optimizers and rates", note, tuple(cases), cases[0].arm, seeds=1)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "mapping/100%",
        "Who shares with whom, at 100%",
        "WRN-28, 14 banks, as many as in the paper's Table 9; emb.",
        (DENSE, *_mapping("100%", 14)),
        "dense",
    ),
    Experiment(
        "mapping/random",
        "Chance mappings at 100%, with more seeds",
        "WRN-28, 14 banks: random groups of even size, and those of the search that starts as the "
        "paper's, which agree between seeds as little.",
        (
            DENSE,
            *(c for c in _mapping("100%", 14) if c.arm in ("random", "learned, Emb, orthogonal")),
        ),
        "dense",
        also="random",
        seeds=10,
    ),
    Experiment(
        "mapping/11%",
        "Who shares with whom, at 11%",
        "WRN-28, 4 banks, the paper's best number at a low budget (Table 12); manual has its 14. "
        "Ends apart: one bank, and one each for the stem and the classifier; emb.",
        (
            *_mapping("11%", 4),
            Case("ends apart", Build("11%", "ends apart", None, "emb"), WRN28),
            DENSE,
        ),
        "single",
        also="auto",
    ),
    _rates("sgd", "11%"),
    _starts("masks", tuple(MASKS), "5%", _REPEATED),
    _starts("coefficients", ("default", *COEFFICIENTS), "25%", _COMBINED),
    _rates("adamw", "11%"),
    _rates("sgd", "25%"),
    _starts("coefficients", ("default", *COEFFICIENTS), "50%", _COMBINED),
    _pilot(),
)


QUICK = Recipe("digits", 8, 160, 100, "wrn-28-grey", 1, 32, "sgd", 0.1, 5e-4, augment=False)


def quick(experiment: Experiment) -> Experiment:
    """Return the experiment with runs of a second: a case an arm, two seeds, tiny images.

    Its numbers say nothing but that the machinery works.
    """
    cases = [
        replace(cases[0], recipe=replace(QUICK, sharing_power=cases[0].recipe.sharing_power))
        for cases in experiment.arms.values()
    ]
    return replace(experiment, cases=tuple(cases), seeds=2)


def select(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names or families (what stands before the slash).

    Without names all of them but the pilot, whose outcome is in the recipes.

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
