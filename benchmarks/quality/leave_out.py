"""What the defaults are to the paper's recipe over all tasks, and without some of them.

``python -m benchmarks.quality.leave_out [EXPERIMENT ...] [--to ARM]`` reads the committed runs. Of
the ``recipe`` experiments that have both arms whole it prints each difference, in percent points,
over the pairs in which no arm diverged; then the mean, seed by seed, without the experiments that
are named, diverged runs counting as 0 as everywhere.
"""

import argparse
from collections.abc import Sequence

from benchmarks import stats
from benchmarks.quality.experiments import select
from benchmarks.quality.overall import mean_by_seed
from benchmarks.quality.summary import COMMITTED, records
from benchmarks.store import read_rows

OURS, THEIRS = "defaults", "the paper's recipe"


def differences(theirs: str = THEIRS) -> dict[str, dict[str, tuple[float, float]]]:
    """Return experiment -> seed -> scores of the defaults and of another arm."""
    arms: dict[str, dict[str, dict[str, float]]] = {}
    for record in records(select(["recipe"]), read_rows(COMMITTED)):
        if record["variant"] in (OURS, theirs):
            arms.setdefault(record["experiment"], {})[record["variant"]] = record["scores"]
    return {
        name: {seed: (ours, found[theirs][seed]) for seed, ours in found[OURS].items()}
        for name, found in arms.items()
        if found.get(OURS) and found.get(theirs, {}).keys() == found[OURS].keys()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the differences and their mean."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.leave_out")
    parser.add_argument("left_out", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--to", default=THEIRS, metavar="ARM", help=f"{THEIRS} by default")
    options = parser.parse_args(arguments)
    left_out, found = options.left_out, differences(options.to)
    for name in left_out:
        if name not in found:
            raise SystemExit(f"{name}: is no whole experiment; there are {', '.join(found)}")
    for name, pairs in found.items():
        both = {seed: ours - theirs for seed, (ours, theirs) in pairs.items() if ours and theirs}
        print(f"{name}: {_said(both)}")
    kept = {n: {s: a - b for s, (a, b) in p.items()} for n, p in found.items() if n not in left_out}
    print(f"mean of {len(kept)}: {_said(mean_by_seed(kept))}")


def _said(by_seed: dict[str, float]) -> str:
    own = {int(seed): value for seed, value in by_seed.items()}
    difference = stats.paired_difference(own, dict.fromkeys(own, 0.0))
    assert difference is not None
    return f"{100 * difference.mean:+.2f} ± {100 * difference.half:.2f}, {difference.n} pairs"


if __name__ == "__main__":
    main()
