"""Layers larger than their bank: repeated, stretched or masked (Tables 6 and 10)."""

from benchmarks.quality.experiments.settings import EMBNET, EMOJI_FIRST, WRN28, Setting
from benchmarks.quality.spec import Case, Experiment, Printed


def _ways(setting: Setting, budget: str) -> tuple[Case, ...]:
    one = {"groups": "single"}
    two = {"groups": "search-emb-orthogonal", "n_banks": 2}
    return (
        setting.reduced(budget),
        setting.npas("repeat", budget, "ssn-repeat", upsample="repeat", **one),
        setting.npas("inter", budget, "ssn-inter", upsample="inter", **one),
        setting.npas("mask", budget, "ssn-mask", upsample="mask", **one),
        setting.npas("two learned banks, mask", budget, "ssn-mask", upsample="mask", **two),
        setting.dense(),
    )


def _experiment(
    name: str,
    title: str,
    note: str,
    setting: Setting,
    paper: tuple[Printed, ...],
    minutes: float,
    first: int = 0,
) -> Experiment:
    budget = name.split()[1]
    return Experiment(
        f"upsampling/{name}",
        f"Layers larger than their bank: {title} at {budget}",
        f"{note}; one bank, but in the last row of npas, whose groups are learned with Emb from an "
        "orthogonal start. The paper's Tables 6 and 10.",
        _ways(setting, budget),
        "reduced width",
        also="mask",
        first=first,
        paper=paper,
        minutes=minutes,
    )


_CIFAR = ("CIFAR-10", "WRN-28-1 (369k parameters), 10,000 images at 16x16, 8 epochs", WRN28)
_WRN = tuple(Printed("10", "wrn-28-10", task) for task in ("CIFAR-10", "CIFAR-100"))
_EMBNET = ("retrieval with EmbNet on emoji", "EmbNet (924k parameters), 10 epochs", EMBNET)
_PAIRS = tuple(Printed("10", "embnet", task) for task in ("Flickr30K", "COCO"))

EXPERIMENTS = (
    _experiment("cifar10 1.4%", *_CIFAR, _WRN, 45),
    _experiment("cifar10 7%", *_CIFAR, (), 45),
    _experiment("embnet 6.9%", *_EMBNET, _PAIRS, 15, EMOJI_FIRST),
)
