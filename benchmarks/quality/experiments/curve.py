"""Accuracy against parameters: compiled networks, narrower ones, and soft sharing (SWRN)."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.quality.experiments.settings import (
    ANCHOR,
    DENSENET,
    EFFICIENTNET,
    FASHION,
    WRN28,
    Setting,
)
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


BUDGETS = ("3%", "7%", "15%", "35%", "60%")

EXPERIMENTS = (
    Experiment(
        "curve/cifar10",
        "Accuracy at a budget: CIFAR-10",
        "WRN-28-1 (369k parameters), 10,000 images at 16x16, 8 epochs. SWRN cannot go below 33%. "
        "The paper's Figure 3 and Table 15.",
        _curve(WRN28, BUDGETS, ("35%", "60%")),
        "dense",
        also="dense",
        seeds=6,
        minutes=90,
    ),
    Experiment(
        "curve/fashion-mnist",
        "Accuracy at a budget: Fashion-MNIST",
        "WRN-16-1 (175k parameters) on grey images, 10,000 of them at 14x14, 8 epochs.",
        _curve(FASHION, BUDGETS),
        "dense",
        also="dense",
        seeds=6,
        minutes=40,
    ),
    Experiment(
        "curve/cifar10-all",
        "Accuracy at a budget: all of CIFAR-10",
        "WRN-16-1 (175k parameters), 45,000 images at 16x16 (5,000 are for validation), 12 epochs; "
        "learning rates are those of 10,000 images and 16 epochs.",
        _curve(ANCHOR, ("4%", "10%", "25%", "60%")),
        "dense",
        also="dense",
        seeds=5,
        minutes=170,
    ),
    Experiment(
        "curve/densenet",
        "Accuracy at a budget: DenseNet-BC on CIFAR-10",
        "DenseNet-BC-28-12 (103k parameters), 10,000 images at 16x16, 8 epochs. Budgets are those "
        "of growth rates 3, 4, 7 and 9. The paper's Figure 3 and Table 15.",
        _curve(DENSENET, ("7.1%", "12.1%", "35%", "57%")),
        "dense",
        also="dense",
        seeds=6,
        minutes=80,
    ),
    Experiment(
        "curve/efficientnet",
        "Accuracy at a budget: an EfficientNet on CIFAR-10",
        "The EfficientNet of Ye et al. (2020) at half the width (759k parameters), with batch norm "
        "in place of deconvolutions; 10,000 images at 16x16, 8 epochs. The paper's Figure 3 and "
        "Table 15.",
        _curve(EFFICIENTNET, ("10%", "18%", "35%", "60%")),
        "dense",
        also="dense",
        seeds=6,
        minutes=80,
    ),
)
