"""The paper's numbers for an arm of an experiment."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks import paper
from benchmarks.quality.spec import Case, Experiment, Printed

_FIELDS = ("table", "network", "task", "label", "column", "budget", "groups", "templates")
_NUMBERS = ("measure", "unit", "better", "value", "std", "printed")


def printed(case: Case, experiment: Experiment) -> list[dict[str, Any]]:
    """Return the numbers that the paper prints for an arm, with where they stand.

    Several numbers of a table that differ in budget, groups or templates are told apart by what the
    arm was built with; budgets only where the experiment does not say which one is meant.
    """
    if not case.paper:
        return []
    rows = [row for wanted in experiment.paper for row in _rows(case, experiment, wanted)]
    return [{name: asdict(row)[name] for name in _FIELDS + _NUMBERS} for row in rows]


def _rows(case: Case, experiment: Experiment, wanted: Printed) -> Iterable[paper.Row]:
    found = paper.rows(
        wanted.table,
        network=wanted.network,
        task=wanted.task,
        method=case.paper,
        budget=wanted.budget,
        measure=wanted.measure,
    )
    alike = [other for other in experiment.cases if other.paper == case.paper]
    if wanted.budget is None:
        own = _plain(case.build.budget or "100%")
        differ = len({other.build.budget for other in alike}) > 1
        if differ or len({row.budget for row in found}) > 1:
            found = [row for row in found if _plain(row.budget) == own]
    options = dict(case.build.how)
    n_banks = options.get("n_banks") or 1
    if len({row.groups for row in found}) > 1:
        # Where the paper prints no groups there is one.
        found = [row for row in found if max(1, row.groups) == n_banks]
    if len({row.templates for row in found}) > 1:
        found = [row for row in found if row.templates == options.get("k")]
    return found


def _plain(budget: str) -> str:
    """Return ``"5%"`` for ``"5.0%"``."""
    return re.sub(r"\.0+(?!\d)", "", budget)
