"""The layers of a plan by row of its table: layers of repeated blocks that are alike are one."""

import re
from collections.abc import Iterable, Sequence

from npas.plan import LayerPlan, Plan

#: Plans of at most so many layers have a row for each.
MOST_ROWS = 64
_NUMBERS = re.compile(r"(?<![^.])\d+(?![^.])")


def rows(plan: Plan, most: int = MOST_ROWS) -> list[tuple[LayerPlan, ...]]:
    """Return the layers of each row, in the order of their first one.

    Layers are in one row if their names differ in numbers alone, and if they have the same kind,
    shape, bank, way of being made and multiply-accumulates; banks of a single layer count as the
    same where they have one size. Where windows lie may differ.

    Args:
        plan: of any size.
        most: a plan of more layers than this is compressed.
    """
    if len(plan.layers) <= most:
        return [(layer,) for layer in plan.layers]
    found: dict[tuple[object, ...], list[LayerPlan]] = {}
    banks = {b.name: b.size if len(b.layers) == 1 else b.name for b in plan.banks}
    for layer in plan.layers:
        names = tuple(_NUMBERS.sub("{}", name) for name in (layer.name, *layer.aliases))
        made = (banks[layer.bank], layer.mode, layer.macs)
        key = (names, layer.kind, layer.shape, layer.dtype, *made)
        found.setdefault(key, []).append(layer)
    return [tuple(layers) for layers in found.values()]


def common_name(names: Sequence[str]) -> str:
    """Return one name for names that differ in numbers alone: ``layers.{0-2,5}.weight``."""
    parts = [name.split(".") for name in names]
    return ".".join(
        place[0] if len(set(place)) == 1 else "{" + _ranges(map(int, place)) + "}"
        for place in zip(*parts, strict=True)
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Return ``"0-2,5"`` for 0, 1, 2, 5 in any order."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
