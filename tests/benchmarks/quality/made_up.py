"""Experiments and rows that are made up, to be reported on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality.spec import (
    Build,
    Case,
    Experiment,
    Recipe,
    Run,
    Tuning,
    npas_build,
)
from benchmarks.tables import Section, table_lines

RECIPE = Recipe("tiny", "wrn", 2, lr=0.1)
#: Made-up accuracies by arm, a seed each.
SCORES = {
    "reduced": (0.70, 0.72, 0.69, 0.74, 0.71),
    "Emb": (0.71, 0.74, 0.71, 0.75, 0.74),
    "WAvg": (0.70, 0.71, 0.70, 0.74, 0.72),
}
WORDS = {"reduced": "reduced", "Emb": "ssn-emb", "WAvg": "ssn-wavg"}
MADE_WITH = {"python": "3.11.7", "torch": "2.13.0", "triton": "3.9.0", "machine": "x86_64"}


def build_of(arm: str, budget: str | None = "10%") -> Build:
    return Build("reduced", budget) if arm == "reduced" else npas_build(budget or "", made=arm)


def experiment(name: str = "generation/10%", **changes: Any) -> Experiment:
    cases = tuple(Case(arm, build_of(arm), RECIPE, paper=WORDS[arm]) for arm in SCORES)
    made = Experiment(name, f"Generation, {name}", "A note.", cases, "reduced", seeds=5)
    return replace(made, **changes)


def row(run: Run, score: float, **changes: Any) -> dict[str, Any]:
    made = {
        "key": run.key,
        **run.spec,
        "label": f"data of {run.recipe.task}",
        "measure": "accuracy",
        "score": score,
        "diverged": False,
        "losses": [2.1],
        "n_params": 17_500,
        "n_dense": 175_066,
        "n_banks": 0 if run.build.method == "reduced" else 2,
        "steps": 10,
        "train_s": 60.0,
        "search_s": 12.0,
        "threads": 1,
        "revision": "abc",
        **MADE_WITH,
    }
    return made | changes


def rows_of(
    made: Experiment, scores: Mapping[str, Sequence[float]], **changes: Any
) -> dict[str, dict[str, Any]]:
    """Rows of all cases; their learning rates are known."""
    found = {}
    for case in made.cases:
        for seed, score in zip(made.all_seeds, scores[case.arm], strict=False):
            run = case.run(seed, {})
            assert run is not None
            found[run.key] = row(run, score, **changes)
    return found


def by_arm(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record["variant"]: record for record in records}


def text(section: Section) -> str:
    return "\n".join(table_lines(section))


def tuned(best: float) -> tuple[Experiment, dict[str, dict[str, Any]]]:
    """An experiment with a tuned arm, whose validation score is best at a rate."""
    recipe = replace(RECIPE, lr=None)
    tuning = Tuning(npas_build("10%"), recipe, (0.1, 0.3, 1.0))
    cases = (
        Case("fixed", Build("reduced", "10%"), RECIPE),
        Case("tuned", npas_build("10%"), recipe, tuning),
    )
    made = Experiment("tuning/10%", "Tuning", "A note.", cases, "fixed", seeds=2)
    rows = {
        run.key: row(run, 0.6 if run.recipe.lr == best else 0.5, diverged=run.recipe.lr == 1.0)
        for run in tuning.known_runs({})
    }
    for case in cases:
        for seed in made.all_seeds:
            run = case.run(seed, rows)
            assert run is not None
            rows[run.key] = row(run, 0.7 + 0.01 * seed)
    return made, rows


def on_task(task: str, scores: Mapping[str, Sequence[float]]) -> tuple[Experiment, dict[str, Any]]:
    cases = tuple(Case(arm, build_of(arm), replace(RECIPE, task=task)) for arm in scores)
    made = experiment(f"family/{task}", cases=cases, baseline=cases[0].arm)
    return made, rows_of(made, scores)


def several() -> tuple[list[Experiment], dict[str, dict[str, Any]]]:
    """Two families, one of them with a curve and a diverged run, and one that is not run."""
    one, rows = on_task("one", SCORES)
    two, more = on_task("two", SCORES)
    sizes = {"5%": 8_750, "25%": 43_760}
    cases = (
        Case("dense", Build(), RECIPE),
        *(Case(f"{arm}, {b}", build_of(arm, b), RECIPE) for b in sizes for arm in SCORES),
    )
    curve = Experiment("budgets/tiny 50%", "Score and budget", "A note.", cases, "dense", seeds=2)
    rows |= more
    for index, case in enumerate(cases):
        for seed in curve.all_seeds:
            run = case.run(seed, rows)
            assert run is not None
            n_params = sizes.get(case.build.budget or "", 175_066)
            lost = case.arm == "WAvg, 5%" and seed == 1
            score = 0.0 if lost else 0.8 - 0.01 * index + 0.001 * seed * (index % 3)
            rows[run.key] = row(run, score, diverged=lost, n_params=n_params)
    return [one, curve, two, experiment("later/10%", first=100)], rows
