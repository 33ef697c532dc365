"""Random networks, budgets and options: plans, and compiled modules that train.

Hypothesis makes a case of random bytes, so that a seed decides it here as well.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from hypothesis import given, settings, strategies as st

import npas
from tests.compiling import Options, compile_case, plan_or_nearest
from tests.invariants import (
    banks_of,
    check_gradients,
    check_loads,
    check_materialized,
    check_no_dead_parameter,
    check_parameter_count,
    check_round_trip,
    check_same_plan,
    check_start,
    check_unchanged,
    check_windows,
    loss_of,
    run,
    snapshot,
)
from tests.strategies import PROFILE, Ask, Case, Large, asks, cases, large_models, options

#: Bytes that a case is made of.
_BYTES = 4_000
_STEPS = 3
_SETTINGS = settings(PROFILE, database=None)
Target = Callable[[Random], tuple[str, bytes]]


def _drawn(check: Callable[..., str], *strategies: st.SearchStrategy[Any]) -> Target:
    """Return a target that checks what Hypothesis makes of random bytes."""

    def target(random: Random) -> tuple[str, bytes]:
        found: list[str] = []

        @_SETTINGS
        @given(st.tuples(*strategies))
        def test(case: tuple[Any, ...]) -> None:
            found.append(check(*case))

        data = random.randbytes(_BYTES)
        test.hypothesis.fuzz_one_input(data)  # type: ignore[attr-defined]
        return (found[0] if found else "not enough bytes"), data

    return target


def _plan(case: Case, ask: Ask, options: Options) -> str:
    """Plan, from the model and from the meta device, and read what was written."""
    plan = plan_or_nearest(case.make(), ask, options)
    check_windows(plan)
    check_round_trip(plan, npas.Plan.from_json)
    again, meta = (
        npas.plan(case.make(device=device), plan.budget_params, **options)
        for device in ("cpu", "meta")
    )
    check_same_plan(iter([again, meta]))
    return "sound"


def _plan_stack(stack: Large, ask: Ask, options: Options) -> str:
    """Plan a stack, whose budget must be used to 99.9% and more."""
    plan = plan_or_nearest(stack.make(), ask, stack.options(options))
    check_windows(plan)
    check_round_trip(plan, npas.Plan.from_json)
    return "sound"


def _compile(
    case: Case, ask: Ask, options: Options, schedule: str, recompute: bool, init: str
) -> str:
    """Compile in fp64 and train; every invariant before and after."""
    x = case.inputs(torch.float64)
    how: dict[str, Any] = {"schedule": schedule, "recompute": recompute, "init": init}
    model, ssn, plan = compile_case(case, ask, options, dtype=torch.float64, **how)
    before = snapshot(model)
    check_windows(plan)
    check_parameter_count(ssn, plan)
    check_start(model, ssn, plan)
    optimizer = torch.optim.AdamW(npas.param_groups(ssn, lr=0.01))
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = loss_of(run(ssn, x))
        loss.backward()
        assert bool(loss.isfinite())
        optimizer.step()
    check_parameter_count(ssn, plan)
    ssn.train()
    check_gradients(model, ssn, plan, x)
    with tempfile.TemporaryDirectory() as folder:
        npas.save(ssn, folder)
        check_loads(Path(folder), ssn, lambda: case.make(torch.float64), x)
    check_materialized(npas.materialize(ssn), ssn, model, x)
    check_no_dead_parameter(ssn.train(), plan)
    check_unchanged(model, before)
    return "sound" if banks_of(ssn) else "sound, nothing is shared"


# Without weights of zero, which get scalars and are not seen on the meta device.
networks = _drawn(_plan, cases(zero=False), asks(), options())
stacks = _drawn(_plan_stack, large_models(), asks(), options())
compiles = _drawn(
    _compile,
    cases(),
    asks(),
    options(),
    st.sampled_from(["layer", "bank"]),
    st.booleans(),
    st.sampled_from(["random", "copy"]),
)
