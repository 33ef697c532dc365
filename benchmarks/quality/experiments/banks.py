"""How many banks, at a low and at a full budget (Table 12), and how many templates (Table 13)."""

from benchmarks.quality.experiments.settings import WRN16_SHORT
from benchmarks.quality.spec import Experiment, Printed

_BANKS = (1, 2, 4, 8)
_TEMPLATES = (1, 2, 4, 8, 16)


def _banks(budget: str, paper: str, minutes: float) -> Experiment:
    return Experiment(
        f"banks/cifar10 {budget}",
        f"How many banks: CIFAR-10 at {budget}",
        "WRN-16-1, 10,000 images at 16x16, 8 epochs; groups learned with Emb, as in the paper's "
        "Table 12, one bank without a search.",
        tuple(
            WRN16_SHORT.npas(f"{n}", budget, "ssn-emb", groups="single", downsample="emb")
            if n == 1
            else WRN16_SHORT.npas(
                f"{n}", budget, "ssn-emb", groups="search-emb", n_banks=n, downsample="emb"
            )
            for n in _BANKS
        ),
        "1",
        seeds=6,
        paper=(Printed("12", "wrn-28-10", "CIFAR-100", paper),),
        minutes=minutes,
    )


def _templates(budget: str, minutes: float) -> Experiment:
    return Experiment(
        f"templates/cifar10 {budget}",
        f"How many templates: CIFAR-10 at {budget}",
        "WRN-16-1, 10,000 images at 16x16, 8 epochs; one bank, at most K templates a layer. The "
        "paper's Table 13.",
        tuple(
            WRN16_SHORT.npas(f"K = {k}", budget, "ssn", groups="single", k=k)
            if k > 1
            else WRN16_SHORT.npas("K = 1", budget, "", groups="single", downsample="rr")
            for k in _TEMPLATES
        ),
        "K = 4",
        seeds=6,
        paper=(Printed("13", "wrn-28-10", "CIFAR-100"),),
        minutes=minutes,
    )


EXPERIMENTS = (
    _banks("10%", "4M", 15),
    _banks("100%", "36M", 15),
    _templates("25%", 15),
    _templates("50%", 15),
)
