"""A mapping as a JSON file: one line a layer, and nothing in it is trusted."""

import json
import math
from dataclasses import fields
from typing import Any

from npas.errors import PlanError
from npas.mapping import Learned, Mapping

_VERSION = 1
# 100,000 layers of 24 numbers are 25 MB.
MOST_BYTES = 64 << 20
_FIELDS = ("npas_mapping", "source", "banks", "reasons", "frozen", "learned")
_HERE = '"representation": {}'


def dump_mapping(mapping: Mapping) -> str:
    """Return the JSON text of a mapping, the same bytes for the same mapping."""
    data: dict[str, Any] = {
        "npas_mapping": _VERSION,
        "source": mapping.source,
        "banks": {bank: list(layers) for bank, layers in mapping.banks.items()},
        "reasons": dict(mapping.reasons),
    }
    if mapping.frozen:
        data["frozen"] = list(mapping.frozen)
    if mapping.learned is None:
        return json.dumps(data, indent=2) + "\n"
    learned = {f.name: getattr(mapping.learned, f.name) for f in fields(Learned)}
    # Last, and a line a layer: what people compare stands before it.
    data["learned"] = learned | {"representation": {}}
    text = json.dumps(data, indent=2, allow_nan=False)
    rows = [
        f"      {json.dumps(layer)}: {json.dumps(list(vector), allow_nan=False)}"
        for layer, vector in mapping.learned.representation.items()
    ]
    head, _, tail = text.rpartition(_HERE)
    return head + '"representation": {\n' + ",\n".join(rows) + "\n    }" + tail + "\n"


def read_mapping(text: str) -> Mapping:
    """Read a mapping from JSON text.

    Raises:
        PlanError: that names the field.
    """
    if len(text) > MOST_BYTES:
        raise PlanError(f"mapping: larger than {MOST_BYTES >> 20} MiB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"mapping: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise PlanError(
            f"mapping: must be a JSON object with npas_mapping, found {type(data).__name__}"
        )
    if "npas_plan" in data:
        raise PlanError("mapping: is a plan, which is compiled as it is: npas.compile(plan=...)")
    version = data.get("npas_mapping")
    if type(version) is not int or version != _VERSION:
        raise PlanError(f"mapping: npas_mapping must be {_VERSION}, found {version!r}")
    _no_others("", data, _FIELDS)
    banks = _strings(data.get("banks"), "banks", lists=True)
    reasons = _strings(data.get("reasons", {}), "reasons", lists=False)
    source, frozen = data.get("source"), data.get("frozen", [])
    if not isinstance(source, str):
        raise PlanError("mapping: source must be a string")
    if not isinstance(frozen, list) or not all(isinstance(bank, str) for bank in frozen):
        raise PlanError("mapping: frozen must be a list of bank names")
    learned = None if data.get("learned") is None else _learned(data["learned"])
    mapping = Mapping(
        {b: tuple(layers) for b, layers in banks.items()}, source, reasons, tuple(frozen), learned
    )
    if learned is not None and set(learned.representation) != set(mapping.bank_of):
        raise PlanError("mapping: learned.representation must have the layers of the banks")
    return mapping


def _learned(data: Any) -> Learned:
    if not isinstance(data, dict):
        raise PlanError("mapping: learned must be an object")
    _no_others("learned.", data, [f.name for f in fields(Learned)])
    if data.get("method") not in ("emb", "wavg"):
        raise PlanError("mapping: learned.method must be 'emb' or 'wavg'")
    for name in ("start", "optimizer"):
        if not isinstance(data.get(name), str):
            raise PlanError(f"mapping: learned.{name} must be a string")
    for name in ("templates", "steps", "seed"):
        if type(data.get(name)) is not int or data[name] < 0:
            raise PlanError(f"mapping: learned.{name} must be a whole number, 0 or more")
    for name in ("inertia", "silhouette", "stability"):
        if data.get(name) is not None and not _is_number(data[name]):
            raise PlanError(f"mapping: learned.{name} must be a finite number or null")
    losses = data.get("losses")
    if losses is not None and not _is_vector(losses, 2):
        raise PlanError("mapping: learned.losses must be two finite numbers or null")
    representation = data.get("representation")
    if not isinstance(representation, dict) or not representation:
        raise PlanError("mapping: learned.representation must be an object with layers")
    first = next(iter(representation.values()))
    width = len(first) if isinstance(first, list) else 0
    for layer, vector in representation.items():
        if not width or not _is_vector(vector, width):
            raise PlanError(
                f"mapping: learned.representation[{layer!r}] must be {width or 'some'} finite "
                "numbers, as many as every layer has"
            )
    return Learned(
        method=data["method"],
        templates=data["templates"],
        start=data["start"],
        steps=data["steps"],
        seed=data["seed"],
        optimizer=data["optimizer"],
        losses=None if losses is None else (losses[0], losses[1]),
        inertia=data.get("inertia"),
        silhouette=data.get("silhouette"),
        stability=data.get("stability"),
        representation={layer: tuple(vector) for layer, vector in representation.items()},
    )


def _no_others(where: str, data: dict[str, Any], known: Any) -> None:
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise PlanError(f"mapping: unknown field {where + unknown[0]!r}")


def _is_number(value: object) -> bool:
    # A whole number may be too large for a float, which isfinite says with an OverflowError.
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)  # type: ignore


def _is_vector(value: object, width: int) -> bool:
    return isinstance(value, list) and len(value) == width and all(map(_is_number, value))


def _strings(value: Any, name: str, *, lists: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"mapping: {name} must be an object")
    for key, item in value.items():
        items = item if lists else [item]
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            kind = "a list of layer names" if lists else "a string"
            raise PlanError(f"mapping: {name}[{key!r}] must be {kind}")
    return value
