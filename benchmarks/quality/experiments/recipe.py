"""npas's defaults against the paper's recipe, on every task, and against what they replaced."""

from benchmarks.quality.experiments.explore import PAPER, TIGHT
from benchmarks.quality.experiments.settings import (
    EFFICIENTNET,
    EMBNET,
    FASHION,
    GLOSS,
    SIMNET,
    TWEETS,
    WRN16,
    WRN28,
    Setting,
)
from benchmarks.quality.spec import Case, Experiment

#: Fresh: no choice was made on runs of these seeds.
FIRST = 100
DEFAULTS = "npas's defaults"


def _recipes(setting: Setting, budget: str) -> tuple[Case, ...]:
    # Table 12: four groups are the paper's best number at a low budget.
    learned = {"groups": "search-emb-orthogonal", "n_banks": 4, "downsample": "emb", "k": 4}
    return (setting.npas(PAPER, budget, **learned), setting.npas(DEFAULTS, budget))


def _experiment(
    name: str, title: str, setting: Setting, minutes: float, *, tight: bool = False
) -> Experiment:
    """Return an experiment; ``tight``: whether the defaults have other banks than they had."""
    budget = name.split()[1]
    cases = _recipes(setting, budget)
    note = (
        "Seeds that no choice was made on. The paper's recipe searches for a tenth of the training "
        "steps, on top of them."
    )
    if tight:
        cases += (setting.npas(TIGHT, budget, room=1),)
        note += " Tight banks hold their largest layer once: these were the defaults."
    return Experiment(
        f"recipe/{name}",
        f"npas's defaults against the paper's recipe: {title} at {budget}",
        note,
        cases,
        PAPER,
        also=TIGHT if tight else None,
        seeds=8,
        first=FIRST,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("cifar10 20%", "CIFAR-10, WRN-28-1", WRN28, 20, tight=True),
    _experiment("cifar10 50%", "CIFAR-10, WRN-28-1", WRN28, 25, tight=True),
    _experiment("fashion-mnist 50%", "Fashion-MNIST, WRN-16-1", FASHION, 12, tight=True),
    _experiment("fashion-mnist 10%", "Fashion-MNIST, WRN-16-1", FASHION, 9),
    _experiment("efficientnet 50%", "CIFAR-10, an EfficientNet", EFFICIENTNET, 30, tight=True),
    _experiment("tweets 50%", "sentiment of tweets, an encoder", TWEETS, 12, tight=True),
    _experiment("embnet 6.9%", "retrieval with EmbNet on emoji", EMBNET, 4),
    _experiment("simnet 15.6%", "grounding with SimNet on emoji", SIMNET, 5),
    _experiment("cifar10 10%", "CIFAR-10, WRN-16-1", WRN16, 20),
    _experiment(
        "gloss 25%", "WordNet's definitions, an encoder of 6 layers", GLOSS, 45, tight=True
    ),
)
