"""From an inventory to a Plan: map, allocate, lay out."""

from collections.abc import Iterable, Mapping as MappingType
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from npas.budget import Budget, parse_budget
from npas.errors import BudgetError, NpasError, PlanError
from npas.fitting.groups import NOTHING, read_weights, sizes_kept
from npas.mapping import Mapping
from npas.naming import check_choice, identifier, nearest, select
from npas.passes.allocate import allocate_around, choose_k, largest, smallest
from npas.passes.blocks import op_graph
from npas.passes.collect import Inventory, WeightOp
from npas.passes.demand import Demand
from npas.passes.mapping import SOFT, WHOLE, Groups, MapRequest, map_layers
from npas.passes.templates import allocate_templates, largest_templates, one_template
from npas.passes.trace import Trace
from npas.plan import DOWNSAMPLE, UPSAMPLE, BankPlan, LayerPlan, Plan

_OVERRIDES = ("bank", "k", "downsample", "upsample", "scale")
# A plan that uses less than this of its budget is refused: the model cannot use it.
_USABLE = 0.999
K_DEFAULT = 4
# Strategies that choose the number of banks.
_FREE_GROUPS = ("auto", "random")


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What `npas.plan` was asked for; see there."""

    budget: Any
    groups: Groups = "auto"
    n_banks: int | None = None
    k: int | None = None
    downsample: str = "wavg"
    upsample: str = "mask"
    seed: int = 0
    target_modules: Iterable[str] | None = None
    ignored_modules: Iterable[str] | None = None
    overrides: MappingType[str, MappingType[str, Any]] | None = None
    zero: frozenset[str] = frozenset()
    """Names of weights that are zero at the start, which `npas.compile` knows."""
    importance: MappingType[str, torch.Tensor] | None = None
    """What the elements of weights count, which `npas.compile` knows where it fits them."""

    def check(self) -> Budget:
        """Check what can be checked without the model, and return the parsed budget."""
        check_choice("downsample", self.downsample, DOWNSAMPLE)
        check_choice("upsample", self.upsample, UPSAMPLE)
        _check_k("k", self.k)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise NpasError(f"seed={self.seed!r} must be a whole number")
        if not 0 <= self.seed < 2**32:
            raise NpasError(f"seed={self.seed!r} must be from 0 to 2**32 - 1")
        if not isinstance(self.overrides, MappingType | None):
            raise NpasError("overrides must be a dict of pattern -> options")
        for pattern, options in (self.overrides or {}).items():
            _check_override(pattern, options)
        for argument in ("target_modules", "ignored_modules"):
            if not isinstance(getattr(self, argument), Iterable | None):
                raise NpasError(
                    f"{argument}={getattr(self, argument)!r} must be a list of patterns"
                )
        return parse_budget(self.budget)


def make_plan(model: nn.Module, trace: Trace, inventory: Inventory, request: PlanRequest) -> Plan:
    """Decide the whole plan for a model's inventory.

    Raises:
        BudgetError: if the budget cannot be met, with the smallest or the largest usable one.
        NpasError: for arguments that do not fit the model.
    """
    budget = request.check()
    weights = inventory.weights
    asked, share = resolve(budget, inventory)
    graph = op_graph(trace.graphs[True], model, weights)
    overrides = _overrides_by_name(request, weights)
    evidence = NOTHING
    if request.groups == "fit":
        evidence = read_weights(model, weights, request.importance)

    def mapped(n_banks: int | None) -> tuple[Mapping, list[Demand]]:
        wanted = MapRequest(weights, graph, n_banks, share, request.seed, evidence)
        found = _move_layers(map_layers(request.groups, wanted), overrides, weights)
        return found, _demands(request, weights, found, overrides, K_DEFAULT)

    mapping, demands = mapped(request.n_banks)
    if asked is None:
        sizes = {w.name: w.n for w in weights}
        asked = inventory.n_fixed + sum(
            max(sizes[name] for name in names) for names in mapping.banks.values()
        )
    available = asked - inventory.n_fixed
    free = request.groups in _FREE_GROUPS and request.n_banks is None and not budget.largest
    if free and available < smallest(demands):
        # Each bank has a smallest size of its own, so one bank is what fits if anything does.
        mapping, demands = mapped(1)
    _check_smallest(budget, asked, inventory, smallest(demands))
    k = request.k or choose_k(demands, available)
    demands = _demands(request, weights, mapping, overrides, k)
    whole = _whole_demands(request, weights, mapping, overrides, k, available)
    most = max(largest(demands), 0 if whole is None else largest_templates(whole))
    if most < available * _USABLE:
        raise BudgetError(
            f"budget {budget.text} is {asked:,} parameters, but with k={k} templates a layer and "
            f"this mapping the model can use at most {most + inventory.n_fixed:,}; lower budget, "
            + ("use another downsample: rr takes one" if request.downsample == "rr" else "raise k"),
            largest=most + inventory.n_fixed,
        )
    # Demands stand in the model's order; allocate returns each bank's blocks in that order.
    allocation = None
    if whole is not None:
        allocation = allocate_templates(whole, available)
        demands = demands if allocation is None else whole
    if allocation is None:
        kept = sizes_kept(mapping, {w.name: w.n for w in weights})
        allocation = allocate_around(demands, available, kept)
    bank_of = mapping.bank_of
    blocks = {bank: iter(allocation[i].blocks) for i, bank in enumerate(mapping.banks)}
    layers: list[LayerPlan] = []
    for weight, demand in zip(weights, demands, strict=True):
        block = next(blocks[bank_of[weight.name]])
        layers.append(
            LayerPlan(
                name=weight.name,
                aliases=weight.aliases,
                kind=weight.kind,
                shape=weight.shape,
                dtype=weight.dtype,
                uses=weight.uses,
                macs=weight.macs,
                padding_idx=weight.padding_idx,
                bank=bank_of[weight.name],
                downsample=demand.downsample,
                upsample=demand.upsample,
                scale=demand.scale,
                base=block.base,
                stride=block.stride,
                k=block.k,
            )
        )
    dtypes = {w.name: w.dtype for w in weights}
    banks = tuple(
        BankPlan(bank, allocation[i].size, dtypes[names[0]], names, mapping.reasons.get(bank, ""))
        for i, (bank, names) in enumerate(mapping.banks.items())
    )
    plan = Plan(
        budget=budget.text,
        budget_params=asked,
        groups=mapping.source,
        k=max(demand.k for demand in demands),
        seed=request.seed,
        n_dense=inventory.n_dense,
        banks=banks,
        layers=tuple(layers),
        fixed=inventory.fixed,
    )
    assert plan.n_params <= asked, "the allocator spent more than it was given"
    return plan


def _whole_demands(
    request: PlanRequest,
    weights: tuple[WeightOp, ...],
    mapping: Mapping,
    overrides: MappingType[str, dict[str, Any]],
    k: int,
    available: int,
) -> list[Demand] | None:
    """Return the demands of a grouping whose banks hold whole templates, None for the others."""
    if mapping.source not in WHOLE:
        return None
    shared = [names for names in mapping.banks.values() if len(names) > 1]
    k = request.k or max([k, *map(len, shared)])
    if mapping.source == SOFT and request.downsample in ("wavg", "emb"):
        # A layer with a single template has its coefficient too, if there is room for it.
        scaled = replace(request, zero=request.zero.union(*shared))
        soft = _demands(scaled, weights, mapping, overrides, k)
        if one_template(soft) <= available:
            return soft
    return _demands(request, weights, mapping, overrides, k)


def resolve(budget: Budget, inventory: Inventory) -> tuple[int | None, float | None]:
    """Return a budget in parameters, and what is left for banks over elements of all weights.

    Both are None where they follow from the mapping (``"largest"``).
    """
    itemsize = max(getattr(torch, w.dtype).itemsize for w in inventory.weights)
    # Less than one parameter is refused later, with the smallest usable budget.
    asked = budget.resolve(inventory.n_dense, itemsize, least=0)
    if asked is None:
        return None, None
    n_weights = sum(w.n for w in inventory.weights)
    return asked, max(0, asked - inventory.n_fixed) / n_weights


def check_fits(plan: Plan, model: nn.Module) -> None:
    """Raise a `PlanError` listing names, shapes and dtypes that differ, if any do."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in model.named_parameters()}
    wrong: list[str] = []
    planned: set[str] = set()
    allocated = {layer.name for layer in plan.layers}
    for layer in plan.layers:
        for name in (layer.name, *layer.aliases):
            planned.add(name)
            parameter = parameters.get(name)
            dtype = "" if parameter is None else str(parameter.dtype).removeprefix("torch.")
            if parameter is None:
                wrong.append(f"{name} is not in the model{nearest(name, parameters)}")
            elif tuple(parameter.shape) != layer.shape:
                wrong.append(f"{name} is {tuple(parameter.shape)}, planned {layer.shape}")
            elif dtype != layer.dtype:
                wrong.append(f"{name} is {dtype}, planned {layer.dtype}")
            elif not parameter.requires_grad:
                wrong.append(f"{name} is frozen, planned trainable")
            elif first[id(parameter)] != layer.name:
                wrong.append(f"{name} is tied to {first[id(parameter)]}, planned {layer.name}")
    for fixed in plan.fixed:
        planned.add(fixed.name)
        parameter = parameters.get(fixed.name)
        if parameter is None or parameter.numel() != fixed.n_params:
            wrong.append(f"{fixed.name} is not in the model with {fixed.n_params} elements")
        elif parameter.requires_grad != fixed.trainable:
            state = "trainable" if parameter.requires_grad else "frozen"
            wrong.append(f"{fixed.name} is {state}, planned otherwise")
    extra = [n for n, p in parameters.items() if n not in planned and first[id(p)] in allocated]
    extra += [name for name in first.values() if name not in planned]
    wrong += [f"{name} is not in the plan" for name in extra]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise PlanError(
            f"the plan was made for another model than this {type(model).__name__}: "
            + "; ".join(wrong[:8])
            + more
            + ". Plan again with npas.plan(model, ...)"
        )


