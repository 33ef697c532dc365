"""What differs between two plans, field by field."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npas.plan import Plan


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs.

    Attributes:
        what: ``"plan"``, or ``"bank NAME"``, ``"layer NAME"``, ``"fixed NAME"``.
        field: name of the field, or ``""`` where the whole entry is added or gone.
        before: its value, None where it is added.
        after: its value, None where it is gone.
    """

    what: str
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """Return ``what field: before -> after``."""
        if not self.field:
            return f"{self.what}: {'added' if self.before is None else 'gone'}"
        return f"{self.what} {self.field}: {self.before} -> {self.after}"


def plan_changes(before: "Plan", after: "Plan") -> tuple[Change, ...]:
    """Return every field that differs from one plan to another."""
    changes: list[Change] = []
    header = ("budget", "budget_params", "groups", "k", "seed", "n_dense", "n_fixed", "n_params")
    for name in header:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            changes.append(Change("plan", name, old, new))
    for kind in ("banks", "layers", "fixed"):
        label = kind.removesuffix("s")
        order = [tuple(row.name for row in getattr(plan, kind)) for plan in (before, after)]
        if order[0] != order[1] and set(order[0]) == set(order[1]):
            changes.append(Change("plan", f"order of {kind}", *order))
        old_rows = {row.name: asdict(row) for row in getattr(before, kind)}
        new_rows = {row.name: asdict(row) for row in getattr(after, kind)}
        for name in {**old_rows, **new_rows}:
            old, new = old_rows.get(name), new_rows.get(name)
            if old is None or new is None:
                changes.append(Change(f"{label} {name}", "", old, new))
                continue
            changes += [
                Change(f"{label} {name}", field, old[field], new[field])
                for field in old
                if old[field] != new[field]
            ]
    return tuple(changes)
