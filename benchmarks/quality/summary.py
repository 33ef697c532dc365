"""What finished runs say: a record for each arm of an experiment, and one for each tuning.

Scores and differences are of 1, as in the rows. A diverged run has the score 0 and enters as that.
All values are JSON values: what is not known is None, and seeds are text where they are keys.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import stats
from benchmarks.quality.mappings import agreement, found_by
from benchmarks.quality.printed import printed
from benchmarks.quality.spec import Case, Experiment, Rows, Tuning

#: A difference is resolved where its p value, adjusted for all of its table, is below this.
LEVEL = 0.05
#: The rows that are part of the repository.
COMMITTED = Path("benchmarks/results/quality.jsonl")
Record = dict[str, Any]
Row = Mapping[str, Any]


def records(experiments: Sequence[Experiment], rows: Rows) -> list[Record]:
    """Return a record for each arm that has a finished run, in the order of the tables."""
    return [record for experiment in experiments for record in _records(experiment, rows)]


def tunings(experiments: Sequence[Experiment], rows: Rows) -> list[Record]:
    """Return a record for each tuning that has a finished run; arms that share one share a record.

    A rate's score is None while runs of it are missing, and so is the chosen rate.
    """
    users: dict[Tuning, list[tuple[str, str]]] = {}
    for experiment in experiments:
        for case in experiment.cases:
            if case.recipe.lr is None and case.tuning is not None:
                users.setdefault(case.tuning, []).append((experiment.name, case.arm))
    return [
        _tuning(tuning, found, rows)
        for tuning, found in users.items()
        if any(run.key in rows for run in tuning.known_runs(rows))
    ]


def commit(experiments: Sequence[Experiment], rows: Rows, path: Path = COMMITTED) -> None:
    """Write the rows of these experiments, each once, in the order in which they are asked for."""
    found = {row["key"]: row for e in experiments for row in runs_done(e, rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found.values()), encoding="utf-8")


def runs_done(experiment: Experiment, rows: Rows) -> list[Row]:
    """Return the rows of an experiment, those of its tunings first."""
    return [rows[run.key] for run in experiment.known_runs(rows) if run.key in rows]


def minutes(found: Sequence[Row]) -> float:
    """Return what runs took, searches included."""
    return sum(row["train_s"] + row["search_s"] for row in found) / 60


def _records(experiment: Experiment, rows: Rows) -> list[Record]:
    made = []
    for case in experiment.cases:
        runs = {seed: case.run(seed, rows) for seed in experiment.all_seeds}
        found = {seed: rows[run.key] for seed, run in runs.items() if run and run.key in rows}
        if found:
            learned = {"agreement": agreement(found_by(found.values()))}
            made.append(_arm(case, experiment, found) | _chosen(case, rows) | learned)
    _name_twins(made)
    own = {case.arm: case.against or experiment.baseline for case in experiment.cases}
    _compare(made, "", own)
    if experiment.also is not None:
        # The difference of two arms stands once: where each is the other's reference it is there.
        also = experiment.also
        known = {own[also], *(arm for arm, name in own.items() if name == also)}
        _compare(made, "also_", {arm: also for arm in own}, known)
    pairs = {
        (record["variant"], key): record[key]
        for record in made
        for key in ("p", "also_p")
        if record.get(key) is not None
    }
    adjusted = stats.holm(pairs)
    for record in made:
        for prefix in ("",) if experiment.also is None else ("", "also_"):
            p = adjusted.get((record["variant"], f"{prefix}p"))
            record |= {f"{prefix}p_holm": p, f"{prefix}resolved": None if p is None else p < LEVEL}
    return made


def _arm(case: Case, experiment: Experiment, found: dict[int, Row]) -> Record:
    """Return what is known of an arm by itself; found: seed -> row."""
    first = next(iter(found.values()))
    scores = {seed: row["score"] for seed, row in found.items()}
    mean, std = stats.mean_std(scores)
    half = None if std is None else stats.half_width(std, len(scores))
    numbers = printed(case, experiment)
    return {
        "experiment": experiment.name,
        "task": case.recipe.task,
        "data": first["label"],
        "measure": first["measure"],
        "network": case.recipe.network,
        "variant": case.arm,
        "method": _method(case, experiment),
        "budget": case.build.budget,
        "params": fmean(row["n_params"] for row in found.values()),
        "banks": fmean(row["n_banks"] or 0 for row in found.values()),
        **{
            name: _mean_of(name, found.values())
            for name in ("params_left", "macs", "teacher_score")
        },
        "seeds": len(found),
        "asked": experiment.seeds,
        "mean": mean,
        "std": std,
        "mean_interval": None if half is None else [mean - half, mean + half],
        "scores": {str(seed): score for seed, score in scores.items()},
        "diverged": sum(row["diverged"] for row in found.values()),
        "paper": [number["value"] for number in numbers],
        "printed": numbers,
        "minutes": minutes(list(found.values())),
    }


def _name_twins(made: Sequence[Record]) -> None:
    """Say of arms with the scores of an earlier one that they are the same network.

    Options may come to the same plan. Such an arm is compared with nothing: it would count twice.
    """
    for i, arm in enumerate(made):
        alike = (
            other["variant"]
            for other in made[:i]
            if len(arm["scores"]) > 1
            and (other["scores"], other["params"]) == (arm["scores"], arm["params"])
        )
        arm["same_as"] = next(alike, None)


def _mean_of(name: str, found: Iterable[Row]) -> float | None:
    """Return the mean of a field that rows of some kinds have."""
    values = [row[name] for row in found if name in row]
    return fmean(values) if values else None


def _chosen(case: Case, rows: Rows) -> Record:
    """Return the learning rate, and whether a tuning chose it at the edge of its grid."""
    if case.recipe.lr is not None or case.tuning is None:
        return {"lr": case.recipe.lr, "at_edge": None}
    lr = case.tuning.chosen(rows)
    return {"lr": lr, "at_edge": _at_edge(case.tuning.grid(rows), lr)}


def _method(case: Case, experiment: Experiment) -> str:
    """Return the name that an arm shares with those that differ from it in budget alone.

    It is the arm's name without the budget at its end, or else the words that they have in common.
    """
    name, _, last = case.arm.rpartition(" ")
    if name and last.strip("()") == case.build.budget:
        return name.rstrip(",:")
    same = [other.arm for other in experiment.cases if _but_budget(other) == _but_budget(case)]
    words = zip(*(arm.split() for arm in same), strict=False)
    common = " ".join(places[0] for places in words if len(set(places)) == 1)
    return common.rstrip(",:") or case.build.method


def _but_budget(case: Case) -> tuple[Any, ...]:
    return case.build.method, case.build.how, replace(case.recipe, lr=None)


def _compare(
    made: Sequence[Record], prefix: str, references: Mapping[str, str], known: Collection[str] = ()
) -> None:
    """Add each arm's difference to its reference; those of ``known`` arms are there already."""
    arms = {arm["variant"]: arm for arm in made}
    for name, arm in arms.items():
        reference = references[name]
        pairs: list[float] = []
        others = reference in arms and arms[reference]["same_as"] != name
        if others and reference != name and name not in known and arm["same_as"] is None:
            pairs = stats.differences(_by_seed(arm), _by_seed(arms[reference]))
        whole = len(pairs) == arm["asked"]
        arm |= {f"{prefix}{key}": value for key, value in _difference(pairs, whole).items()}
        arm[prefix.rstrip("_") or "baseline"] = reference


