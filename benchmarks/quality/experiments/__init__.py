"""The experiments, most important first. A new one is an entry in a file of its family."""

from collections.abc import Sequence

from benchmarks.quality.cells import family
from benchmarks.quality.experiments import (
    albert,
    banks,
    combining,
    curve,
    distillation,
    explore,
    high,
    hypernetworks,
    larger,
    mapping,
    pairs,
    pretrained,
    pruning,
    recipe,
    upsampling,
)
from benchmarks.quality.spec import Experiment
from npas.naming import nearest

EXPERIMENTS: tuple[Experiment, ...] = (
    *explore.EXPERIMENTS,
    *curve.EXPERIMENTS,
    *upsampling.EXPERIMENTS,
    *high.EXPERIMENTS,
    *hypernetworks.EXPERIMENTS,
    *recipe.EXPERIMENTS,
    *pairs.EXPERIMENTS,
    *albert.EXPERIMENTS,
    *combining.EXPERIMENTS,
    *mapping.EXPERIMENTS,
    *banks.EXPERIMENTS,
    *larger.EXPERIMENTS,
    *distillation.EXPERIMENTS,
    *pruning.EXPERIMENTS,
    *pretrained.EXPERIMENTS,
)


def select(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names or families (what stands before the slash).

    They come in the order of the list, whatever the order of the names; without names, all.

    Raises:
        ValueError: if a name is none.
    """
    known = {e.name for e in EXPERIMENTS} | {family(e.name) for e in EXPERIMENTS}
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no experiment {name!r}{nearest(name, known)}; "
                "`python -m benchmarks.quality list` names them"
            )
    return [e for e in EXPERIMENTS if not names or e.name in names or family(e.name) in names]
