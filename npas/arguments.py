"""What `npas.plan`, `compile` and `compile_` are asked for, checked before anything is changed."""

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from npas.bank import Bank
from npas.compiled import Compiled
from npas.errors import NpasError
from npas.fitting.moments import check_batches
from npas.init import INITS
from npas.kernels.backends import BACKENDS
from npas.leaf import sources_of
from npas.naming import check_choice, nearest
from npas.passes.schedule import SCHEDULES
from npas.pipeline import check_backend
from npas.plan import Plan
from npas.planning import PlanRequest, check_fits
from npas.searching.bank import SearchBank

_REQUEST = frozenset(field.name for field in fields(PlanRequest)) - {"budget", "zero", "importance"}
_EXAMPLES = frozenset({"example_inputs", "example_kwargs"})


@dataclass(frozen=True, slots=True)
class How:
    """Arguments of `compile` and `compile_` that the plan does not depend on."""

    init: str
    backend: str
    schedule: str
    recompute: bool | str
    fit_batches: Any = None


def check_request(
    model: nn.Module,
    budget: Any,
    plan: Plan | None,
    arguments: MappingType[str, Any],
    how: How,
) -> PlanRequest:
    """Check everything that can be checked before the model is looked at closely."""
    check_choice("backend", how.backend, BACKENDS)
    if how.recompute != "auto" and not isinstance(how.recompute, bool):
        raise NpasError(f"recompute={how.recompute!r} must be 'auto', True or False")
    check_choice("init", how.init, INITS)
    check_choice("schedule", how.schedule, SCHEDULES)
    if how.fit_batches is not None:
        if how.init != "fit":
            raise NpasError(f"fit_batches goes with init='fit', not with init={how.init!r}")
        check_batches(how.fit_batches)
    request = _request(budget, plan, arguments)
    check_keywords(arguments.get("example_kwargs"))
    check_model(model)
    check_backend(model, how.backend)
    if plan is not None:
        check_fits(plan, model)
    return request


def _request(budget: Any, plan: Plan | None, arguments: MappingType[str, Any]) -> PlanRequest:
    for name in arguments:
        if name not in _REQUEST | _EXAMPLES:
            raise NpasError(
                f"compile has no argument {name!r}{nearest(name, _REQUEST | _EXAMPLES)}"
            )
    chosen = {name: value for name, value in arguments.items() if name in _REQUEST}
    if plan is not None:
        given = sorted(chosen) + (["budget"] if budget is not None else [])
        if given:
            raise NpasError(f"compile takes a plan or {', '.join(given)}, not both")
        if not isinstance(plan, Plan):
            raise NpasError(f"plan={plan!r} must be a Plan; read a file with npas.Plan.load(path)")
        return PlanRequest(plan.budget_params)
    if budget is None:
        raise NpasError("compile needs a budget, such as budget='10%', or a plan")
    request = PlanRequest(budget, **chosen)
    request.check()
    return request


def check_keywords(kwargs: object) -> None:
    """Raise an `NpasError` unless keyword inputs are a dict of names, or None."""
    if kwargs is not None and not (
        isinstance(kwargs, MappingType) and all(isinstance(name, str) for name in kwargs)
    ):
        found = type(kwargs).__name__
        raise NpasError(f"example_kwargs must be a dict of keyword inputs, found a {found}")


def check_model(model: object) -> None:
    """Raise an `NpasError` for what is no module, or was compiled by npas or torch already."""
    if not isinstance(model, nn.Module):
        raise NpasError(f"the model is a {type(model).__name__}, not an nn.Module")
    if "_orig_mod" in model._modules:
        raise NpasError(
            "the model is torch.compile's; compile the original with npas and then with torch"
        )
    if any(isinstance(module, Bank | SearchBank | Compiled) for module in model.modules()):
        raise NpasError(
            f"{type(model).__name__} is compiled by npas already; call npas.materialize on it "
            "first, or compile the original"
        )
    shared = [path for path, module in model.named_modules() if sources_of(module)]
    if shared:
        raise NpasError(
            f"weights of {shared[0] or type(model).__name__} come from the banks of another model, "
            "which shares the module and was compiled in place; call npas.uncompile_ on that "
            "model first, or compile both as one: one module that holds the two"
        )
