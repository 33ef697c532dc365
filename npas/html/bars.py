"""The bar of a budget by what it is spent on, as SVG."""

from npas.plan import Plan

#: Least width of a part of the bar, of 1000, so that it is seen at all.
_LEAST = 4


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


def dense_scale(plan: Plan) -> int:
    """Return the larger of a budget and the dense model."""
    return max(plan.n_dense, plan.budget_params)


def parts_bar(plan: Plan, scale: int | None = None) -> str:
    """Return the parts of a budget side by side.

    Args:
        plan: of any size.
        scale: parameters that are the whole width; the budget where None.
    """
    parts = budget_parts(plan)
    whole = 1000 * plan.budget_params / (scale or plan.budget_params)
    drawn, at = [], 0.0
    for i, (count, width) in enumerate(zip(parts.values(), _widths(parts, whole), strict=True)):
        if count:
            drawn.append(f'<rect class="part{i}" x="{at:.2f}" width="{width:.2f}" height="28"/>')
        at += width
    label = "The budget by what it is spent on, as in the table"
    return (
        '<svg class="spent" viewBox="0 0 1000 28" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{"".join(drawn)}</svg>'
    )


def dense_bar(plan: Plan) -> str:
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


def _widths(parts: dict[str, int], whole: float) -> list[float]:
    """Return widths that add up to the whole, none too small to be seen; the largest gives way."""
    total = sum(parts.values())
    widths = [max(_LEAST, whole * n / total) if n else 0.0 for n in parts.values()]
    largest = widths.index(max(widths))
    widths[largest] = max(_LEAST, widths[largest] - (sum(widths) - whole))
    return widths
