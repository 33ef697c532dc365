"""How templates are combined, with one bank as large as the largest layer (Tables 5 and 8)."""

from benchmarks.quality.experiments.settings import (
    EMBNET,
    EMOJI_FIRST,
    FASHION,
    TWEETS,
    WRN28,
    Setting,
)
from benchmarks.quality.spec import Case, Experiment, Printed

_WRN = tuple(Printed("8", "wrn-28-10", task) for task in ("CIFAR-10", "CIFAR-100"))
_EMBNET = tuple(Printed("8", "embnet", task) for task in ("Flickr30K", "COCO"))


def _ways(setting: Setting) -> tuple[Case, ...]:
    combined = [
        setting.npas(name, "largest", f"ssn-{way}", groups="single", downsample=way)
        for name, way in (("RR", "rr"), ("Avg", "avg"), ("WAvg", "wavg"), ("Emb", "emb"))
    ]
    return (setting.reduced("largest"), *combined, setting.dense())


def _experiment(
    name: str,
    title: str,
    note: str,
    setting: Setting,
    minutes: float,
    paper: tuple[Printed, ...] = (),
    first: int = 0,
) -> Experiment:
    return Experiment(
        f"combining/{name}",
        f"How templates are combined: {title}",
        f"{note} One bank, as large as the largest layer. The paper's Tables 5 and 8.",
        _ways(setting),
        "reduced width",
        also="WAvg",
        first=first,
        paper=paper,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment(
        "cifar10", "CIFAR-10", "WRN-28-1, 10,000 images at 16x16, 8 epochs.", WRN28, 40, _WRN
    ),
    _experiment(
        "fashion-mnist",
        "Fashion-MNIST",
        "WRN-16-1 on grey images, 10,000 of them at 14x14, 8 epochs.",
        FASHION,
        20,
    ),
    _experiment(
        "embnet",
        "retrieval with EmbNet on emoji",
        "EmbNet (924k parameters), 10 epochs.",
        EMBNET,
        12,
        _EMBNET,
        EMOJI_FIRST,
    ),
    _experiment(
        "tweets",
        "sentiment of tweets",
        "An encoder of 4 layers of 96, VADER's tweets, 5 epochs.",
        TWEETS,
        30,
    ),
)
