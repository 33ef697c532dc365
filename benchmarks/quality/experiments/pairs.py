"""Image-text retrieval and grounding at a budget, on emoji (Table 1)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import ADAPT, EMBNET, EMOJI_FIRST, SIMNET, Setting
from benchmarks.quality.spec import Case, Experiment, Printed


def _at(setting: Setting, low: tuple[str, ...]) -> tuple[Case, ...]:
    return (
        setting.dense(),
        *(setting.reduced(budget, f"reduced width, {budget}") for budget in low),
        *(
            replace(
                setting.npas(f"npas, {budget}", budget, "ssn"), against=f"reduced width, {budget}"
            )
            for budget in low
        ),
        # By itself npas shares nothing at 100%: that is the dense network, bit for bit.
        setting.npas("npas, 100%, one bank", "100%", "ssn", groups="single"),
    )


def _experiment(
    name: str, title: str, setting: Setting, low: tuple[str, ...], tasks: tuple[str, ...]
) -> Experiment:
    return Experiment(
        f"pairs/{name}",
        f"{title} on emoji",
        "Emoji in two designs and their names, tested on emoji that were not trained on. The paper "
        "has photographs and sentences (Table 1); the budgets are its own.",
        _at(setting, low),
        "dense",
        also="dense",
        seeds=10,
        first=EMOJI_FIRST,
        paper=tuple(Printed("1", name, task) for task in tasks),
        minutes=20,
    )


EXPERIMENTS = (
    _experiment(
        "embnet",
        "Retrieval with EmbNet",
        EMBNET,
        ("6.9%", "13.9%"),
        ("Flickr30K", "COCO"),
    ),
    _experiment(
        "adapt-t2i",
        "Retrieval with ADAPT-T2I",
        ADAPT,
        ("34.7%", "70.9%"),
        ("Flickr30K", "COCO"),
    ),
    _experiment(
        "simnet",
        "Grounding with SimNet",
        SIMNET,
        ("7.8%", "15.6%"),
        ("Flickr30K Entities", "ReferIt"),
    ),
)
