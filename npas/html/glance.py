"""Two plans at a glance: their budgets on one scale, and how many layers take other weights."""

from npas.html.bars import dense_scale, parts_bar
from npas.html.text import amount, escaped, tiles_html
from npas.plan import LayerPlan, Plan


def since_html(before: Plan, after: Plan) -> str:
    """Return one sentence on what changed, with a link to the rest."""
    counts = layers_that(before, after)
    other = amount(counts["in another bank"], "layer")
    return (
        f'<p class="lead since">Since the earlier plan, of {escaped(before.budget)}: '
        f"<b>{_difference(before, after)}</b> parameters, <b>{other}</b> in another bank. "
        '<a href="#changes">What changed</a></p>'
    )


def _difference(before: Plan, after: Plan) -> str:
    return f"{after.n_params - before.n_params:+,}".replace("-", "\u2212")


def glance_html(before: Plan, after: Plan) -> str:
    """Return what differs most between two plans as HTML that needs no script."""
    scale = max(dense_scale(before), dense_scale(after))
    bars = "".join(
        f'<p class="over"><b>{word}</b>, budget {escaped(plan.budget)}: {plan.n_params:,} '
        f"trainable parameters</p>{parts_bar(plan, scale)}"
        for word, plan in (("Before", before), ("After", after))
    )
    return (
        f'{bars}<p class="note">On one scale: its end is {_whole(before, after, scale)}. Colours '
        f"are those of the table above.</p>{tiles_html(_tiles(before, after))}"
    )


def _whole(before: Plan, after: Plan, scale: int) -> str:
    dense = scale in (before.n_dense, after.n_dense)
    return f"the dense model of {scale:,}" if dense else f"the larger budget, {scale:,}"


def _tiles(before: Plan, after: Plan) -> list[tuple[str, str, str]]:
    counts = layers_that(before, after)
    names = [{bank.name for bank in plan.banks} for plan in (before, after)]
    new, gone = len(names[1] - names[0]), len(names[0] - names[1])
    both = f"of {amount(counts['in both'], 'layer')} in both plans"
    return [
        (
            "Trainable parameters",
            _difference(before, after),
            f"{before.n_params:,} \u2192 {after.n_params:,}",
        ),
        (
            "Banks",
            f"{len(before.banks):,} \u2192 {len(after.banks):,}",
            f"{new:,} new, {gone:,} gone",
        ),
        ("In another bank", f"{counts['in another bank']:,}", both),
        (
            "Made another way",
            f"{counts['made another way']:,}",
            f"{both}, such as mask \u2192 wavg",
        ),
        (
            "Other windows",
            f"{counts['with other windows']:,}",
            f"{both}: place, step or bank's size",
        ),
        ("The same", f"{counts['the same']:,}", both),
        ("Added", f"{counts['added']:,}", "layers that only this plan has"),
        ("Removed", f"{counts['removed']:,}", "layers that only the earlier plan has"),
    ]


def layers_that(before: Plan, after: Plan) -> dict[str, int]:
    """Return how many layers differ in what; a layer may differ in several things."""
    pairs = [
        (old, new)
        for new in after.layers
        if (old := before.layer_by_name.get(new.name)) is not None
    ]

    def windows(plan: Plan, layer: LayerPlan) -> tuple[int, ...]:
        return plan.bank_by_name[layer.bank].size, layer.base, layer.stride, layer.k, layer.n

    other = [windows(before, old) != windows(after, new) for old, new in pairs]
    return {
        "in both": len(pairs),
        "in another bank": sum(old.bank != new.bank for old, new in pairs),
        "made another way": sum(old.mode != new.mode for old, new in pairs),
        "with other windows": sum(other),
        "the same": sum(
            old == new and not differs for (old, new), differs in zip(pairs, other, strict=True)
        ),
        "added": len(after.layers) - len(pairs),
        "removed": len(before.layers) - len(pairs),
    }
