"""The mapping: which layer takes its weight from which bank."""

import json
from collections.abc import Iterable, Mapping as MappingType
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npas.errors import PlanError
from npas.naming import is_bank_name

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Mapping:
    """Layer -> bank, as data: readable, diffable, usable for any budget.

    Attributes:
        banks: bank name -> the fully qualified names of its layers, in the model's order.
        source: how it was made, such as ``"by_shape"``.
        reasons: bank name -> why these layers are together.
    """

    banks: MappingType[str, tuple[str, ...]]
    source: str = "mapping"
    reasons: MappingType[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a layer that stands in two banks, and banks without layers."""
        seen: dict[str, str] = {}
        for bank, layers in self.banks.items():
            if not is_bank_name(bank):
                raise PlanError(
                    f"mapping: banks: {bank!r} must be a Python identifier, and neither a "
                    "keyword nor an attribute of nn.ModuleDict such as 'train'"
                )
            if isinstance(layers, str):
                raise PlanError(f"mapping: banks[{bank!r}] must be a list of layer names")
            if not layers:
                raise PlanError(f"mapping: banks[{bank!r}] has no layer")
            for layer in layers:
                if layer in seen:
                    raise PlanError(
                        f"mapping: {layer} is in banks {seen[layer]!r} and {bank!r}; a layer "
                        "takes its weight from one"
                    )
                seen[layer] = bank

    @property
    def bank_of(self) -> dict[str, str]:
        """Layer name -> bank name."""
        return {layer: bank for bank, layers in self.banks.items() for layer in layers}

    def check(self, names: Iterable[str]) -> None:
        """Raise a `PlanError` listing what differs, unless the mapping covers these layers."""
        wanted, have = set(names), set(self.bank_of)
        missing, extra = sorted(wanted - have), sorted(have - wanted)
        if missing or extra:
            raise PlanError(
                "the mapping was made for another model: "
                + "; ".join(
                    f"{label} {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}"
                    for label, found in (("it lacks", missing), ("it has also", extra))
                    if found
                )
            )

    def to_json(self) -> str:
        """Return the mapping as JSON text."""
        data = {
            "npas_mapping": _VERSION,
            "source": self.source,
            "banks": {bank: list(layers) for bank, layers in self.banks.items()},
            "reasons": dict(self.reasons),
        }
        return json.dumps(data, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Mapping":
        """Read a mapping from JSON text.

        Raises:
            PlanError: that names the field, if it is not a mapping.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"mapping: not JSON ({error})") from error
        if not isinstance(data, dict) or not _is_version(data):
            raise PlanError(f"mapping: npas_mapping must be {_VERSION}")
        unknown = set(data) - {"npas_mapping", "source", "banks", "reasons"}
        if unknown:
            raise PlanError(f"mapping: unknown field {sorted(unknown)[0]!r}")
        banks = _strings(data.get("banks"), "banks", lists=True)
        reasons = _strings(data.get("reasons", {}), "reasons", lists=False)
        source = data.get("source")
        if not isinstance(source, str):
            raise PlanError("mapping: source must be a string")
        return Mapping({b: tuple(layers) for b, layers in banks.items()}, source, reasons)

    def save(self, path: str | Path) -> None:
        """Write the mapping to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "Mapping":
        """Read a mapping from a file.

        Raises:
            PlanError: if the file cannot be read or is not a mapping.
        """
        try:
            return Mapping.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"mapping {path}: {error}") from error


def _is_version(data: dict[str, Any]) -> bool:
    found = data.get("npas_mapping")
    return type(found) is int and found == _VERSION


def _strings(value: Any, name: str, *, lists: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"mapping: {name} must be an object")
    for key, item in value.items():
        items = item if lists else [item]
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            kind = "a list of layer names" if lists else "a string"
            raise PlanError(f"mapping: {name}[{key!r}] must be {kind}")
    return value
