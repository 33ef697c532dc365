"""The public calls: plan, compile, and what one does with the result."""

import warnings
from collections.abc import Iterable, Mapping as MappingType, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import nn

from npas.arguments import How, check_keywords, check_model, check_request
from npas.bank import banks_of
from npas.calibrate import calibration_trace, correct_graph, measure_graph
from npas.calibrate_modules import correct, measure
from npas.compiled import state_of
from npas.errors import NpasError, NpasWarning
from npas.fitting.model import start_banks
from npas.fitting.moments import second_moments
from npas.init import with_gains, zero_layers
from npas.inplace import install, state_in_place, unchanged_on_error
from npas.module import reserved_names
from npas.naming import as_tuple, check_choice
from npas.passes.collect import Inventory, collect
from npas.passes.frontends import FRONTENDS, capture
from npas.passes.mapping import Groups
from npas.passes.rewrite import make_banks
from npas.passes.structure import analyse
from npas.passes.trace import (
    Trace,
    check_forwards,
    clone_all,
    clone_module,
    shares_tensors,
    without_hooks,
)
from npas.passes.verify import check_generation, steady
from npas.pipeline import Recorder, assemble
from npas.plan import Plan
from npas.planning import PlanRequest, make_plan
from npas.report import LayerStart

M = TypeVar("M", bound=nn.Module)


@torch.inference_mode(False)
def plan(
    model: nn.Module,
    budget: str | int | float,
    *,
    groups: Groups = "auto",
    n_banks: int | None = None,
    k: int | None = None,
    downsample: str = "wavg",
    upsample: str = "mask",
    seed: int = 0,
    target_modules: Iterable[str] | None = None,
    ignored_modules: Iterable[str] | None = None,
    overrides: MappingType[str, MappingType[str, Any]] | None = None,
    example_inputs: Sequence[Any] = (),
    example_kwargs: MappingType[str, Any] | None = None,
) -> Plan:
    """Decide which layers share which parameters; analysis only, works on meta tensors.

    Args:
        model: any module; it is not changed, and only ``groups="fit"`` reads its weights.
        budget: trainable parameters of the result: a share (``"10%"``, ``0.1``), a multiple
            (``"4x"``, ``4.0``), a number (``4_000_000``, ``"4M"``), bytes (``"16MiB"``), or
            ``"largest"``. It counts everything trainable.
        groups: which layers share a bank: ``"auto"``, ``"own"``, ``"single"``, ``"random"``,
            ``"by_shape"``, a dict of patterns -> bank, or a `Mapping`; ``"soft_sharing"`` (weights
            of one shape in repeated blocks: Savarese and Maire, 2019) or ``"albert"``, also named
            ``"repeated"`` (weights at one place of repeated blocks: Lan et al., 2020), which from
            budget ``"largest"`` on keep what shares nothing, and let the rest share templates as
            large as a layer; or ``"fit"``, for pretrained weights, which it reads: layers whose
            weights count most keep them, the others share.
        n_banks: number of banks for ``"auto"`` and ``"random"``; by default as many as possible
            with room for four templates of each layer, where one bank for all would have it.
        k: most templates a layer may have; by default 4, growing with the budget, and with
            ``"soft_sharing"`` and ``"albert"`` as many as layers share.
        downsample: ``"wavg"`` or ``"emb"`` (3.1.1), or the baselines ``"avg"``, ``"rr"`` (B.2).
        upsample: ``"mask"`` or ``"inter"`` (3.1.2), or the baseline ``"repeat"`` (B.4).
        seed: of the random choices in the mapping.
        target_modules: patterns: only these weights are allocated.
        ignored_modules: patterns: these weights are not allocated.
        overrides: pattern -> some of ``bank``, ``k``, ``downsample``, ``upsample``, ``scale``
            (whether a weight without coefficients of its own has a scalar that is learned).
        example_inputs: positional inputs of forward, to count multiply-accumulates.
        example_kwargs: keyword inputs of forward.

    Raises:
        BudgetError: if the budget cannot be met, with the smallest or largest usable one.
        NpasError: for arguments that do not fit the model.
    """
    request = PlanRequest(
        budget,
        groups,
        n_banks,
        k,
        downsample,
        upsample,
        seed,
        target_modules,
        ignored_modules,
        overrides,
    )
    run = Recorder()
    request.check()
    check_model(model)
    check_keywords(example_kwargs)
    inputs = as_tuple(example_inputs)
    with steady(model):
        analysis = run("analyse", analyse, model, len(inputs), tuple(example_kwargs or ()))
        inventory = _collect(run, model, analysis, request, inputs, example_kwargs)
        return run("plan", make_plan, model, analysis, inventory, request)


