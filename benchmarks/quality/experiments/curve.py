"""Accuracy against parameters: compiled networks, narrower ones, and soft sharing (SWRN)."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.quality.experiments.settings import FASHION, WRN28, Setting
from benchmarks.quality.spec import Case, Experiment


def _curve(setting: Setting, budgets: Sequence[str], swrn: Sequence[str] = ()) -> tuple[Case, ...]:
    return (
        setting.dense(),
        *(
            replace(setting.npas(f"npas, {budget}", budget), against=f"reduced width, {budget}")
            for budget in budgets
        ),
        *(setting.reduced(budget, f"reduced width, {budget}") for budget in budgets),
        *(
            replace(
                setting.peer(f"SWRN, {budget}", "soft_sharing", budget), against=f"npas, {budget}"
            )
            for budget in swrn
        ),
    )


EXPERIMENTS = (
    Experiment(
        "curve/cifar10",
        "Accuracy at a budget: CIFAR-10",
        "WRN-28-1 (369k parameters), 10,000 images at 16x16, 8 epochs. SWRN cannot go below 33%. "
        "The paper's Figure 3 and Table 15.",
        _curve(WRN28, ("3%", "7%", "15%", "35%", "60%"), ("35%", "60%")),
        "dense",
        also="dense",
        seeds=6,
        minutes=90,
    ),
    Experiment(
        "curve/fashion-mnist",
        "Accuracy at a budget: Fashion-MNIST",
        "WRN-16-1 (175k parameters) on grey images, 10,000 of them at 14x14, 8 epochs.",
        _curve(FASHION, ("3%", "7%", "15%", "35%", "60%")),
        "dense",
        also="dense",
        seeds=6,
        minutes=40,
    ),
)
