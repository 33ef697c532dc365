"""Larger networks at a fixed number of parameters (Table 14)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import (
    WRN16_SHORT,
    WRN16_WIDE,
    WRN28,
    WRN28_WIDE,
    WRN40,
)
from benchmarks.quality.spec import Experiment

EXPERIMENTS = (
    Experiment(
        "larger/cifar10",
        "Larger networks of the same number of parameters: CIFAR-10",
        "All have the 175,066 parameters of WRN-16-1, or a little less; 10,000 images at 16x16, 8 "
        "epochs. Larger ones take longer to train and to run. The paper's Table 14.",
        (
            replace(WRN16_SHORT.dense("WRN-16-1, dense"), paper=""),
            WRN28.npas("WRN-28-1", "47.37%"),
            WRN40.npas("WRN-40-1", "31.04%"),
            WRN16_WIDE.npas("WRN-16-2", "25%"),
            WRN28_WIDE.npas("WRN-28-2", "11.92%"),
        ),
        "WRN-16-1, dense",
        seeds=6,
        minutes=50,
    ),
)