@torch.inference_mode(False)
def compile(
    model: nn.Module,
    budget: str | int | float | None = None,
    *,
    plan: Plan | None = None,
    init: str = "random",
    frontend: str = "auto",
    backend: str = "auto",
    schedule: str = "auto",
    recompute: bool | str = "auto",
    calibrate: Any = None,
    fit_batches: Iterable[Any] | None = None,
    **plan_arguments: Any,
) -> Any:
    """Return a module that computes the same architecture with the budget's parameters.

    Args:
        model: any module; it is not changed, and the result shares nothing with it.
        budget: as for `plan`; give it or ``plan``.
        plan: from `plan` or `Plan.load`, checked against the model.
        init: ``"random"``; ``"copy"``: windows start with the original's weights; or ``"fit"``:
            banks, coefficients and masks are such that the weights they make are nearest to the
            original's (see `fit`). A bank that one layer fills exactly keeps the original's
            weights with all of them.
        frontend: what captures the root's forward: ``"fx"`` (symbolic tracing; a submodule that
            defeats it is called whole), ``"export"`` (torch.export, needs example inputs),
            ``"opaque"`` (nothing does: the original's own forward runs, and every module makes its
            weights when it reads them), or ``"auto"``: the first of these that reproduces outputs
            and gradients of the original on the example inputs. `npas.report` says which, and why.
        backend: what generates weights: ``"auto"`` (Triton kernels on CUDA and ROCm devices,
            PyTorch's operators elsewhere), ``"triton"`` (on the CPU in Triton's interpreter),
            ``"eager"`` (PyTorch's operators), ``"reference"`` (the definitions, which autograd
            differentiates any number of times).
        schedule: ``"layer"``: weights are generated where they are used first; ``"auto"``: that,
            and on GPUs linear layers and pointwise convolutions with few rows of input multiply
            without writing their weight; ``"fused"``: they do so wherever that is possible;
            ``"bank"``: all weights of a bank at once, which holds them all and recomputes none.
        recompute: whether generated weights are made again for the backward pass instead of being
            kept; ``"auto"`` does it wherever autograd allows, but for small ones (see
            `npas.passes.schedule.KEPT_BYTES`).
        calibrate: a batch (a tensor, a tuple of positional or a dict of keyword inputs): gains,
            and signs of weights that are drawn at random, are set once from a forward pass, so that
            activations start at the original's scale.
        fit_batches: with ``init="fit"``, a list of such batches: errors in a weight count by what
            its inputs carry on them.
        **plan_arguments: as for `plan`, when ``budget`` is given; ``example_inputs`` and
            ``example_kwargs`` always.

    Returns:
        A `Shapeshifter`, which is a GraphModule and an instance of the model's class; for a model
        with attributes that a GraphModule has too, a copy that was compiled in place.

    Raises:
        BudgetError: if the budget cannot be met.
        PlanError: if the plan was made for another model.
        TraceError: if the front end that was asked for cannot capture the root's forward.
        NpasError: for arguments that do not fit, or a backend that cannot run here.
    """
    check_choice("frontend", frontend, FRONTENDS)
    how = How(init, backend, schedule, recompute, fit_batches)
    request = check_request(model, budget, plan, plan_arguments, how)
    check_forwards(model)
    taken = reserved_names(model)
    if taken and frontend in ("auto", "opaque"):
        # What fx calls its own the model has too, so that no graph module can be made of it.
        given = {field.name: getattr(how, field.name) for field in fields(how)}
        options = {"plan": plan, "calibrate": calibrate, **given, **plan_arguments}
        made = compile_(clone_all(model), budget, **options)
        state = state_of(made)
        assert state is not None
        note = f"there is no graph: the model has {', '.join(taken)}, as a GraphModule has"
        state.report = replace(state.report, notes=(*state.report.notes, note))
        return made
    if taken:
        raise NpasError(
            f"the model has {', '.join(taken)}, as a GraphModule has; rename what it has, or use "
            "frontend='opaque' or npas.compile_"
        )
    inputs = as_tuple(plan_arguments.get("example_inputs", ()))
    kwargs = plan_arguments.get("example_kwargs")
    weights = dict(model.named_parameters())

    run = Recorder()
    with steady(model):
        importance = _importance(run, model, fit_batches)
        analysis, plan = _plan(run, model, plan, request, inputs, kwargs, importance)
        traced, tried = run("capture", capture, model, analysis, plan, frontend, inputs, kwargs)
    ssn = assemble(
        run,
        model,
        traced,
        plan,
        tried=tried,
        schedule=schedule,
        recompute=recompute,
        backend=backend,
    )
    starts, fit = run("initialise", start_banks, plan, banks_of(ssn), weights, init, importance)
    if traced.front_end == "opaque":
        run("check", check_generation, ssn, inputs, kwargs)
    notes: tuple[str, ...] = ()
    if calibrate is not None:
        measured = _measure(run, model, analysis, plan, calibrate)
        skipped = _correct(run, ssn, plan, measured, calibrate, starts)
        starts, notes = with_gains(starts, banks_of(ssn)), _not_calibrated(skipped)
    ssn._npas.report = replace(
        ssn._npas.report, starts=starts, fit=fit, passes=tuple(run.records), notes=notes
    )
    return ssn


