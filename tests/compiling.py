"""Plans and compiled modules of what `strategies.py` draws."""

from typing import Any

import torch
from torch import nn

import npas
from npas.module import Shapeshifter
from tests.invariants import check_honest, check_plan_budget
from tests.strategies import Ask, Case

Options = dict[str, Any]


def plan_or_nearest(model: nn.Module, ask: Ask, options: Options) -> npas.Plan:
    """Plan for a budget, or for the one that the error names, which must be honest."""
    budget = ask.of(model, **options)
    try:
        plan = npas.plan(model, budget, **options)
    except npas.BudgetError as error:
        # The number of banks may depend on the budget, and "largest" takes the default one.
        tight = budget != "largest"
        return check_honest(error, lambda n: npas.plan(model, n, **options), tight=tight)
    check_plan_budget(plan, model, budget)
    return plan


def compile_within(model: nn.Module, budget: int, **arguments: Any) -> Shapeshifter:
    """Compile by a budget, not by its plan, so that weights of zero get their scalars."""
    torch.manual_seed(arguments["seed"])
    try:
        return npas.compile(model, budget, **arguments)
    except npas.BudgetError as error:
        nearest = error.smallest or error.largest
        return npas.compile(model, nearest, **arguments)


def compile_case(
    case: Case,
    ask: Ask,
    options: Options,
    *,
    dtype: torch.dtype = torch.float32,
    **compile_options: Any,
) -> tuple[nn.Module, Shapeshifter, npas.Plan]:
    """Return model, compiled module and plan."""
    model = case.make(dtype)
    budget = plan_or_nearest(model, ask, options).budget_params
    ssn = compile_within(model, budget, **options, **compile_options)
    return model, ssn, ssn._npas.plan
