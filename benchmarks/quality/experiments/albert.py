"""ALBERT's sharing against npas with four banks, at ALBERT's parameters (Table 2)."""

from benchmarks.quality.experiments.settings import TWEETS_DEEP, Setting
from benchmarks.quality.spec import Case, Experiment

#: What ALBERT keeps as it is.
_WORDS = ("positions", "embedding", "project", "head")


def _ways(setting: Setting, budget: str) -> tuple[Case, ...]:
    learned = {"groups": "search-emb", "n_banks": 4, "downsample": "emb"}
    return (
        setting.peer("ALBERT", "albert", budget),
        setting.npas("npas, 4 learned banks, Emb", budget, **learned),
        setting.npas("npas, 4 banks", budget, n_banks=4),
        setting.npas("npas, 4 banks, words whole", budget, n_banks=4, ignored_modules=_WORDS),
        setting.npas("npas's defaults", budget),
        setting.npas("npas, repeated blocks", budget, groups="repeated"),
        setting.reduced(budget),
        setting.dense("every layer its own"),
    )


def _experiment(
    name: str, title: str, note: str, setting: Setting, budget: str, minutes: float
) -> Experiment:
    return Experiment(
        f"albert/{name}",
        f"ALBERT's sharing and npas at equal parameters: {title}",
        f"{note} The budget is what ALBERT comes to: one layer's weights for all, norms and biases "
        "included. The paper has SSN-ALBERT on SQuAD (Table 2), pretrained.",
        _ways(setting, budget),
        "ALBERT",
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment(
        "vader-tweets",
        "sentiment of tweets",
        "An encoder of 6 layers of 80 (601k parameters, 128k of them word embeddings), VADER's "
        "tweets, 5 epochs.",
        TWEETS_DEEP,
        "35.196%",
        60,
    ),
)