@torch.inference_mode(False)
def compile_(
    model: M,
    budget: str | int | float | None = None,
    *,
    plan: Plan | None = None,
    init: str = "random",
    backend: str = "auto",
    schedule: str = "auto",
    recompute: bool | str = "auto",
    calibrate: Any = None,
    fit_batches: Iterable[Any] | None = None,
    **plan_arguments: Any,
) -> M:
    """Give a module the budget's parameters, in place; it stays an instance of its class.

    There is no graph: the model's own forward runs, with every call that it answers (``generate``,
    caches, any argument), and each module makes its weights when it reads them. Parameters and
    buffers that are not allocated stay the same tensors; make the optimizer afterwards.

    Args:
        model: any module. Its class, and that of the modules whose weights are generated, become
            subclasses of the same name, as with ``torch.nn.utils.parametrize``.
        budget: as for `plan`; give it or ``plan``.
        plan: from `plan` or `Plan.load`, checked against the model.
        init: as for `compile`.
        backend: as for `compile`.
        schedule: as for `compile`.
        recompute: as for `compile`.
        calibrate: as for `compile`.
        fit_batches: as for `compile`.
        **plan_arguments: as for `compile`.

    Returns:
        The model itself. `uncompile_` makes it the plain one again, with its weights of then.

    Raises:
        BudgetError: if the budget cannot be met.
        PlanError: if the plan was made for another model.
        NpasError: for arguments that do not fit, or a backend that cannot run here. The model is
            then what it was.
    """
    how = How(init, backend, schedule, recompute, fit_batches)
    request = check_request(model, budget, plan, plan_arguments, how)
    inputs = as_tuple(plan_arguments.get("example_inputs", ()))
    kwargs = plan_arguments.get("example_kwargs")
    weights = dict(model.named_parameters())

    run = Recorder()
    with steady(model):
        importance = _importance(run, model, fit_batches)
        analysis, plan = _plan(run, model, plan, request, inputs, kwargs, importance)
    banks = run("banks", make_banks, model, analysis, plan, backend, schedule)
    starts, fit = run("initialise", start_banks, plan, banks.banks, weights, init, importance)
    measured = None if calibrate is None else _measure(run, model, analysis, plan, calibrate)
    state = state_in_place(model, plan, banks, schedule, recompute)
    notes: tuple[str, ...] = ()
    with unchanged_on_error(model):
        install(model, banks, state)
        run("check", check_generation, model, inputs, kwargs)
        if measured is not None:
            skipped = _correct(run, model, plan, measured, calibrate, starts)
            starts, notes = with_gains(starts, banks.banks), _not_calibrated(skipped)
        state.report = replace(
            state.report, starts=starts, fit=fit, passes=tuple(run.records), notes=notes
        )
    return model


