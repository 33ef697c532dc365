"""Distillation into a network, and into one of more parameters in training (Table 3)."""

from dataclasses import replace

from benchmarks.quality.experiments.settings import WRN16_SHORT
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


def _pair(method: str | None) -> tuple[Case, Case]:
    """Return the network and the compiled one, which is compared with it."""
    dense, compiled = WRN16_SHORT.dense(), WRN16_SHORT.npas("npas, 4x", "4x", "hb-ssn")
    if method is not None:
        dense, compiled = _distilled(dense, method), _distilled(compiled, method)
    return dense, replace(compiled, against=dense.arm)


EXPERIMENTS = (
    Experiment(
        "distillation/cifar10",
        "Distillation: CIFAR-10",
        "WRN-16-1 is taught by WRN-28-2; in the paper it is WRN-16-2 by WRN-40-4, on CIFAR-100. "
        "10,000 images at 16x16; 8 epochs, and 32 for the teacher. All students have the one "
        "teacher, the best of three learning rates on validation data; rows hold its score. "
        "Connectors train along; they are not part of what is tested, and not counted. OFD's loss "
        "weighs per pixel what it does in its authors' code for CIFAR-100, SRR's what it does in "
        "its authors' code, which is for ImageNet. The paper's Table 3.",
        (*_pair(None), *_pair("ofd"), *_pair("srr")),
        "dense",
        also="dense",
        paper=(Printed("3", "wrn-16-2", "CIFAR-100"),),
        seeds=6,
        minutes=90,
    ),
)
