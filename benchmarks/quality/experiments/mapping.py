"""Which layers share, at all of the parameters and at a tenth (Tables 7 and 9)."""

from benchmarks.quality.experiments.settings import WRN16_SHORT, Setting
from benchmarks.quality.spec import Case, Experiment, Printed

_FREE = "auto, as many banks as it takes"


def _ways(setting: Setting, budget: str, n_banks: int) -> tuple[Case, ...]:
    def npas(arm: str, groups: str, paper: str = "", n_banks: int | None = n_banks) -> Case:
        banks = {} if n_banks is None else {"n_banks": n_banks}
        return setting.npas(arm, budget, paper, groups=groups, downsample="emb", **banks)

    return (
        setting.dense(),
        npas("single", "single", "ssn-single", n_banks=None),
        npas("random", "random", "ssn-random"),
        npas("manual", "manual", "ssn-manual", n_banks=None),
        npas("auto", "auto"),
        # At 100% that is a bank for each layer: the dense network, bit for bit.
        *([] if budget == "100%" else [npas(_FREE, "auto", n_banks=None)]),
        npas("ends apart", "ends apart", n_banks=None),
        npas("ends and shortcuts apart", "ends and shortcuts apart", n_banks=None),
        npas("learned, WAvg", "search-wavg", "ssn-wavg"),
        npas("learned, Emb", "search-emb", "ssn-emb"),
        npas("learned, Emb, started orthogonal", "search-emb-orthogonal"),
    )


def _experiment(budget: str, n_banks: int, baseline: str, also: str, minutes: float) -> Experiment:
    at_all = budget == "100%"
    return Experiment(
        f"mapping/cifar10 {budget}",
        f"Which layers share: CIFAR-10 at {budget}",
        f"WRN-16-1, 10,000 images at 16x16, 8 epochs; Emb. {n_banks} banks, where a number is "
        "given; by hand 13. A search takes a tenth of the training steps, on top of them.",
        _ways(WRN16_SHORT, budget, n_banks),
        baseline,
        also=also,
        seeds=6,
        paper=tuple(Printed("9", "wrn-28-10", t) for t in ("CIFAR-10", "CIFAR-100") if at_all),
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("10%", 4, "single", _FREE, 28),
    _experiment("100%", 8, "dense", "single", 25),
)