def _check_k(argument: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise NpasError(f"{argument}={value!r} must be a whole number of templates, at least 1")


def _check_override(pattern: str, options: object) -> None:
    where = f"overrides[{pattern!r}]"
    if not isinstance(options, dict):
        raise NpasError(f"{where} must be a dict with some of {', '.join(_OVERRIDES)}")
    for name, value in options.items():
        match name:
            case "downsample":
                check_choice(f"{where}: downsample", value, DOWNSAMPLE)
            case "upsample":
                check_choice(f"{where}: upsample", value, UPSAMPLE)
            case "k":
                if value is None:
                    raise NpasError(f"{where}: k=None must be a whole number of templates")
                _check_k(f"{where}: k", value)
            case "bank":
                if not isinstance(value, str) or not value:
                    raise NpasError(f"{where}: bank={value!r} must be a name")
            case "scale":
                if not isinstance(value, bool):
                    raise NpasError(f"{where}: scale={value!r} must be True or False")
            case _:
                raise NpasError(
                    f"{where}: unknown option {name!r}{nearest(str(name), _OVERRIDES)}; use some "
                    f"of {', '.join(_OVERRIDES)}"
                )


def _overrides_by_name(
    request: PlanRequest, weights: tuple[WeightOp, ...]
) -> dict[str, dict[str, Any]]:
    """Return layer -> options; of several patterns that match, later ones win."""
    names = [w.name for w in weights]
    found: dict[str, dict[str, Any]] = {}
    for pattern, options in (request.overrides or {}).items():
        for name in select([pattern], names, argument="overrides"):
            found.setdefault(name, {}).update(options)
    return found


def _move_layers(
    mapping: Mapping, overrides: MappingType[str, dict[str, Any]], weights: tuple[WeightOp, ...]
) -> Mapping:
    moved = {n: identifier(o["bank"]) for n, o in overrides.items() if o.get("bank")}
    if not moved:
        return mapping
    bank_of = {**mapping.bank_of, **moved}
    banks: dict[str, list[str]] = {}
    for weight in weights:
        banks.setdefault(bank_of[weight.name], []).append(weight.name)
    dtypes = {w.name: w.dtype for w in weights}
    for bank, names in banks.items():
        if len({dtypes[name] for name in names}) > 1:
            raise NpasError(f"overrides: bank {bank!r} would hold layers of several dtypes")
    reasons = {bank: mapping.reasons.get(bank, "put together by overrides") for bank in banks}
    return Mapping({b: tuple(names) for b, names in banks.items()}, mapping.source, reasons)


def _demands(
    request: PlanRequest,
    weights: tuple[WeightOp, ...],
    mapping: Mapping,
    overrides: MappingType[str, dict[str, Any]],
    k: int,
) -> list[Demand]:
    index = {bank: i for i, bank in enumerate(mapping.banks)}
    bank_of = mapping.bank_of
    demands: list[Demand] = []
    for weight in weights:
        demand = Demand(
            n=weight.n,
            bank=index[bank_of[weight.name]],
            downsample=request.downsample,
            upsample=request.upsample,
            k=k,
            scale=weight.name in request.zero,
        )
        options = {key: v for key, v in overrides.get(weight.name, {}).items() if key != "bank"}
        demands.append(replace(demand, **options))
    return demands


def _check_smallest(budget: Budget, asked: int, inventory: Inventory, least: int) -> None:
    available = asked - inventory.n_fixed
    if available >= least:
        return
    total = least + inventory.n_fixed
    raise BudgetError(
        f"budget {budget.text} is {asked:,} parameters, but the smallest usable one is {total:,} "
        f"({total / inventory.n_dense:.2%} of the model): {inventory.n_fixed:,} that are kept as "
        f"they are (biases, norms, what is not allocated) and {least:,} for the banks; raise "
        "budget, or use fewer banks or an upsample mode without masks where that is possible",
        smallest=total,
    )
