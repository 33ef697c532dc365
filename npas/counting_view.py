"""What a plan costs, for people and for programs."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rich.table import Table
from rich.text import Text

from npas.counting import MODES, Count


def count_table(count: Count, batches: Sequence[int]) -> Table:
    """Return parameters by kind, and multiply-accumulates of one sample at each batch size."""
    plan = count.plan
    table = Table(
        title=Text(f"{plan.n_params:,} trainable parameters of {plan.budget_params:,} asked"),
        title_justify="left",
        caption_justify="left",
        caption=Text(_caption(count)),
    )
    table.add_column("parameters", overflow="fold")
    table.add_column("count", justify="right")
    parts = {name: n for name, n in plan.params.items() if n}
    for name, n in {**parts, "in all": plan.n_params, "original": plan.n_dense}.items():
        table.add_row(name, f"{n:,}")
    table.add_section()
    table.add_row(Text("multiply-accumulates of one sample", style="bold"), "")
    if count.macs is not None:
        table.add_row("network", f"{count.macs:,}")
    for row in _rows(count, batches):
        share = "" if row["overhead"] is None else f" ({row['overhead']:.3%})"
        name = f"generation, {row['mode']}, batch {row['batch']}"
        table.add_row(name, f"{row['generation_macs']:,}{share}")
    return table


def count_json(count: Count, batches: Sequence[int]) -> dict[str, Any]:
    """Return the same as JSON values; a share is a fraction of one."""
    plan = count.plan
    return {
        "budget": plan.budget,
        "budget_params": plan.budget_params,
        "n_params": plan.n_params,
        "n_dense": plan.n_dense,
        "params": dict(plan.params),
        "macs": count.macs,
        "formula_macs": count.formula,
        "rows": _rows(count, batches),
    }


def _rows(count: Count, batches: Sequence[int]) -> list[dict[str, Any]]:
    found = []
    for mode in MODES:
        for batch in batches:
            made = count.generation(batch, mode)
            found.append(
                {
                    "mode": mode,
                    "batch": batch,
                    "generation_macs": number(made),
                    "total_macs": None if count.macs is None else number(count.macs + made),
                    "overhead": count.overhead(batch, mode),
                }
            )
    return found


def number(value: Fraction | int) -> int | float:
    """Return a whole number as one."""
    return int(value) if value == int(value) else round(float(value), 3)


def _caption(count: Count) -> str:
    lines = [
        "One multiply-accumulate counts once; the network's own are those of evaluation. Weights "
        "are generated once a forward pass, so that a batch shares the cost; in evaluation they "
        "are made once and kept, but for rows of embeddings.",
    ]
    if count.row_macs:
        lines.append(
            f"{count.row_macs:,} of a sample's are rows of embeddings, which are made as they are "
            "looked up."
        )
    if count.macs is None:
        lines.append("Give --input for the network's own.")
    return "\n".join(lines)
