"""Pictures of a plan (needs the extra ``npas[plot]``)."""

from typing import TYPE_CHECKING

from npas.errors import NpasError
from npas.mapping import Mapping
from npas.plan import LayerPlan, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Above this, rows are thinner than their names.
_MOST_NAMES = 80


def plot_plan(plan: Plan) -> "Figure":
    """Draw which elements of its bank each layer takes: a panel a bank, a row a layer.

    Templates of one layer alternate in shade; a hatched row is upsampled from the whole bank.

    Raises:
        NpasError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NpasError("plot needs matplotlib: pip install 'npas[plot]'") from error
    counts = [len(bank.layers) for bank in plan.banks]
    height = min(40.0, 1.2 + 0.24 * sum(counts) + 0.65 * len(counts))
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots(
        len(counts), 1, squeeze=False, gridspec_kw={"height_ratios": [c + 1.0 for c in counts]}
    )
    for index, bank in enumerate(plan.banks):
        panel = axes[index, 0]
        layers = plan.layers_of(bank.name)
        for row, layer in enumerate(layers):
            _draw_layer(panel, row, layer, bank.size, f"C{index % 10}")
        names = [layer.name for layer in layers] if sum(counts) <= _MOST_NAMES else []
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.set_ylim(len(layers) - 0.4, -0.6)
        panel.set_xlim(0, bank.size)
        panel.xaxis.set_major_formatter(lambda value, _: f"{int(value):,}")
        panel.tick_params(axis="x", labelsize=7)
        what = "an ordinary parameter" if plan.is_ordinary(bank.name) else bank.reason
        panel.set_title(f"{bank.name}: {bank.size:,} elements, {what}", loc="left", fontsize=8)
    figure.suptitle(
        f"budget {plan.budget}: {plan.n_params:,} of {plan.n_dense:,} parameters, "
        f"{len(plan.layers)} layers in {len(plan.banks)} bank{'s' if len(plan.banks) > 1 else ''}",
        fontsize=10,
    )
    return figure


def _draw_layer(panel: "Axes", row: int, layer: LayerPlan, n_bank: int, colour: str) -> None:
    if layer.k == 0:
        panel.broken_barh(
            [(0, n_bank)], (row - 0.38, 0.76), facecolor=colour, alpha=0.35, hatch="//"
        )
        tiles = -(-layer.n // n_bank)
        panel.text(n_bank / 2, row, f"{layer.upsample} x{tiles}", ha="center", va="center", size=6)
        return
    for t in range(layer.k):
        start = layer.base + t * layer.stride
        width = min(layer.n, layer.stride) if t < layer.k - 1 else layer.n
        shade = 0.75 if t % 2 == 0 else 0.45
        panel.broken_barh([(start, width)], (row - 0.38, 0.76), facecolor=colour, alpha=shade)


def plot_mapping(mapping: Mapping) -> "Figure":
    """Draw which layer is in which bank, and how alike the layers are where that was learned.

    Raises:
        NpasError: if matplotlib is not installed.
    """
    raise NotImplementedError