def fit(
    model: nn.Module,
    budget: str | int | float | None = None,
    *,
    batches: Iterable[Any] | None = None,
    **arguments: Any,
) -> Any:
    """Compile a pretrained model so that its generated weights are nearest to its own.

    Short for ``compile(model, budget, init="fit", fit_batches=batches, ...)``. Banks, coefficients
    and masks minimise the squared error of the generated weights by alternating least squares;
    `report` has the error of every layer and bank. Layers of a trained network have little in
    common, so most of what a budget leaves out is lost: a start for training, rarely a model to
    use as it is (docs/fitting.md has the figures).

    Args:
        model: with its pretrained weights; it is not changed.
        budget: as for `plan`.
        batches: a list of batches as for ``calibrate``, without labels: errors in a weight count
            by what its inputs carry on them.
        **arguments: as for `compile`; try ``groups="fit"``.

    Raises:
        NpasError: besides what `compile` raises, if a weight is NaN or infinite or on the meta
            device, or a batch does not run through the model.
    """
    given = {"init", "fit_batches"} & set(arguments)
    if given:
        raise NpasError(
            f"fit takes no {' or '.join(sorted(given))}: it is init='fit' with batches="
        )
    return compile(model, budget, init="fit", fit_batches=batches, **arguments)


def _measure(
    run: Recorder, model: nn.Module, analysis: Trace, plan: Plan, batch: Any
) -> tuple[Trace | None, dict[str, float]]:
    """Return the graph to calibrate on, if there is one, and what is to be matched."""
    graph = run("calibration graph", calibration_trace, model, analysis, plan, batch)
    if graph is not None:
        return graph, run("measure", measure_graph, model, graph, batch)
    shadow = without_hooks(clone_module(model, shares_tensors(model)))
    return None, run("measure", measure, shadow, plan, batch)


def _correct(
    run: Recorder,
    module: nn.Module,
    plan: Plan,
    measured: tuple[Trace | None, dict[str, float]],
    batch: Any,
    starts: MappingType[str, LayerStart],
) -> tuple[str, ...]:
    graph, spreads = measured
    if graph is not None:
        drawn = [name for name, start in starts.items() if start.start == "generated"]
        return run("calibrate", correct_graph, module, plan, graph, spreads, batch, drawn)
    return run("calibrate", correct, module, spreads, batch)


def _plan(
    run: Recorder,
    model: nn.Module,
    plan: Plan | None,
    request: PlanRequest,
    inputs: tuple[Any, ...],
    kwargs: MappingType[str, Any] | None,
    importance: MappingType[str, torch.Tensor] | None,
) -> tuple[Trace, Plan]:
    analysis = run("analyse", analyse, model, len(inputs), tuple(kwargs or ()))
    if plan is None:
        inventory = _collect(run, model, analysis, request, inputs, kwargs)
        request = _with_scales(request, inventory, dict(model.named_parameters()))
        request = replace(request, importance=importance)
        plan = run("plan", make_plan, model, analysis, inventory, request)
    return analysis, plan


def _importance(
    run: Recorder, model: nn.Module, batches: Iterable[Any] | None
) -> dict[str, torch.Tensor] | None:
    return None if batches is None else run("moments", second_moments, model, batches)


def _not_calibrated(layers: tuple[str, ...]) -> tuple[str, ...]:
    if not layers:
        return ()
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    note = (
        f"calibrate left {', '.join(layers[:5])}{more} alone: a module that is kept whole reads "
        "several generated weights at once"
    )
    warnings.warn(note, NpasWarning, stacklevel=3)
    return (note,)


def _collect(
    run: Recorder,
    model: nn.Module,
    traced: Trace,
    request: PlanRequest,
    example_inputs: Any,
    example_kwargs: MappingType[str, Any] | None,
) -> Inventory:
    return run(
        "collect",
        collect,
        model,
        traced,
        target_modules=request.target_modules,
        ignored_modules=request.ignored_modules,
        example_inputs=as_tuple(example_inputs),
        example_kwargs=example_kwargs,
    )


def _with_scales(
    request: PlanRequest, inventory: Inventory, weights: MappingType[str, torch.Tensor]
) -> PlanRequest:
    """Ask for a learnable scalar where a weight is zero at the start: a gain of 0 never learns."""
    names = (weight.name for weight in inventory.weights)
    return replace(request, zero=frozenset(zero_layers(names, weights)))
