"""How arms rank over the experiments of a family: the same question, asked on several tasks."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.quality.cells import p_value, part
from benchmarks.stats import mean_ranks
from benchmarks.tables import Column, Section

Record = Mapping[str, Any]


def ranks(family: str, records: Sequence[Record]) -> Section | None:
    """Return a table of the arms that all experiments of a family have, best first.

    A score is the mean over the seeds that all of these arms have. There is no table for a single
    task or a single arm.

    Args:
        family: its name.
        records: of its experiments.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for record in records:
        scores.setdefault(part(record["experiment"]), {})[record["variant"]] = record["scores"]
    if len({record["task"] for record in records}) < 2:
        return None
    shared = set.intersection(*(set(arms) for arms in scores.values()))
    means = {name: _means(arms, shared) for name, arms in scores.items()}
    if len(shared) < 2 or not all(means.values()):
        return None
    found = mean_ranks(means)
    columns = [
        Column("", "variant"),
        Column("mean rank", "mean", lambda value: f"{value:.2f}"),
        *(Column(name, name, lambda value: f"{value:g}") for name in means),
    ]
    rows = [
        {"variant": arm, "mean": mean} | {name: found.by_task[name][arm] for name in means}
        for arm, mean in found.means.items()
    ]
    note = f"Arms ranked by their mean score in each of {len(means)} experiments; 1 is best."
    if found.p is not None:
        p = p_value(found.p)
        note += f" If all arms were alike, ranks as far apart would have p {p} (Friedman)."
    return Section(f"Ranks: {family}", note, columns, rows)


def _means(scores: Mapping[str, Mapping[str, float]], shared: set[str]) -> dict[str, float]:
    """Return arm -> mean over the seeds that all have; nothing if there are none."""
    arms = [arm for arm in scores if arm in shared]
    seeds = set.intersection(*(set(scores[arm]) for arm in arms)) if arms else set()
    return {arm: fmean(scores[arm][seed] for seed in sorted(seeds)) for arm in arms if seeds}
