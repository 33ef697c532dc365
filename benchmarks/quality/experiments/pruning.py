"""HRank takes filters out of a network, and of one of more parameters in training (Table 4)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import Setting
from benchmarks.quality.spec import Case, Experiment, Printed, Recipe, options

RESNET20 = Setting(Recipe("cifar10", "resnet-20", 16))
#: Epochs after pruning.
FINETUNE = 8
_TABLE = ("4", "resnet-56", "CIFAR-10")


def _pruned(case: Case, left: str) -> Case:
    """Return a case that is pruned after training, at the learning rate of the case."""
    how = options(prune="hrank", left=left, finetune=FINETUNE)
    recipe = replace(case.recipe, how=how)
    paper = "hrank" if case.paper == "dense" else f"{case.paper}+hrank"
    return replace(case, arm=f"{case.arm} + HRank", recipe=recipe, paper=paper)


def _experiment(left: str, minutes: float) -> Experiment:
    plain = (RESNET20.dense(), RESNET20.npas("npas, 4x", "4x", "hb-ssn"))
    pruned = tuple(_pruned(case, left) for case in plain)
    return Experiment(
        f"pruning/cifar10 {left}",
        f"Pruning to {left} of the parameters: CIFAR-10",
        "ResNet-20 (the paper: ResNet-56), 10,000 images at 16x16, 16 epochs. The weights at 4x "
        "are materialised; then HRank leaves this share of the network's parameters, the same of "
        f"every layer, and {FINETUNE} epochs follow at a tenth of the learning rate, which arms "
        "without HRank do not have. Rows hold the parameters and multiply-accumulates that are "
        "left. npas at 12.2% trains so many parameters and tests the whole network. The paper's "
        "Table 4.",
        (*plain, *pruned, RESNET20.npas("npas, 12.2%", "12.2%", "ssn")),
        "dense",
        also=pruned[0].arm,
        paper=tuple(Printed(*_TABLE, budget, "error@1") for budget in ("100.0%", left, "12.2%")),
        minutes=minutes,
    )


EXPERIMENTS = (_experiment("83.2%", 60), _experiment("28.4%", 60))
