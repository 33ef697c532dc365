"""Which layers a search put together: how far seeds agree, and a picture by depth (Figure 4(b))."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from benchmarks.quality.networks import network
from benchmarks.quality.spec import Case, Experiment, Rows

#: Bank -> its layers.
Banks = Mapping[str, Sequence[str]]


def learned(case: Case, experiment: Experiment, rows: Rows) -> list[Banks]:
    """Return the mappings that the finished runs of a case found, a seed each."""
    runs = (case.run(seed, rows) for seed in experiment.all_seeds)
    return found_by([rows[run.key] for run in runs if run and run.key in rows])


def found_by(done: Iterable[Mapping[str, Any]]) -> list[Banks]:
    """Return the mappings that searches found, of rows that have one."""
    return [row["banks"] for row in done if row["search_s"] and row.get("banks")]


def agreement(mappings: Sequence[Banks]) -> float | None:
    """Return the mean adjusted Rand index of all pairs, None for fewer than two mappings.

    1 where all seeds put the same layers together, about 0 where they do so by chance.
    """
    from sklearn.metrics import adjusted_rand_score

    labels = [_labels(banks, sorted(_names(banks))) for banks in mappings]
    pairs = list(itertools.combinations(labels, 2))
    return fmean(float(adjusted_rand_score(a, b)) for a, b in pairs) if pairs else None


def of_experiment(experiment: Experiment, rows: Rows) -> dict[str, list[Banks]]:
    """Return arm -> its learned mappings, of the arms that have some."""
    found = {case.arm: learned(case, experiment, rows) for case in experiment.cases}
    return {arm: mappings for arm, mappings in found.items() if mappings}


def layers_of(experiment: Experiment, mappings: Sequence[Banks]) -> list[str]:
    """Return the layers of mappings in the order of the experiment's network."""
    with torch.device("meta"):
        model = network(experiment.cases[0].recipe.network).make()
    known = set(_names(mappings[0]))
    return [name for name, _ in model.named_parameters() if name in known]


def alone(mappings: Sequence[Banks], layers: Sequence[str]) -> tuple[float, float]:
    """Return the share of layers that have a bank of their own, in both halves of the depth.

    Args:
        mappings: a seed each.
        layers: in the order of the network.
    """
    single = [
        {n for names in banks.values() if len(names) == 1 for n in names} for banks in mappings
    ]
    middle = len(layers) // 2
    first, second = (
        fmean(name in own for own in single for name in part)
        for part in (layers[:middle], layers[middle:])
    )
    return first, second


def figure(titles: Mapping[str, Sequence[Banks]], layers: Sequence[str]) -> Any:
    """Return a figure of mappings: a row a seed, a column a layer; white is a bank of its own.

    Args:
        titles: name of an arm -> its mappings.
        layers: in the order of the network.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    made = Figure(figsize=(1.5 + 0.22 * len(layers), 0.8 + 0.24 * sum(map(len, titles.values()))))
    made.set_layout_engine("constrained")
    heights = [len(found) for found in titles.values()]
    axes = made.subplots(len(titles), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axis, (title, mappings) in zip(axes, titles.items(), strict=True):
        image = []
        for banks in mappings:
            labels = _labels(banks, layers)
            shared = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
            image.append(
                [
                    colours[shared.index(label) % 20] if label in shared else (1.0, 1.0, 1.0)
                    for label in labels
                ]
            )
        axis.imshow(image, aspect="auto")
        axis.set_yticks(
            range(len(mappings)), [f"seed {i}" for i in range(len(mappings))], fontsize=6
        )
        axis.set_title(title, fontsize=8, loc="left")
        axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    return made


def _labels(banks: Banks, layers: Sequence[str]) -> list[str]:
    bank_of = {name: bank for bank, names in banks.items() for name in names}
    return [bank_of[name] for name in layers]


def _names(banks: Banks) -> list[str]:
    return [name for names in banks.values() for name in names]
