"""Filters of a shared and of a plain network side by side (the paper's Figure 4(a)).

``python -m benchmarks.quality.filters [--write]`` trains WRN-16-2 on CIFAR-10, dense from two seeds
and compiled to one bank at 100%, and pairs the 3x3 kernels of an early, a middle and the last
convolution one to one so that they are most alike. How alike two dense networks of different seeds
are says what is chance. The compiled network starts at weights of its own: equal batches are all
that it has in common with the dense one.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import npas
from benchmarks.data import DataError
from benchmarks.quality.builds import Job, build
from benchmarks.quality.experiments.settings import WRN16_WIDE
from benchmarks.quality.networks import network
from benchmarks.quality.plots import save
from benchmarks.quality.spec import Build, Recipe, npas_build
from benchmarks.quality.tasks import task
from benchmarks.quality.train import fit
from benchmarks.runner import environment
from benchmarks.sources import HELP, Sources

COMMITTED = Path("benchmarks/results/filters.json")
PICTURE = Path("docs/quality/filters.svg")
LAYERS = {
    "early": "group1.0.conv1.weight",
    "middle": "group2.0.conv2.weight",
    "last": "group3.1.conv2.weight",
}
SHOWN = 12
#: name -> how it is built, and its seed.
NETWORKS = {
    "dense": (Build(), 0),
    "dense, another seed": (Build(), 1),
    "one bank at 100%": (npas_build("100%", groups="single"), 0),
}


def kernels(weight: Tensor) -> np.ndarray:
    """Return the kernels of a convolution [out, in, 3, 3] as rows of unit norm [out * in, 9]."""
    rows = weight.detach().flatten(0, 1).flatten(1).double()
    return (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()


def pair(one: np.ndarray, other: np.ndarray, most: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Pair kernels one to one so that the sum of their cosines is largest.

    Args:
        one: [n, 9] of unit norm.
        other: as many.
        most: kernels that are paired: of more, evenly spaced ones.

    Returns:
        The places in ``other`` of the partners, and the cosines, both [min(n, most)].
    """
    places = np.linspace(0, len(one) - 1, min(len(one), most)).astype(int)
    cosines = one[places] @ other[places].T
    rows, columns = linear_sum_assignment(-cosines)
    return places[columns], cosines[rows, columns]


def trained(sources: Sources, recipe: Recipe) -> dict[str, dict[str, Tensor]]:
    """Return the weights of `LAYERS` of every network after training.

    Raises:
        DataError: if the data are not there.
    """
    data = task(recipe.task, sources)
    found: dict[str, dict[str, Tensor]] = {}
    for name, (how, seed) in NETWORKS.items():
        module = build(Job(network(recipe.network), how, recipe, data, seed)).module
        _, diverged = fit(module, recipe, data, seed)
        assert not diverged, name
        dense = npas.materialize(module) if how.budget else module
        found[name] = {place: _weight(dense, layer) for place, layer in LAYERS.items()}
    return found


def _weight(module: nn.Module, name: str) -> Tensor:
    return module.state_dict()[name].detach()


def compare(weights: Mapping[str, Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Return how alike each layer's kernels are to the dense network's: the pairs' mean cosine."""
    rows = []
    for place, layer in LAYERS.items():
        own = kernels(weights["dense"][place])
        row: dict[str, Any] = {"place": place, "layer": layer, "kernels": len(own)}
        for name in list(NETWORKS)[1:]:
            _, cosines = pair(own, kernels(weights[name][place]))
            row[name] = round(float(cosines.mean()), 4)
        rows.append(row)
    return rows


def draw(weights: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Draw kernels of the dense network, and below each the partner of the compiled one."""
    from matplotlib.figure import Figure

    names = ("dense", "one bank at 100%")
    figure = Figure(figsize=(SHOWN * 0.5, len(LAYERS) * 1.2))
    axes = figure.subplots(2 * len(LAYERS), SHOWN)
    for index, place in enumerate(LAYERS):
        one, other = (kernels(weights[name][place]) for name in names)
        partners, _ = pair(one, other)
        places = np.linspace(0, len(partners) - 1, SHOWN).astype(int)
        spread = np.linspace(0, len(one) - 1, len(partners)).astype(int)
        for column, at in enumerate(places):
            shown = (one[spread[at]], other[partners[at]])
            for line, kernel in enumerate(shown):
                axis = axes[2 * index + line, column]
                axis.imshow(kernel.reshape(3, 3), cmap="RdBu", vmin=-0.8, vmax=0.8)
                axis.set_xticks([])
                axis.set_yticks([])
        for line, name in enumerate(("plain", "shared")):
            axes[2 * index + line, 0].set_ylabel(
                f"{place}\n{name}", rotation=0, ha="right", va="center", fontsize=8
            )
    figure.tight_layout(pad=0.4)
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.quality.filters", description=__doc__)
    made.add_argument("--data", type=Path, nargs="+", default=[], help=HELP)
    made.add_argument("--write", action="store_true", help="write results and picture")
    options = made.parse_args(arguments)
    torch.set_num_threads(1)
    recipe = replace(WRN16_WIDE.recipe, lr=0.5)
    try:
        weights = trained(Sources.of(options.data), recipe)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = compare(weights)
    print(json.dumps({"rows": rows}))
    if options.write:
        result = {"rows": rows, "made with": environment(torch.device("cpu"))}
        COMMITTED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(weights, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
