"""Plan <-> JSON. Reading trusts nothing: types, bounds, windows, coverage and totals."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from npas.errors import PlanError
from npas.naming import is_bank_name
from npas.passes.collect import Fixed
from npas.passes.demand import covered
from npas.plan import DOWNSAMPLE, UPSAMPLE, BankPlan, LayerPlan, Plan

VERSION = 1
#: Bytes of the largest file that is read: 100 times that of a model of 405B parameters.
MOST_PLAN_BYTES = 64 * 2**20
#: Name of the plan in a folder that `npas.save` wrote.
PLAN = "plan.json"
T = TypeVar("T")
# Counts above this cannot be elements of one tensor, and would overflow int64 address arithmetic.
_MOST = 2**53
_HEADER = ("budget", "budget_params", "groups", "k", "seed", "n_dense")
_TOTALS = ("n_fixed", "n_params")


def dump_plan(plan: Plan) -> str:
    """Return a plan as JSON text: what was decided, and what it costs."""
    data: dict[str, Any] = {"npas_plan": VERSION}
    data |= {name: getattr(plan, name) for name in (*_HEADER, *_TOTALS)}
    data["banks"] = [asdict(bank) | {"cost": asdict(plan.costs[bank.name])} for bank in plan.banks]
    data["layers"] = [asdict(layer) for layer in plan.layers]
    data["fixed"] = [asdict(fixed) for fixed in plan.fixed]
    return json.dumps(data, indent=1) + "\n"


def plan_file(path: Path) -> Path:
    """Return a plan's file: the path, or what is in it where it is a folder that `npas.save` wrote.

    Raises:
        PlanError: for a folder without a plan.
    """
    if not path.is_dir():
        return path
    if not (path / PLAN).is_file():
        raise PlanError(
            f"plan {path}: a folder without {PLAN}; give a plan (npas plan ... --out FILE) or a "
            "folder that npas.save wrote"
        )
    return path / PLAN


def read_file(path: Path) -> str:
    """Return the text of a plan's file.

    Raises:
        FileNotFoundError: if there is none.
        PlanError: if it cannot be read, or is larger than `MOST_PLAN_BYTES`.
    """
    try:
        with path.open("rb") as file:
            found = file.read(MOST_PLAN_BYTES + 1)
        if len(found) > MOST_PLAN_BYTES:
            raise PlanError(f"larger than any plan, {MOST_PLAN_BYTES:,} bytes")
        return found.decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"cannot be read ({error})") from error


def read_plan(text: str) -> Plan:
    """Read a plan from JSON text.

    Raises:
        PlanError: that names the first field that is wrong, what it holds and what it must hold.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise PlanError("plan: must be a JSON object")
    if "npas_mapping" in data:
        raise PlanError("plan: is a mapping; plan with it: npas plan MODEL --groups FILE")
    data.pop("saved", None)  # where `npas.save` names the tensors
    if not _same(data.get("npas_plan"), VERSION):
        raise PlanError(
            f"npas_plan: {data.get('npas_plan')!r} found, {VERSION} required; plan again with this "
            "version of npas"
        )
    names = ("npas_plan", *_HEADER, *_TOTALS, "banks", "layers", "fixed")
    _check_fields(data, "plan", names)
    plan = Plan(
        budget=_text(data["budget"], "budget"),
        budget_params=_count(data["budget_params"], "budget_params", low=1),
        groups=_text(data["groups"], "groups"),
        k=_count(data["k"], "k", low=1),
        seed=_integer(data["seed"], "seed", -_MOST),
        n_dense=_count(data["n_dense"], "n_dense", low=1),
        banks=_rows(data["banks"], "banks", _bank),
        layers=_rows(data["layers"], "layers", _layer),
        fixed=_rows(data["fixed"], "fixed", _fixed),
    )
    _check_names(plan)
    _check_layers(plan)
    _check_banks(plan)
    for i, bank in enumerate(plan.banks):
        _check_equal(data["banks"][i]["cost"], asdict(plan.costs[bank.name]), f"banks[{i}].cost")
    for name in _TOTALS:
        _check_equal(data[name], getattr(plan, name), name)
    dense = plan.n_fixed + sum(layer.n for layer in plan.layers)
    _check_equal(plan.n_dense, dense, "n_dense")
    if plan.n_params > plan.budget_params:
        raise PlanError(
            f"n_params: {plan.n_params:,} trainable parameters are above budget_params "
            f"{plan.budget_params:,}"
        )
    return plan


