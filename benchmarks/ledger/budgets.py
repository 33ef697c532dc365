"""Plans at every budget of the paper: what was asked, what is trained, what is upsampled."""

from collections.abc import Sequence
from functools import partial

import torch

import npas
from benchmarks import paper
from benchmarks.foundation import dead_parameters
from benchmarks.ledger.suite import Case, Rows, Suite
from benchmarks.networks import network
from benchmarks.tables import Column, Row, Section, count

#: Tables 5 and 8 give one bank as many parameters as the largest layer has.
LARGEST_TABLES = frozenset({"5", "8"})
GROUPS = ("auto", "single")


def rows_of(name: str) -> Rows:
    """Plan one network at all of its budgets.

    Raises:
        AssertionError: if a plan is over its budget, leaves part of it or has a dead parameter.
    """
    with torch.device("meta"):
        model = network(name).make()
    n_dense = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found: Rows = []
    for budget in paper.budgets():
        if budget.network != name:
            continue
        asked: list[tuple[str, int | str]] = [
            (budget.budget, paper.n_params(budget.budget, n_dense))
        ]
        if LARGEST_TABLES & set(budget.tables):
            asked.append((f"largest ({budget.budget})", "largest"))
        for label, wanted in asked:
            for groups in GROUPS if wanted != "largest" else ("single",):
                plan = npas.plan(model, wanted, groups=groups)
                dead = dead_parameters(plan)
                assert plan.n_params <= plan.budget_params, (name, label, groups)
                assert not dead, (name, label, groups, dead)
                found.append(
                    {
                        "network": name,
                        "budget": label,
                        "tables": ", ".join(budget.tables),
                        "groups": groups,
                        "asked": plan.budget_params,
                        "got": plan.n_params,
                        "share": plan.n_params / n_dense,
                        "used": plan.n_params / plan.budget_params,
                        "banks": len(plan.banks),
                        "layers": len(plan.layers),
                        "upsampled": sum(layer.k == 0 for layer in plan.layers),
                        "dead": dead,
                    }
                )
    return found


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one table."""
    note = (
        "Each network and budget at which the paper trains an SSN (Tables 1, 2, 5, 6, 7, 8, 10, "
        "11, 14, 15, 16), with npas's own mapping and with one bank. Budgets are as printed, so "
        "percentages carry the paper's rounding; `largest` is one bank as large as the largest "
        "layer, as Tables 5 and 8 say. Dead parameters are those that all-ones gradients into "
        "every generated weight do not reach: none, or the case would have failed."
    )
    columns = [
        Column("network", "network"),
        Column("budget", "budget"),
        Column("tables", "tables"),
        Column("groups", "groups"),
        Column("asked", "asked", count),
        Column("got", "got", count),
        Column("of the budget", "used", lambda value: f"{value:.3%}"),
        Column("banks", "banks"),
        Column("layers", "layers"),
        Column("upsampled", "upsampled"),
        Column("dead", "dead"),
    ]
    return [Section("All budgets of the paper", note, columns, rows)]


def cases() -> list[Case]:
    """Return a case a network."""
    found = dict.fromkeys(b.network for b in paper.budgets())
    return [Case(name, partial(rows_of, name)) for name in found]


SUITE = Suite("budgets", "Budgets", cases, sections)
