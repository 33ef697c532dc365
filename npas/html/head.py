"""The head of the page: the budget, what it is spent on, and what the plan has; no script."""

from typing import Any

from npas.html.text import escaped
from npas.plan import Plan

#: Least width of a part of the bar, of 1000, so that it is seen at all.
_LEAST = 4


def head_html(plan: Plan, head: dict[str, Any]) -> str:
    """Return the head as HTML.

    Args:
        plan: of any size.
        head: of `npas.html.data.plan_data`.
    """
    tiles = "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{value}<small>{escaped(note)}</small></dd></div>'
        for name, value, note in _tiles(plan, head)
    )
    return f"""<section id="budget" aria-labelledby="budget-title">
<h1 id="budget-title">A budget of {escaped(plan.budget)} <span class="of">for
{plan.n_dense:,} parameters</span></h1>
<p class="lead">Layers mapped to banks by <b>{escaped(plan.groups)}</b>, at most {plan.k:,}
template{"" if plan.k == 1 else "s"} a layer, seed {plan.seed}.</p>
<dl class="tiles">{tiles}</dl>
<h2>Where the budget goes</h2>
{_bar(plan)}
</section>"""


def _tiles(plan: Plan, head: dict[str, Any]) -> list[tuple[str, str, str]]:
    n, budget = plan.n_params, plan.budget_params
    kept = sum(fixed.n_params for fixed in plan.fixed)
    generation = head["generation_macs"]
    ordinary = {bank.name for bank in plan.banks if plan.is_ordinary(bank.name)}
    share = f", {generation / plan.n_macs:.2%} of a sample's" if plan.n_macs else ""
    sample = (
        ("not known", "plan with example inputs: --input")
        if plan.n_macs is None
        else (f"{plan.n_macs:,}", "multiply-accumulates in these layers")
    )
    return [
        ("Trainable parameters", f"{n:,}", f"{_percent(n, plan.n_dense)} of the dense model"),
        ("Budget", f"{budget:,}", f"{_percent(n, budget)} used, {budget - n:,} left"),
        ("Dense model", f"{plan.n_dense:,}", "trainable parameters, before"),
        ("Banks", f"{len(plan.banks):,}", f"{len(ordinary):,} of them ordinary parameters"),
        ("Layers", f"{len(plan.layers):,}", _made(plan, ordinary)),
        ("Kept as it is", f"{kept:,}", f"in {len(plan.fixed):,} parameters"),
        ("A sample", sample[0], sample[1]),
        ("To generate once", f"{generation:,}", f"multiply-accumulates{share}"),
    ]


def _made(plan: Plan, ordinary: set[str]) -> str:
    generated = [layer for layer in plan.layers if layer.bank not in ordinary]
    counts = {
        "combined": sum(layer.k >= 2 for layer in generated),
        "as a window": sum(layer.k == 1 for layer in generated),
        "upsampled": sum(layer.k == 0 for layer in generated),
        "ordinary": len(plan.layers) - len(generated),
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _percent(part: int, whole: int) -> str:
    """Return a share that says 100% only where it is all, and 0% only where it is nothing."""
    if 0 < part < whole / 10_000:
        return "<0.01%"
    if 0.9999 * whole < part < whole:
        return f"{part * 10**7 // whole / 10**5:.5f}%"  # rounded down
    return f"{part / whole:.2%}"


def budget_parts(plan: Plan) -> dict[str, int]:
    """Return trainable parameters by what they are, and what is left; they add up to the budget."""
    costs = plan.costs.values()
    return {
        "elements of banks": sum(cost.elements for cost in costs),
        "coefficients, embeddings, projections": sum(
            cost.coefficients + cost.embeddings + cost.projection for cost in costs
        ),
        "masks and scales": sum(cost.masks + cost.scales for cost in costs),
        "kept as they are": plan.n_fixed,
        "not used": plan.budget_params - plan.n_params,
    }


def _bar(plan: Plan) -> str:
    parts = budget_parts(plan)
    drawn, rows, at = [], [], 0.0
    for i, ((name, count), width) in enumerate(zip(parts.items(), _widths(parts), strict=True)):
        if count:
            drawn.append(f'<rect class="part{i}" x="{at:.2f}" width="{width:.2f}" height="28"/>')
        at += width
        rows.append(
            f'<tr><th scope="row"><svg class="key" viewBox="0 0 10 10" aria-hidden="true">'
            f'<rect class="part{i}" width="10" height="10" rx="2"/></svg>{name}</th>'
            f"<td>{count:,}</td><td>{_percent(count, plan.budget_params)}</td></tr>"
        )
    return (
        f"{_dense_bar(plan)}"
        f'<p class="over">The budget of {plan.budget_params:,}</p>'
        '<svg class="spent" viewBox="0 0 1000 28" preserveAspectRatio="none" role="img" '
        f'aria-label="The budget by what it is spent on, as in the table below">{"".join(drawn)}'
        '</svg><div class="fit"><table class="legend"><thead><tr><th scope="col">Spent on</th>'
        '<th scope="col">Parameters</th><th scope="col">Share</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">A part too small to be seen is drawn as a line.</p>'
    )


def _dense_bar(plan: Plan) -> str:
    """Return the plan as a part of the dense model, or the dense model as a part of the plan."""
    most = max(plan.n_dense, plan.n_params)
    widths = (1000 * plan.n_dense / most, 1000 * plan.n_params / most)
    return (
        f'<p class="over">The dense model of {plan.n_dense:,} in grey, the plan of '
        f"{plan.n_params:,} in colour</p>"
        '<svg class="spent against" viewBox="0 0 1000 10" preserveAspectRatio="none" '
        'aria-hidden="true">'
        f'<rect class="dense" width="{widths[0]:.2f}" height="10"/>'
        f'<rect class="part0" width="{max(_LEAST, widths[1]):.2f}" y="3" height="4"/></svg>'
    )


def _widths(parts: dict[str, int]) -> list[float]:
    """Return widths that add up to 1000, none too small to be seen; the largest gives way."""
    total = sum(parts.values())
    widths = [max(_LEAST, 1000 * n / total) if n else 0.0 for n in parts.values()]
    widths[widths.index(max(widths))] -= sum(widths) - 1000
    return widths
