"""ALBERT's sharing against npas with four banks, at ALBERT's parameters (Table 2)."""

from benchmarks.quality.experiments.settings import GLOSS_DEEP, MOVIES, Setting
from benchmarks.quality.spec import Case, Experiment

#: What ALBERT keeps as it is.
_WORDS = ("positions", "embedding", "project", "head")


def _ways(setting: Setting, budget: str) -> tuple[Case, ...]:
    learned = {"groups": "search-emb-orthogonal", "n_banks": 4, "downsample": "emb"}
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


def _experiment(name: str, title: str, note: str, setting: Setting, budget: str) -> Experiment:
    return Experiment(
        f"albert/{name}",
        f"ALBERT's sharing and npas at equal parameters: {title}",
        f"{note} The budget is what ALBERT comes to: one layer's weights for all, norms and biases "
        "included. The paper has SSN-ALBERT on SQuAD (Table 2), pretrained.",
        _ways(setting, budget),
        "ALBERT",
        minutes=120,
    )


EXPERIMENTS = (
    _experiment(
        "gloss",
        "WordNet's definitions",
        "An encoder of 12 layers of 64 (862k parameters, 256k of them word embeddings), 20,000 "
        "definitions, 45 classes, 5 epochs.",
        GLOSS_DEEP,
        "36.216%",
    ),
    _experiment(
        "vader-movie",
        "sentiment of film reviews",
        "An encoder of 6 layers of 80 (601k parameters, 128k of them word embeddings), 7,400 "
        "sentences, 5 epochs.",
        MOVIES,
        "35.196%",
    ),
)
