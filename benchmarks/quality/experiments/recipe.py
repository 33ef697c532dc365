"""npas's defaults against the paper's recipe, on every task; then against what may beat both."""

from benchmarks.quality.experiments.settings import (
    FASHION,
    GLOSS,
    MOVIES,
    WRN16,
    WRN16_WIDE,
    Setting,
)
from benchmarks.quality.spec import Case, Experiment

#: Fresh: no choice was made on runs of these seeds.
FIRST = 100


def _recipes(setting: Setting, budget: str) -> tuple[Case, ...]:
    # Table 12: four groups are the paper's best number at a low budget.
    learned = {"groups": "search-emb-orthogonal", "n_banks": 4, "downsample": "emb", "k": 4}
    return (
        setting.npas("the paper's: Emb, 4 learned groups", budget, **learned),
        setting.npas("npas's defaults", budget),
    )


def _experiment(name: str, title: str, setting: Setting, budget: str, minutes: float) -> Experiment:
    return Experiment(
        f"recipe/{name} {budget}",
        f"npas's defaults against the paper's recipe: {title} at {budget}",
        "The search takes a tenth of the training steps, on top of them. Seeds that no choice was "
        "made on.",
        _recipes(setting, budget),
        "the paper's: Emb, 4 learned groups",
        seeds=8,
        first=FIRST,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("cifar10", "CIFAR-10, WRN-16-1", WRN16, "10%", 20),
    _experiment("cifar10-wide", "CIFAR-10, WRN-16-2", WRN16_WIDE, "7%", 25),
    _experiment("fashion-mnist", "Fashion-MNIST, WRN-16-1", FASHION, "10%", 10),
    _experiment("gloss", "WordNet's definitions, an encoder of 6 layers", GLOSS, "10%", 25),
    _experiment("vader-movie", "film reviews, an encoder of 6 layers", MOVIES, "10%", 25),
    _experiment("cifar10", "CIFAR-10, WRN-16-1", WRN16, "50%", 20),
    _experiment("fashion-mnist", "Fashion-MNIST, WRN-16-1", FASHION, "50%", 10),
)
