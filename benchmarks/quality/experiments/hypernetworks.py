"""HyperNetworks against npas at equal parameters (Table 11)."""

from benchmarks.quality.experiments.settings import WRN40
from benchmarks.quality.spec import Experiment, Printed

_BUDGET = "17.4%"  # 98k, what Ha et al. make WRN-40-1 of

EXPERIMENTS = (
    Experiment(
        "hypernetworks/wrn-40-1",
        "HyperNetworks and npas at equal parameters",
        "WRN-40-1 (564k parameters) at 98k, as Ha et al. have it; 10,000 images of CIFAR-10 at "
        "16x16, 8 epochs. The paper's Table 11.",
        (
            WRN40.peer("HyperNetworks", "hypernetwork", _BUDGET, "hypernetwork"),
            WRN40.npas("npas", _BUDGET, "ssn"),
            WRN40.reduced(_BUDGET),
            WRN40.dense(),
        ),
        "HyperNetworks",
        seeds=8,
        paper=(Printed("11", "wrn-40-1", "CIFAR-10"),),
        minutes=70,
    ),
)
