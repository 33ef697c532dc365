"""Running what is missing, one after the other or in processes."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.learning.spec import Experiment, Run
from benchmarks.learning.train import train
from benchmarks.store import append_row, read_rows

Say = Callable[[str], None]


class MixedData(Exception):
    """The file of rows holds results on other data."""


def missing(experiments: Sequence[Experiment], rows: dict[str, Any]) -> list[Run]:
    """Return the runs that have no row yet, in the order of the experiments."""
    wanted = {run.key: run for experiment in experiments for run in experiment.runs}
    return [run for key, run in wanted.items() if key not in rows]


def run_missing(
    experiments: Sequence[Experiment], kept: Path, data: Path | None, jobs: int, say: Say
) -> None:
    """Do the runs that have no row, and add each row as it ends.

    Args:
        experiments: in the order in which they are run.
        kept: file of the rows.
        data: where CIFAR-10 is.
        jobs: processes, of one thread each.
        say: told after each run what it gave, and how long the rest takes.

    Raises:
        MixedData: if a row's data set goes by the name of one that another copy was used for.
    """
    rows = read_rows(kept)
    labels = {row["recipe"]["images"]: row["data"] for row in rows.values()}
    runs = missing(experiments, rows)
    say(f"{len(runs)} runs to do, {len(rows)} rows in {kept}")
    start = time.monotonic()
    for done, row in enumerate(_rows(runs, kept, data, jobs), 1):
        images = row["recipe"]["images"]
        if labels.setdefault(images, row["data"]) != row["data"]:
            raise MixedData(
                f"{kept} holds results on {labels[images]}, and --data gives {row['data']}; "
                "keep them apart with --rows"
            )
        append_row(kept, row)
        left = (time.monotonic() - start) / done * (len(runs) - done)
        say(f"{done}/{len(runs)} {describe(row)}; about {left / 60:.0f} min left")


def _rows(
    runs: Sequence[Run], kept: Path, data: Path | None, jobs: int
) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        for run in runs:
            if run.key not in read_rows(kept):  # another command may be adding rows
                yield train(run, data)
        return
    # Not forked: a thread of the parent's libraries may hold a lock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending = [pool.submit(train, run, data) for run in runs]
        try:
            for done in as_completed(pending):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def describe(row: dict[str, Any]) -> str:
    """Return a row in a few words."""
    build, recipe = row["build"], row["recipe"]
    how = "dense" if build["budget"] is None else f"{build['groups']} {build['budget']}"
    start = "" if build["start"] == "default" else f" {build['start']}"
    rate = f"{recipe['optimizer']} {recipe['lr']:g}"
    power = f" power {recipe['sharing_power']:g}" if recipe["sharing_power"] else ""
    seconds = row["train_cpu_s"] + row["search_cpu_s"]
    accuracy = f"{row['accuracy']:.2%}, {seconds:.0f} s"
    return f"{recipe['network']} {how}{start}, {rate}{power}, seed {row['seed']}: {accuracy}"