def _by_seed(arm: Record) -> dict[int, float]:
    return {int(seed): score for seed, score in arm["scores"].items()}


def _difference(pairs: Sequence[float], whole: bool) -> Record:
    """Return what pairs say.

    One pair has a difference, but no interval. There are p values only once all seeds that were
    asked for are done: a look in between would be one more chance for them to be small.
    """
    numbered = dict(enumerate(pairs))
    found = stats.paired_difference(numbered, dict.fromkeys(numbered, 0.0))
    sure = None if found is None or found.n < 2 else found
    return {
        "difference": found and found.mean,
        "pairs": len(pairs),
        "interval": sure and [sure.mean - sure.half, sure.mean + sure.half],
        "resolves": sure and sure.half,
        "p": sure.p if sure and whole else None,
        "p_permutation": stats.permutation_p(pairs) if sure and whole else None,
        "p_sign": stats.sign_p(pairs) if sure and whole else None,
    }


def _at_edge(rates: Sequence[float], lr: float | None) -> bool | None:
    """Return whether a better rate may lie outside of the grid; None where there is no choice."""
    if lr is None or len(rates) < 2:
        return None
    return lr in (rates[0], rates[-1])


def _tuning(tuning: Tuning, users: Sequence[tuple[str, str]], rows: Rows) -> Record:
    runs = {rate: tuning.runs(rate) for rate in tuning.grid(rows)}
    done = {rate: [rows[r.key] for r in runs[rate] if r.key in rows] for rate in runs}
    first = next(row for found in done.values() for row in found)
    chosen = tuning.chosen(rows)
    return {
        "task": tuning.recipe.task,
        "data": first["label"],
        "measure": first["measure"],
        "network": tuning.recipe.network,
        "method": tuning.build.method,
        "how": dict(tuning.build.how),
        "budget": tuning.build.budget,
        "seeds": len(tuning.seeds),
        "rates": [_rate(rate, found, len(runs[rate])) for rate, found in done.items()],
        "chosen": chosen,
        "at_edge": _at_edge(tuning.grid(rows), chosen),
        "experiments": list(dict.fromkeys(name for name, _ in users)),
        "arms": list(dict.fromkeys(arm for _, arm in users)),
        "minutes": minutes([row for found in done.values() for row in found]),
    }


def _rate(rate: float, found: Sequence[Row], asked: int) -> Record:
    score = fmean(row["score"] for row in found) if len(found) == asked else None
    return {"lr": rate, "score": score, "diverged": sum(row["diverged"] for row in found)}
