"""Every suite of the ledger, and the other benchmarks."""

from benchmarks.ledger import budgets, cost, counts, flops, full_size, memory
from benchmarks.ledger.suite import Suite
from npas.errors import NpasError
from npas.naming import nearest

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE for module in (counts, budgets, flops, cost, memory, full_size)
}

#: command -> what it measures, and its page.
OTHERS = {
    "python -m benchmarks.flops": "the suite flops, of chosen networks (docs/benchmarks.md)",
    "python -m benchmarks.cost": "the suite cost, of chosen networks (docs/benchmarks.md)",
    "python -m benchmarks.foundation": "budgets, start, identity (docs/foundation.md)",
    "python -m benchmarks.kernels": "generation: times, bytes, floors (docs/kernels.md)",
    "python -m benchmarks.training": "a step against the dense model's (docs/kernels_training.md)",
    "python -m benchmarks.front_ends": "what captures a model (docs/front_ends.md)",
    "python -m benchmarks.coverage": "architectures (docs/compatibility.md)",
    "python -m benchmarks.search": "agreement of learned mappings (docs/search.md)",
    "python -m benchmarks.learning": "what networks learn within a budget (docs/learning.md)",
    "python -m benchmarks.starting": "scale at the start (docs/starting.md)",
    "python -m benchmarks.fit": "trained weights into banks (docs/fitting.md)",
}


def suite(name: str) -> Suite:
    """Return a suite by its name.

    Raises:
        NpasError: if there is none; the message names the nearest.
    """
    if name not in SUITES:
        hint = "; python -m benchmarks case SUITE/CASE runs one case" if "/" in name else ""
        raise NpasError(f"no suite {name!r}{nearest(name, SUITES)}; use {', '.join(SUITES)}{hint}")
    return SUITES[name]
