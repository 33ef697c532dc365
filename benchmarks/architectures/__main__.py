"""Build every architecture once, run it forward and backward, and print what came of it.

Run as `python -m benchmarks.architectures [--only PATTERN]`.
"""

import argparse
import math
import sys
import time
from collections import Counter

import torch

from benchmarks.architectures import Architecture, architectures
from benchmarks.architectures.transformers import quiet

ROW = "{:44} {:20} {:>10} {:>12} {:>8}  {}"


def check(architecture: Architecture) -> tuple[int, float]:
    """One forward and backward pass of an architecture in training mode.

    Args:
        architecture: Which one.

    Returns:
        The number of its parameters and its loss.

    Raises:
        ValueError: The loss is not finite.
    """
    model = architecture.make()
    torch.manual_seed(0)
    loss = architecture.loss(model(**architecture.inputs(2)))
    loss.backward()
    if not math.isfinite(float(loss.detach())):
        raise ValueError("loss not finite")
    return sum(p.numel() for p in model.parameters()), float(loss.detach())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", help="names that this expression is found in")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    print(ROW.format("name", "family", "parameters", "loss", "seconds", ""))
    passed: Counter[str] = Counter()
    failed = 0
    start = time.perf_counter()
    for architecture in architectures(only):
        count, loss, said = 0, math.nan, ""
        before = time.perf_counter()
        try:
            with quiet():
                count, loss = check(architecture)
            passed[architecture.family] += 1
        except Exception as error:
            failed += 1
            said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        seconds = f"{time.perf_counter() - before:.2f}"
        row = (architecture.name, architecture.family, f"{count:,}", f"{loss:.4f}", seconds, said)
        print(ROW.format(*row).rstrip(), flush=True)
    families = ", ".join(f"{name} {count}" for name, count in sorted(passed.items()))
    total = time.perf_counter() - start
    print(f"{passed.total()} pass ({families}), {failed} fail, {total:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
