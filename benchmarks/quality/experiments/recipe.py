"""npas's defaults against the paper's recipe, on every task, and against what they replaced."""

from benchmarks.quality.experiments.explore import TIGHT, tight
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
    representative,
)
from benchmarks.quality.spec import Case, Experiment

#: Fresh: no choice was made on runs of these seeds.
FIRST = 100
PAPER = "the paper's recipe"
DEFAULTS = "defaults"
#: Emb and learned groups (3.1.1, 3.2), of which four are the best number at a low budget (Table
#: 12); K = 8 is the best for a WRN (Table 13); templates side by side, without what does not fill
#: one (3.1.1).
RECIPE = {
    "groups": "search-emb",
    "n_banks": 4,
    "downsample": "emb",
    "k": 8,
    "variant": "disjoint",
}


def _cases(setting: Setting, budget: str, replaced: bool, two: bool) -> tuple[Case, ...]:
    cases = [setting.tuned(setting.npas(PAPER, budget, **RECIPE)), setting.npas(DEFAULTS, budget)]
    if two:
        cases.append(setting.npas("room for 2", budget, room=2))
    if replaced:
        # Where rates are tuned at 10%, both are one bank, and so have one rate.
        own = setting if representative(budget) == "10%" else tight(setting)
        cases.append(own.npas(TIGHT, budget, room=1))
    return tuple(cases)


def _experiment(
    name: str,
    title: str,
    setting: Setting,
    minutes: float,
    *,
    replaced: bool = False,
    two: bool = False,
) -> Experiment:
    """Return an experiment.

    Args:
        name: its part's name, which ends with the budget.
        title: what is trained.
        setting: where.
        minutes: expected on one thread.
        replaced: whether the defaults had other banks before, which are tried as well.
        two: whether banks with room for two templates are other banks still.
    """
    budget = name.split()[1]
    note = (
        "Seeds that no choice was made on. The paper's recipe: Emb, 4 groups that are learned in a "
        "tenth of the training steps, on top of them, at most 8 templates, side by side; its "
        "learning rate is chosen for itself, and its search begins anew at a third of that where "
        "it diverges."
    )
    if replaced:
        note += " Tight banks hold their largest layer once: these were the defaults."
    return Experiment(
        f"recipe/{name}",
        f"npas's defaults against the paper's recipe: {title} at {budget}",
        note,
        _cases(setting, budget, replaced, two),
        PAPER,
        also=TIGHT if replaced else None,
        seeds=8,
        first=FIRST,
        minutes=minutes,
    )


_EFFICIENTNET = ("CIFAR-10, an EfficientNet", EFFICIENTNET, 45)
EXPERIMENTS = (
    _experiment("cifar10 20%", "CIFAR-10, WRN-28-1", WRN28, 25, replaced=True),
    _experiment("cifar10 50%", "CIFAR-10, WRN-28-1", WRN28, 35, replaced=True, two=True),
    _experiment("fashion-mnist 50%", "Fashion-MNIST, WRN-16-1", FASHION, 14, replaced=True),
    _experiment("fashion-mnist 10%", "Fashion-MNIST, WRN-16-1", FASHION, 11),
    _experiment("efficientnet 50%", *_EFFICIENTNET, replaced=True, two=True),
    _experiment("tweets 50%", "sentiment of tweets, an encoder", TWEETS, 15, replaced=True),
    _experiment("embnet 6.9%", "retrieval with EmbNet on emoji", EMBNET, 5),
    _experiment("simnet 15.6%", "grounding with SimNet on emoji", SIMNET, 6),
    _experiment("cifar10 10%", "CIFAR-10, WRN-16-1", WRN16, 25),
    _experiment("gloss 25%", "WordNet's definitions, an encoder", GLOSS, 50, replaced=True),
)
