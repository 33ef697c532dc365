"""Distillation into a network, and into one of more parameters in training (Table 3)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import WRN16
from benchmarks.quality.spec import Case, Experiment, Printed, options

TEACHER = "wrn-28-2"
_NAMES = {"ofd": "OFD", "srr": "SRR"}


def _distilled(case: Case, method: str) -> Case:
    """Return a case with a teacher, at the learning rate that is best for its build with one."""
    how = options(distil=method, teacher=TEACHER)
    assert case.tuning is not None
    return replace(
        case,
        arm=f"{case.arm} + {_NAMES[method]}",
        recipe=replace(case.recipe, how=how),
        tuning=replace(case.tuning, recipe=replace(case.tuning.recipe, how=how)),
        paper=method if case.paper == "dense" else f"{case.paper}+{method}",
    )


def _experiment(method: str, differs: str, minutes: float) -> Experiment:
    plain = (WRN16.dense(), WRN16.npas("npas, 4x", "4x", "hb-ssn"))
    distilled = tuple(_distilled(case, method) for case in plain)
    name = _NAMES[method]
    return Experiment(
        f"distillation/cifar10 {method}",
        f"Distillation, {name}: CIFAR-10",
        "WRN-16-1 is taught by WRN-28-2, in the paper WRN-16-2 by WRN-40-4 on CIFAR-100; 10,000 "
        "images at 16x16, 16 epochs for students and teacher. All students have the one teacher, "
        "the best of three learning rates on validation data. Connectors train along; they are no "
        f"part of what is tested, and not counted. {differs} The paper's Table 3.",
        (*plain, *distilled),
        "dense",
        also=distilled[0].arm,
        paper=(Printed("3", "wrn-16-2", "CIFAR-100"),),
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("ofd", "The loss weighs per pixel what it does in OFD's code for CIFAR-100.", 60),
    _experiment("srr", "The losses weigh what they do in SRR's code, which is for ImageNet.", 60),
)
