"""A plan as compact JSON: a column for each field, and each repeated text once."""

import re
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from npas.html.coverage import covered_elements, edges, fewest_and_most, sharers, span
from npas.html.text import visible
from npas.passes.demand import mask_elements
from npas.plan import BankPlan, LayerPlan, Plan
from npas.plan_rows import common_name, rows

#: Parts of a bank whose use is shown.
BINS = 80
# Numbers of a row's name that are shown of more than these.
_MOST_NUMBERS = 6
_LONG_LIST = re.compile(r"\{[^{}]*\}")
_COSTS = ("elements", "coefficients", "embeddings", "projection", "masks", "scales")


class Texts:
    """Texts that stand many times, each by its number."""

    def __init__(self) -> None:
        """Start with none."""
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """Return the number of a text."""
        return self._numbers.setdefault(visible(text), len(self._numbers))

    @property
    def all(self) -> list[str]:
        """In the order of their numbers."""
        return list(self._numbers)


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return what a page shows of a plan, as JSON values.

    Columns of ``banks``, ``layers`` and ``fixed`` run in the plan's order. ``rows`` are the layers
    of repeated blocks that are alike (`npas.plan_rows`), by number. ``cover`` has, for each part of
    a bank, how many layers use one of its elements on average; None where one layer uses all.
    """
    texts = Texts()
    banks, shares = _banks(plan, texts)
    return {
        "head": _head(plan, sum(banks["generation"])),
        "banks": banks,
        "layers": _layers(plan, shares, texts),
        "aliases": {
            i: [visible(name) for name in layer.aliases]
            for i, layer in enumerate(plan.layers)
            if layer.aliases
        },
        "rows": _rows(plan),
        "fixed": {
            "name": [visible(fixed.name) for fixed in plan.fixed],
            "n": [fixed.n_params for fixed in plan.fixed],
            "trainable": [int(fixed.trainable) for fixed in plan.fixed],
            "reason": [texts(fixed.reason) for fixed in plan.fixed],
        },
        "texts": texts.all,
    }


def _head(plan: Plan, generation_macs: int) -> dict[str, Any]:
    return {
        "budget": visible(plan.budget),
        "budget_params": plan.budget_params,
        "groups": visible(plan.groups),
        "k": plan.k,
        "seed": plan.seed,
        "n_dense": plan.n_dense,
        "n_fixed": plan.n_fixed,
        "n_params": plan.n_params,
        "n_macs": plan.n_macs,
        "generation_macs": generation_macs,
    }


def _banks(plan: Plan, texts: Texts) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Return the columns of the banks, and for each layer how many others use its elements."""
    table: dict[str, list[Any]] = {}
    shares: dict[str, int] = {}
    for bank in plan.banks:
        layers = plan.layers_of(bank.name)
        spans = [span(layer, bank.size) for layer in layers]
        shares |= zip(bank.layers, sharers(spans), strict=True)
        row = _bank(plan, bank, layers, texts)
        row["least"], row["most"] = fewest_and_most(spans, bank.size)
        row["cover"] = _cover(spans, bank.size)
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    return table, shares


def _bank(
    plan: Plan, bank: BankPlan, layers: tuple[LayerPlan, ...], texts: Texts
) -> dict[str, Any]:
    ordinary = plan.is_ordinary(bank.name)
    macs = [layer.macs for layer in layers if layer.macs is not None]
    cost = asdict(plan.costs[bank.name])
    return {
        "name": visible(bank.name),
        "size": bank.size,
        "dtype": texts(bank.dtype),
        "reason": texts(bank.reason),
        "layers": len(layers),
        "ordinary": int(ordinary),
        "generated": sum(layer.n for layer in layers),
        "macs": sum(macs) if len(macs) == len(layers) else None,
        "generation": 0 if ordinary else sum(layer.n * max(1, layer.k) for layer in layers),
        **{name: cost[name] for name in _COSTS},
        "total": plan.costs[bank.name].total,
    }


def _cover(spans: list[tuple[int, int]], n_bank: int) -> list[float] | None:
    if len(spans) == 1:
        return None
    bounds = edges(n_bank, BINS)
    sizes = [end - start for start, end in pairwise(bounds)]
    found = zip(covered_elements(spans, bounds), sizes, strict=True)
    return [_short(used / size) for used, size in found]


def _short(value: float) -> float:
    """Return two digits after the point, and none where they are zero."""
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def _layers(plan: Plan, shares: dict[str, int], texts: Texts) -> dict[str, list[Any]]:
    numbers = {bank.name: i for i, bank in enumerate(plan.banks)}
    sizes = [bank.size for bank in plan.banks]
    table: dict[str, list[Any]] = {}
    for layer in plan.layers:
        bank = numbers[layer.bank]
        row = {
            "name": visible(layer.name),
            "kind": texts(layer.kind),
            "shape": texts("\u00d7".join(map(str, layer.shape))),
            "n": layer.n,
            "dtype": texts(layer.dtype),
            "uses": layer.uses,
            "macs": layer.macs,
            "padding": layer.padding_idx,
            "bank": bank,
            "down": texts(layer.downsample),
            "up": texts(layer.upsample),
            "scale": int(layer.scale),
            "base": layer.base,
            "stride": layer.stride,
            "k": layer.k,
            "masks": _masks(layer, sizes[bank]),
            "shares": shares[layer.name],
        }
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    return table


def _masks(layer: LayerPlan, n_bank: int) -> int:
    """Return how many elements of the bank's masks a layer reads."""
    return mask_elements(layer.n, n_bank) if layer.k == 0 and layer.upsample == "mask" else 0


def _rows(plan: Plan) -> list[Any]:
    """Return ``[common name, [layers]]`` for each row of layers that are alike."""
    numbers = {layer.name: i for i, layer in enumerate(plan.layers)}
    return [
        [
            visible(_shorter(common_name([layer.name for layer in layers]))),
            [numbers[layer.name] for layer in layers],
        ]
        for layers in rows(plan)
        if len(layers) > 1
    ]


def _shorter(name: str) -> str:
    """Return ``layers.{0,5,10, … ,95}.weight`` for a name that lists more numbers than help."""

    def shorter(found: re.Match[str]) -> str:
        numbers = found[0][1:-1].split(",")
        if len(numbers) <= _MOST_NUMBERS:
            return found[0]
        return f"{{{','.join(numbers[: _MOST_NUMBERS // 2])}, … ,{numbers[-1]}}}"

    return _LONG_LIST.sub(shorter, name)
