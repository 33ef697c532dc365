"""What differs between two plans, an entry for each layer, bank or parameter, as JSON values."""

from collections.abc import Callable, Sequence
from typing import Any

from npas.html.text import visible
from npas.plan import Plan
from npas.plan_diff import Change

#: Names of a list that are shown of what came and what went.
MOST_NAMES = 6


def changes_data(before: Plan, after: Plan) -> dict[str, Any]:
    """Return what a page shows of the changes from one plan to another.

    ``plan`` has ``[field, before, after]``; ``rows`` has ``[kind, name, state, fields, windows
    before, windows after]`` with state ``added``, ``removed`` or ``changed``, and windows of layers
    alone; ``counts`` how many of each kind are in each state.
    """
    plan_fields: list[list[Any]] = []
    entries: dict[tuple[str, str], list[Any]] = {}
    for change in before.diff(after):
        kind, _, name = change.what.partition(" ")
        if not name and kind == "plan":
            plan_fields.append(_field(change))
            continue
        row = entries.setdefault((kind, name), _row(kind, name, change, before, after))
        row[3].append(_field(change) if change.field else _whole(kind, change))
    rows = list(entries.values())
    counts = {
        kind: {
            state: sum(row[0] == kind and row[2] == state for row in rows)
            for state in ("added", "removed", "changed")
        }
        for kind in ("bank", "layer", "fixed")
    }
    return {
        "plan": plan_fields,
        "counts": counts,
        "rows": rows,
        "before": _sizes(before),
        "after": _sizes(after),
    }


def _row(kind: str, name: str, change: Change, before: Plan, after: Plan) -> list[Any]:
    windows = (
        [_windows(plan, name) for plan in (before, after)] if kind == "layer" else [None, None]
    )
    return [kind, visible(name), _state(change), [], *windows]


def _windows(plan: Plan, name: str) -> dict[str, Any] | None:
    """Return where a layer's windows lie, to be drawn."""
    layer = plan.layer_by_name.get(name)
    if layer is None:
        return None
    found = {field: getattr(layer, field) for field in ("base", "stride", "k", "n")}
    return {"bank": visible(layer.bank), "size": plan.bank_by_name[layer.bank].size, **found}


def _sizes(plan: Plan) -> dict[str, int]:
    parts = {"elements of banks" if name == "banks" else name: n for name, n in plan.params.items()}
    return {
        "budget in parameters": plan.budget_params,
        "trainable parameters": plan.n_params,
        **parts,
        "layers": len(plan.layers),
        "number of banks": len(plan.banks),
    }


def _state(change: Change) -> str:
    if change.field:
        return "changed"
    return "added" if change.before is None else "removed"


def _field(change: Change) -> list[Any]:
    if change.field.startswith("order of "):
        return [change.field, *_order(change.before, change.after)]
    if change.field in ("layers", "aliases"):
        return [change.field, *_names(change.before, change.after)]
    return [change.field, _value(change.before), _value(change.after)]


def _order(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    pairs = enumerate(zip(before, after, strict=True))
    place, names = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    old, new = (f"{visible(name)} at place {place + 1:,}" for name in names)
    return old, new


def _names(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    were, are = set(before), set(after)
    gone = [name for name in before if name not in are]
    come = [name for name in after if name not in were]
    return _list(len(before), gone, "without"), _list(len(after), come, "with")


def _list(n: int, names: Sequence[str], word: str) -> str:
    if not names:
        return f"{n:,}"
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"{n:,}, {word} {', '.join(map(visible, names[:MOST_NAMES]))}{more}"


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    return _shape(value) if isinstance(value, tuple) else value


def _shape(sizes: Sequence[int]) -> str:
    return "\u00d7".join(map(str, sizes))


def _whole(kind: str, change: Change) -> list[Any]:
    say = _WHOLE[kind]
    return [
        "",
        None if change.before is None else say(change.before),
        None if change.after is None else say(change.after),
    ]


_WHOLE: dict[str, Callable[[dict[str, Any]], str]] = {
    "bank": lambda row: f"{row['size']:,} elements, layers: {len(row['layers']):,}",
    "layer": lambda row: visible(f"{row['kind']} {_shape(row['shape'])} in bank {row['bank']}"),
    "fixed": lambda row: visible(f"parameters: {row['n_params']:,}, {row['reason']}"),
}