def _bank(row: dict[str, Any], path: str) -> BankPlan:
    _check_fields(row, path, (*(f.name for f in fields(BankPlan)), "cost"))
    name = _text(row["name"], f"{path}.name")
    if not is_bank_name(name):
        raise PlanError(f"{path}.name: {name!r} must be a Python identifier")
    return BankPlan(
        name,
        _count(row["size"], f"{path}.size", low=1),
        _dtype(row["dtype"], f"{path}.dtype"),
        _texts(row["layers"], f"{path}.layers"),
        _text(row["reason"], f"{path}.reason"),
    )


def _layer(row: dict[str, Any], path: str) -> LayerPlan:
    _check_fields(row, path, [f.name for f in fields(LayerPlan)])
    shape = row["shape"]
    if not isinstance(shape, list) or not 1 <= len(shape) <= 16:
        raise PlanError(f"{path}.shape: must be a list of 1 to 16 sizes")
    layer = LayerPlan(
        name=_text(row["name"], f"{path}.name"),
        aliases=_texts(row["aliases"], f"{path}.aliases"),
        kind=_text(row["kind"], f"{path}.kind"),
        shape=tuple(_count(size, f"{path}.shape[{i}]", low=1) for i, size in enumerate(shape)),
        dtype=_dtype(row["dtype"], f"{path}.dtype"),
        uses=_count(row["uses"], f"{path}.uses", low=1),
        macs=None if row["macs"] is None else _count(row["macs"], f"{path}.macs"),
        padding_idx=(
            None
            if row["padding_idx"] is None
            else _count(row["padding_idx"], f"{path}.padding_idx")
        ),
        bank=_text(row["bank"], f"{path}.bank"),
        downsample=_choice(row["downsample"], f"{path}.downsample", DOWNSAMPLE),
        upsample=_choice(row["upsample"], f"{path}.upsample", UPSAMPLE),
        scale=_flag(row["scale"], f"{path}.scale"),
        base=_count(row["base"], f"{path}.base"),
        stride=_count(row["stride"], f"{path}.stride"),
        k=_count(row["k"], f"{path}.k"),
    )
    if layer.n > _MOST:
        raise PlanError(f"{path}.shape: {layer.n:,} elements are more than a tensor can have")
    if layer.padding_idx is not None and layer.padding_idx >= layer.shape[0]:
        raise PlanError(f"{path}.padding_idx: must be below {layer.shape[0]}, the rows")
    return layer


def _fixed(row: dict[str, Any], path: str) -> Fixed:
    _check_fields(row, path, [f.name for f in fields(Fixed)])
    return Fixed(
        _text(row["name"], f"{path}.name"),
        _count(row["n_params"], f"{path}.n_params"),
        _flag(row["trainable"], f"{path}.trainable"),
        _text(row["reason"], f"{path}.reason"),
    )


def _check_names(plan: Plan) -> None:
    seen: dict[str, str] = {}
    rows = [(f"layers[{i}]", (x.name, *x.aliases)) for i, x in enumerate(plan.layers)]
    rows += [(f"fixed[{i}]", (x.name,)) for i, x in enumerate(plan.fixed)]
    for path, names in rows:
        for name in names:
            if name in seen:
                raise PlanError(f"{path}.name: {name!r} stands in {seen[name]} already")
            seen[name] = path
    if len(plan.bank_by_name) != len(plan.banks):
        raise PlanError("banks: two banks have one name")
    if not plan.layers:
        raise PlanError("layers: must not be empty")
    for i, bank in enumerate(plan.banks):
        members = tuple(layer.name for layer in plan.layers if layer.bank == bank.name)
        if bank.layers != members or not members:
            raise PlanError(
                f"banks[{i}].layers: must be the layers whose bank is {bank.name!r}, in order"
            )
    for i, layer in enumerate(plan.layers):
        if layer.bank not in plan.bank_by_name:
            raise PlanError(f"layers[{i}].bank: there is no bank {layer.bank!r}")


