"""Doing the runs that are missing, in processes of one thread, a row each as they end."""

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.quality.spec import Case, Experiment, Rows, missing
from benchmarks.quality.train import code, train
from benchmarks.sources import Sources
from benchmarks.store import append_row

Say = Callable[[str], None]


class MixedRows(Exception):
    """Rows that are not of one kind would stand in one table."""


def run_missing(
    experiments: Sequence[Experiment],
    rows: dict[str, dict[str, Any]],
    kept: Path,
    sources: Sources,
    jobs: int,
    say: Say,
    *,
    mix: bool = False,
) -> None:
    """Do the runs that have no row, and add each row as it ends.

    Args:
        experiments: in the order in which they are run.
        rows: finished runs; grows.
        kept: file that new rows are added to.
        sources: where data sets are.
        jobs: processes, of one thread each; with 1 everything is done in this one.
        say: told after each run what it gave, and how long the rest takes.
        mix: whether rows of other code may be in the same experiment.

    Raises:
        MixedRows: if an experiment has rows of other code, and there is something left to do.
        DataError: if a task's data are not there.
        OSError: if a row cannot be written; all before it are there.
    """
    if not mix:
        refuse_mixed([e for e in experiments if missing([e], rows)], rows, adding=True)
    left = sum(e.n_runs(rows) - e.n_done(rows) for e in experiments)
    say(f"about {left} runs to do; {len(rows)} rows are there")
    begun = time.monotonic()
    for done, row in enumerate(_rows(experiments, rows, sources, jobs), 1):
        append_row(kept, row)
        rows[row["key"]] = row
        left = sum(e.n_runs(rows) - e.n_done(rows) for e in experiments)
        minutes = _seconds_left(experiments, rows) / jobs / 60
        spent = (time.monotonic() - begun) / 60
        say(f"{describe(row)}; {done} done in {spent:.0f} min, {left} left, {minutes:.0f} min")


def refuse_mixed(experiments: Sequence[Experiment], rows: Rows, *, adding: bool = False) -> None:
    """Check that the rows of each experiment are of one state of the code.

    Args:
        experiments: that are looked at; runs that tune may be of any code.
        rows: finished runs.
        adding: whether the code that is here is about to add rows.

    Raises:
        MixedRows: if they are not; it names the experiment and the revisions.
    """
    for experiment in experiments:
        for kind, cases in _kinds(experiment).items():
            runs = [case.run(seed, rows) for case in cases for seed in experiment.all_seeds]
            done = [rows[run.key] for run in runs if run and run.key in rows]
            found = {row["code"]: row["revision"] for row in done}
            here = {code(cases[0].recipe)} if adding and found else set()
            if len(found.keys() | here) > 1:
                old = ", ".join(f"{digest} (revision {name})" for digest, name in found.items())
                raise MixedRows(
                    f"{experiment.name}: rows on {kind[0]} are of code {old}"
                    + (f", and the code here is {', '.join(here)}" if here else "")
                    + "; run it anew with --fresh, or say --mix where the change cannot matter"
                )


def _kinds(experiment: Experiment) -> dict[tuple[str, ...], list[Case]]:
    """Return the cases by what decides which sources they need: the task, and options' names."""
    found: dict[tuple[str, ...], list[Case]] = {}
    for case in experiment.cases:
        kind = (case.recipe.task, *(name for name, _ in case.recipe.how))
        found.setdefault(kind, []).append(case)
    return found


def _rows(
    experiments: Sequence[Experiment], rows: Rows, sources: Sources, jobs: int
) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        while runs := missing(experiments, rows):
            yield train(runs[0], sources)
        return
    # Not forked: a thread of the parent's libraries may hold a lock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_parent) as pool:
        pending: dict[Future[dict[str, Any]], str] = {}
        try:
            while True:
                busy = set(pending.values())
                ready = (run for run in missing(experiments, rows) if run.key not in busy)
                for run in ready:
                    if len(pending) == jobs:
                        break
                    pending[pool.submit(train, run, sources)] = run.key
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    del pending[future]
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this process end when the one that started it is killed, and cannot say so itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _seconds_left(experiments: Sequence[Experiment], rows: Rows) -> float:
    """Return how long the missing runs take on one thread, by the rows of their kind."""
    kinds: dict[tuple[str, str], list[float]] = {}
    for row in rows.values():
        kind = (row["recipe"]["task"], row["recipe"]["network"])
        kinds.setdefault(kind, []).append(row["train_s"] + row["search_s"])
    every = [seconds for found in kinds.values() for seconds in found]
    total = 0.0
    for experiment in experiments:
        recipe = experiment.cases[0].recipe
        known = kinds.get((recipe.task, recipe.network), every) or [0.0]
        total += statistics.mean(known) * (experiment.n_runs(rows) - experiment.n_done(rows))
    return total


def describe(row: dict[str, Any]) -> str:
    """Return a row in a few words."""
    made, recipe = row["build"], row["recipe"]
    how = " ".join(str(value) for value in made.get("how", {}).values())
    method = f"{made.get('method', 'dense')} {made.get('budget', '')} {how}".strip()
    score = "diverged" if row["diverged"] else f"{row['score']:.2%}"
    seconds = row["train_s"] + row["search_s"]
    return (
        f"{recipe['task']} {recipe['network']} {' '.join(method.split())}, lr {recipe['lr']:g}, "
        f"seed {row['seed']}: {score} on {row['part']}, {seconds:.0f} s"
    )
