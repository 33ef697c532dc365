"""Layers larger than their bank: repeated, stretched or masked (Tables 6 and 10)."""

from benchmarks.quality.experiments.settings import WRN16_WIDE, Setting
from benchmarks.quality.spec import Case, Experiment, Printed


def _ways(setting: Setting, budget: str) -> tuple[Case, ...]:
    one = {"groups": "single"}
    two = {"groups": "auto", "n_banks": 2}
    return (
        setting.reduced(budget),
        setting.npas("repeat", budget, "ssn-repeat", upsample="repeat", **one),
        setting.npas("inter", budget, "ssn-inter", upsample="inter", **one),
        setting.npas("mask", budget, "ssn-mask", upsample="mask", **one),
        setting.npas("two banks and mask", budget, upsample="mask", **two),
        setting.dense(),
    )


def _experiment(budget: str, seeds: int, minutes: float) -> Experiment:
    return Experiment(
        f"upsampling/cifar10 {budget}",
        f"Layers larger than their bank: CIFAR-10 at {budget}",
        "WRN-16-2 (692k parameters), 10,000 images at 16x16, 8 epochs; one bank, but in the last "
        "row of npas. The paper's Tables 6 and 10.",
        _ways(WRN16_WIDE, budget),
        "reduced width",
        also="mask",
        seeds=seeds,
        paper=tuple(Printed("10", "wrn-28-10", task) for task in ("CIFAR-10", "CIFAR-100")),
        minutes=minutes,
    )


EXPERIMENTS = (_experiment("1.4%", 8, 80), _experiment("7%", 8, 80))
