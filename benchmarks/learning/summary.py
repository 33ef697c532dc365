"""From rows to what is committed: accuracies of every case by seed, and what made them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import npas
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.spec import Case, Experiment, Run
from benchmarks.quality.mappings import agreement

COMMITTED = Path("benchmarks/results/learning.json")
_ENVIRONMENT = ("data", "python", "torch", "machine", "threads")
Rows = Mapping[str, Mapping[str, Any]]


def summarise(experiments: Sequence[Experiment], rows: Rows, command: str) -> dict[str, Any]:
    """Return the summary of all experiments that have rows, as JSON values."""
    found = {e.name: _experiment(e, rows) for e in experiments}
    used = [rows[run.key] for e in experiments for run in e.runs if run.key in rows]
    return {
        "command": command,
        "made with": {
            key: sorted({str(row[key]) for row in used}) for key in (*_ENVIRONMENT, "revision")
        },
        "experiments": {name: e for name, e in found.items() if any(e["arms"].values())},
    }


def _experiment(experiment: Experiment, rows: Rows) -> dict[str, Any]:
    arms = {
        arm: [made for case in cases if (made := _case(case, experiment.seeds, rows))]
        for arm, cases in experiment.arms.items()
    }
    return {
        "title": experiment.title,
        "note": experiment.note,
        "baseline": experiment.baseline,
        "also": experiment.also,
        "seeds": experiment.seeds,
        "arms": arms,
    }


def _case(case: Case, seeds: int, rows: Rows) -> dict[str, Any] | None:
    keys = {seed: Run(case.build, case.recipe, seed).key for seed in range(seeds)}
    done = {seed: rows[key] for seed, key in keys.items() if key in rows}
    if not done:
        return None
    first = next(iter(done.values()))
    agreed = agreement([row["banks"] for row in done.values() if row["banks"]])
    return {
        "build": asdict(case.build),
        "recipe": asdict(case.recipe),
        "steps": first["steps"],
        "search_steps": first["search_steps"],
        "n_params": round(statistics.mean(row["n_params"] for row in done.values())),
        "n_banks": first["n_banks"],
        "upsampled": upsampled(case, [row["banks"] for row in done.values()]),
        "accuracy": {str(seed): row["accuracy"] for seed, row in done.items()},
        "last_loss": {str(seed): row["losses"][-1] for seed, row in done.items()},
        "train_cpu_s": round(sum(row["train_cpu_s"] for row in done.values()), 1),
        "search_cpu_s": round(sum(row["search_cpu_s"] for row in done.values()), 1),
        "agreement": None if agreed is None else round(agreed, 3),
    }


def upsampled(case: Case, mappings: Sequence[Mapping[str, Sequence[str]] | None]) -> float | None:
    """Return how many layers are larger than their bank, in the mean over mappings."""
    counts: list[int] = []
    with torch.device("meta"):
        model = NETWORKS[case.recipe.network]()
    how = case.build
    for banks in mappings:
        if how.budget is None or banks is None:
            return None
        mapping = npas.Mapping({bank: tuple(layers) for bank, layers in banks.items()})
        plan = npas.plan(model, how.budget, groups=mapping, downsample=how.downsample)
        counts.append(sum(layer.k == 0 for layer in plan.layers))
    return statistics.mean(counts)


def dump(summary: Mapping[str, Any]) -> str:
    """Return a summary as JSON text."""
    return json.dumps(summary, indent=1) + "\n"
