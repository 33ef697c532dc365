"""What may be better than the paper's recipe, tried on seeds that no confirmation uses."""

from benchmarks.quality.experiments.settings import (
    FASHION,
    WRN16_SHORT,
    WRN28,
    Setting,
    representative,
)
from benchmarks.quality.spec import Case, Experiment

PAPER = "the paper's: Emb, 4 learned groups"
_ENDS = ("stem", "head")
_SHORTCUTS = (*_ENDS, "*.shortcut")


def _candidates(setting: Setting, budget: str) -> tuple[Case, ...]:
    # Table 12: four groups are the paper's best number at a low budget.
    learned = {"groups": "search-emb-orthogonal", "n_banks": 4, "downsample": "emb", "k": 4}
    return (
        setting.npas(PAPER, budget, **learned),
        setting.npas("defaults", budget),
        setting.npas("Emb", budget, downsample="emb"),
        setting.npas("learned, WAvg", budget, groups="search-wavg", n_banks=4),
        setting.npas("ends whole", budget, ignored_modules=_ENDS),
        setting.npas("ends and shortcuts whole", budget, ignored_modules=_SHORTCUTS),
        setting.npas("overlapping", budget, variant="overlapping"),
        setting.npas("disjoint", budget, variant="disjoint"),
        setting.npas("K = 8", budget, k=8),
        *(_low(setting, budget) if representative(budget) != "50%" else _full(setting, budget)),
    )


def _low(setting: Setting, budget: str) -> tuple[Case, ...]:
    # One bank is what the defaults come to, and its larger layers have masks.
    return (setting.npas("masks start normal", budget, start="mask: normal"),)


def _full(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        setting.npas("one bank", budget, groups="single"),
        setting.npas("ends and first stage whole", budget, ignored_modules=(*_ENDS, "group1")),
    )


def _experiment(name: str, setting: Setting, budget: str, what: str, minutes: float) -> Experiment:
    return Experiment(
        f"explore/{name} {budget}",
        f"Candidates: {what} at {budget}",
        "Differences are explored here, and confirmed or not on other seeds. Whole: of its own, "
        "and all of its parameters.",
        _candidates(setting, budget),
        "defaults",
        also=PAPER,
        seeds=6,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("cifar10", WRN28, "10%", "CIFAR-10, WRN-28-1", 60),
    _experiment("fashion-mnist", FASHION, "10%", "Fashion-MNIST, WRN-16-1", 20),
    _experiment("cifar10-small", WRN16_SHORT, "4%", "CIFAR-10, WRN-16-1", 30),
    _experiment("cifar10", WRN28, "50%", "CIFAR-10, WRN-28-1", 60),
    _experiment("fashion-mnist", FASHION, "50%", "Fashion-MNIST, WRN-16-1", 20),
)
