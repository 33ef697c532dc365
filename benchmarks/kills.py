"""Saves that are killed: whether every folder that is left can be loaded.

``python -m benchmarks.kills [N] [--seed S]`` saves two modules in turn into a folder, kills the
process that does so by SIGKILL at a random moment, and loads the folder; N times (100). Prints
JSON: how often the first and the second module were there, and what else the folder held.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import npas

#: Longest time until a kill, in seconds: some saves.
LONGEST = 0.25


def make() -> nn.Module:
    """Return the network that is compiled."""
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))


def kill_saves(n: int, seed: int = 0) -> dict[str, int]:
    """Return how often each module was loaded, with which leftovers beside it.

    Raises:
        AssertionError: if a folder does not load, or holds neither module.
    """
    torch.set_num_threads(1)
    moments = random.Random(seed)
    modules = {"first": npas.compile(make(), "50%"), "second": npas.compile(make(), "30%")}
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "saved")
        npas.save(modules["first"], folder)
        for _ in range(n):
            _killed(lambda: _save_on(list(modules.values()), folder), moments.uniform(0, LONGEST))
            loaded = npas.load(folder, make).state_dict()
            (found,) = (name for name, m in modules.items() if _equal(loaded, m.state_dict()))
            counts[found] += 1
            counts["with files left over"] += len(list(folder.iterdir())) > 2
        npas.save(modules["first"], folder)
        assert len(list(folder.iterdir())) == 2, "a save leaves files of earlier ones"
    return dict(counts)


def _save_on(modules: list[nn.Module], folder: Path) -> None:
    while True:
        for module in modules:
            npas.save(module, folder)


def _killed(call: Callable[[], object], seconds: float) -> None:
    """Run a call in a child, and kill it."""
    child = os.fork()
    if not child:
        call()
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps({"kills": options.n, **kill_saves(options.n, options.seed)}))
