"""HRank takes filters out of a network, and of one of more parameters in training (Table 4)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import Setting
from benchmarks.quality.spec import Case, Experiment, Printed, Recipe, options

BEFORE = Recipe("cifar10", "resnet-20", 8)
#: Epochs after pruning; arms that are not pruned have them too.
AFTER = 4
#: Of the epochs after pruning, for all and tuned for none: 0.1 or 0.2 was the best of 0.02, 0.1 and
#: 0.2 in short runs, which no row is left of.
LR = 0.1
#: Lower than those of wide networks: at 4x this one learns nothing at 0.2 and above.
RATES = (0.05, 0.1, 0.2, 0.5)
WHOLE = Setting(replace(BEFORE, epochs=BEFORE.epochs + AFTER), RATES, tuned_on=BEFORE)
_TABLE = ("4", "resnet-56", "CIFAR-10")


def _pruned(case: Case, left: str) -> Case:
    """Return a case that is pruned after training, at the learning rate of the case."""
    how = options(prune="hrank", left=left, finetune=AFTER, finetune_lr=LR)
    recipe = replace(BEFORE, how=how)
    paper = "hrank" if case.paper == "dense" else f"{case.paper}+hrank"
    return replace(case, arm=f"{case.arm} + HRank", recipe=recipe, paper=paper)


def _cases(left: str) -> tuple[Case, ...]:
    dense, compiled = WHOLE.dense(), WHOLE.npas("npas, 4x", "4x", "hb-ssn")
    pruned = _pruned(dense, left)
    return (
        dense,
        compiled,
        pruned,
        replace(_pruned(compiled, left), against=pruned.arm),
        replace(WHOLE.npas("npas, 12.2%", "12.2%", "ssn"), against=pruned.arm),
    )


def _experiment(left: str, minutes: float) -> Experiment:
    return Experiment(
        f"pruning/cifar10 {left}",
        f"Pruning to {left} of the parameters: CIFAR-10",
        f"ResNet-20 (the paper: ResNet-56), 10,000 images at 16x16. After {BEFORE.epochs} epochs "
        "HRank leaves this share of the network's parameters, the same share of every layer, and "
        f"{AFTER} epochs follow at a learning rate of {LR:g}, which is tuned for no arm; weights "
        "at 4x are materialised before. Arms without HRank train as long in one. npas at 12.2% "
        "trains so many parameters and tests the whole network. The paper's Table 4.",
        _cases(left),
        "dense",
        also="dense",
        seeds=5,
        paper=tuple(Printed(*_TABLE, budget, "error@1") for budget in ("100.0%", left, "12.2%")),
        minutes=minutes,
    )


#: The arms without HRank are the same in both.
EXPERIMENTS = (_experiment("83.2%", 45), _experiment("28.4%", 45))