def _check_layers(plan: Plan) -> None:
    for i, layer in enumerate(plan.layers):
        path, bank = f"layers[{i}]", plan.bank_by_name[layer.bank]
        if layer.dtype != bank.dtype:
            raise PlanError(f"{path}.dtype: {layer.dtype} in a bank of {bank.dtype}")
        if layer.k == 0 and (layer.n <= bank.size or layer.base or layer.stride):
            raise PlanError(
                f"{path}.k: 0 means upsampled from the whole bank, so base and stride must be 0 "
                f"and the weight ({layer.n:,}) larger than the bank ({bank.size:,})"
            )
        if layer.k > plan.k:
            raise PlanError(f"{path}.k: {layer.k} templates, at most k = {plan.k} allowed")
        if layer.k == 1 and layer.stride:
            raise PlanError(f"{path}.stride: must be 0 where k is 1")
        if layer.k >= 2 and layer.stride < 1:
            raise PlanError(f"{path}.stride: must be at least 1 where k is {layer.k}")
        end = layer.base + max(0, layer.k - 1) * layer.stride + layer.n
        if layer.k and end > bank.size:
            raise PlanError(
                f"{path}.base: its windows end at {end:,}, past bank {bank.name} of {bank.size:,}"
            )


def _check_banks(plan: Plan) -> None:
    for i, bank in enumerate(plan.banks):
        layers = plan.layers_of(bank.name)
        if not covered([x.block for x in layers], [x.n for x in layers], bank.size):
            raise PlanError(f"banks[{i}].size: no layer's window covers some of its elements")


def _check_equal(found: object, derived: object, path: str) -> None:
    if not _same(found, derived):
        raise PlanError(f"{path}: {found!r} found, but the rest of the plan makes it {derived!r}")


def _same(found: object, derived: object) -> bool:
    """Compare as JSON: 1, 1.0 and true are three values."""
    if isinstance(found, dict) and isinstance(derived, dict):
        return found.keys() == derived.keys() and all(_same(found[k], derived[k]) for k in found)
    return type(found) is type(derived) and found == derived


def _check_fields(row: dict[str, Any], path: str, names: Any) -> None:
    for name in names:
        if name not in row:
            raise PlanError(f"{path}: the field {name!r} is missing")
    unknown = [name for name in row if name not in names]
    if unknown:
        raise PlanError(f"{path}: unknown field {unknown[0]!r}")


def _rows(value: Any, path: str, read: Callable[[dict[str, Any], str], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise PlanError(f"{path}: must be a list")
    for i, row in enumerate(value):
        if not isinstance(row, dict):
            raise PlanError(f"{path}[{i}]: must be an object")
    return tuple(read(row, f"{path}[{i}]") for i, row in enumerate(value))


def _integer(value: Any, path: str, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MOST:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
        raise PlanError(f"{path}: {shown} must be a whole number from {low} to 2**53")
    return value


def _count(value: Any, path: str, low: int = 0) -> int:
    return _integer(value, path, low)


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{path}: {value!r} must be true or false")
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{path}: {value!r} must be a string")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise PlanError(f"{path}: {value!r} has half a surrogate pair")
    return value


def _texts(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise PlanError(f"{path}: must be a list of names")
    return tuple(_text(item, f"{path}[{i}]") for i, item in enumerate(value))


def _choice(value: Any, path: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise PlanError(f"{path}: {value!r} must be one of {', '.join(choices)}")
    return value


def _dtype(value: Any, path: str) -> str:
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise PlanError(f"{path}: {value!r} must be a floating-point dtype such as 'float32'")
    return value
