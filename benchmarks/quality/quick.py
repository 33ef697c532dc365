"""Every experiment in seconds: tiny networks and data that every installation has."""

from dataclasses import replace

from benchmarks.quality.spec import Build, Case, Experiment, Recipe, Tuning, options
from benchmarks.quality.tasks import pretrained, text

IMAGES = Recipe("digits", "wrn-22-tiny-grey", 1, 32)
TEXT = Recipe("digit-tokens", "encoder-tiny-digits", 1, 32, "adamw")
#: Tasks whose tiny network is `TEXT`; an SVD needs its matrices.
_AS_TEXT = text.TASKS.keys() | pretrained.TASKS.keys()
#: Options of recipes that make a run long.
TINY = {"teacher": IMAGES.network, "finetune": 1}


def quick(experiment: Experiment) -> Experiment:
    """Return the experiment with runs of a second: two seeds, a grid of two rates, tiny images.

    Its numbers say nothing but that the machinery works.
    """
    cases = tuple(_quick(case) for case in experiment.cases)
    return replace(experiment, cases=cases, seeds=2, minutes=0.0)


def _quick(case: Case) -> Case:
    small = TEXT if case.recipe.task in _AS_TEXT else IMAGES
    how = {name: TINY.get(name, value) for name, value in case.recipe.how}
    recipe = replace(small, how=options(**how))
    tuning = case.tuning and Tuning(Build(), small, (0.01, 0.1), seeds=(1000,))
    return replace(case, build=_enough(case.build), recipe=recipe, tuning=tuning)


def _enough(build: Build) -> Build:
    """Return a build at a budget that a tiny network can meet."""
    if build.budget is None or not build.budget.endswith("%"):
        return build
    return replace(build, budget=f"{max(90.0, float(build.budget[:-1])):g}%")
