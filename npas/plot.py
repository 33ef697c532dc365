"""Pictures of plans and mappings (need the extra ``npas[plot]``)."""

from collections.abc import Mapping as MappingType, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from npas.bank import banks_of
from npas.errors import NpasError
from npas.mapping import Mapping
from npas.passes.demand import Block
from npas.plan import LayerPlan, Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Above this, rows are thinner than their names.
_MOST_NAMES = 80
# More banks than this have no panel of their own: the first picture still has them all.
_MOST_PANELS = 20
# Layers whose similarities are still told apart.
_MOST_CELLS = 400


def plot_plan(plan: Plan, module: nn.Module | None = None) -> "Figure":
    """Draw layers against banks, which elements of its bank each layer takes, and who shares them.

    First which layer is in which bank (the paper's Figure 4b). Then a panel a bank: above, how many
    templates read each element; below, a row a layer, whose templates alternate in shade; a hatched
    row is upsampled from the whole bank. With a module, also how alike the coefficients of each
    bank's layers are now (cosine).

    Args:
        plan: what to draw; of more than 20 banks those with the most layers have panels.
        module: compiled from the plan.

    Raises:
        NpasError: if matplotlib is not installed, or the module was not compiled from the plan.
    """
    similar = [] if module is None else _similarities(plan, module)
    banks = sorted(plan.banks, key=lambda bank: -len(bank.layers))[:_MOST_PANELS]
    banks = [bank for bank in plan.banks if bank in banks]
    counts = [len(bank.layers) for bank in banks]
    top = 1.0 + 0.16 * len(plan.banks)
    heights = [top, *(h for count in counts for h in (0.45, 0.35 + 0.24 * count))]
    heights += [3.2] if similar else []
    figure = _figure(9, min(60.0, sum(heights) + 0.4 * len(counts) + 1.0))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    layers = [layer.name for layer in plan.layers]
    _draw_map(
        figure.add_subplot(grid[0]), layers, {bank.name: bank.layers for bank in plan.banks}, plan
    )
    for index, bank in enumerate(banks):
        above = figure.add_subplot(grid[1 + 2 * index])
        panel = figure.add_subplot(grid[2 + 2 * index], sharex=above)
        colour = _colour(plan.banks.index(bank))
        what = "an ordinary parameter" if plan.is_ordinary(bank.name) else bank.reason
        above.set_title(f"{bank.name}: {bank.size:,} elements, {what}", loc="left", fontsize=8)
        _draw_sharing(above, plan.layers_of(bank.name), bank.size, colour)
        _draw_windows(panel, plan.layers_of(bank.name), bank.size, colour, sum(counts))
    if similar:
        row = grid[-1].subgridspec(1, len(similar))
        for index, (name, names, points) in enumerate(similar):
            panel = figure.add_subplot(row[index])
            _draw_similarity(panel, names, points, f"{name}: cosine of coefficients")
    figure.suptitle(
        f"budget {plan.budget}: {plan.n_params:,} of {plan.n_dense:,} parameters, "
        f"{len(plan.layers)} layers in {len(plan.banks)} bank{'s' if len(plan.banks) > 1 else ''}",
        fontsize=10,
    )
    return figure


def plot_mapping(mapping: Mapping) -> "Figure":
    """Draw which layer is in which bank, and how alike the layers are where that was learned.

    Raises:
        NpasError: if matplotlib is not installed.
    """
    learned = mapping.learned
    # Bank by bank, so that banks are blocks on the diagonal.
    names = list(mapping.bank_of)
    order = names if learned is None else [n for n in learned.representation if n in set(names)]
    top = 1.2 + 0.18 * len(mapping.banks)
    heights = [top] if learned is None else [top, 6.0]
    figure = _figure(9, min(60.0, sum(heights) + 1.0))
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    _draw_map(figure.add_subplot(grid[0]), order, mapping.banks, None)
    if learned is not None:
        points = np.array([learned.representation[name] for name in names])
        what = "phi" if learned.method == "emb" else "alpha"
        panel = figure.add_subplot(grid[1])
        _draw_similarity(panel, names, points, f"cosine of what was learned ({what}), bank by bank")
        for end in np.cumsum([len(layers) for layers in mapping.banks.values()])[:-1]:
            panel.axhline(end - 0.5, color="black", linewidth=0.8)
            panel.axvline(end - 0.5, color="black", linewidth=0.8)
    figure.suptitle(
        f"{len(names)} layers in {len(mapping.banks)} banks, {mapping.source}", fontsize=10
    )
    return figure


def sharing(layers: Sequence[LayerPlan], n_bank: int) -> np.ndarray:
    """Return [n_bank] how many templates (or upsampled layers) read each element of a bank."""
    changes = np.zeros(n_bank + 1, dtype=int)
    for layer in layers:
        if layer.k == 0:
            changes[0] += 1
            changes[n_bank] -= 1
        for start, width in _windows(layer.block, layer.n):
            changes[start] += 1
            changes[start + width] -= 1
    return np.cumsum(changes[:-1])


def _windows(block: Block, n: int) -> list[tuple[int, int]]:
    return [(block.base + t * block.stride, n) for t in range(block.k)]


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NpasError("plot needs matplotlib: pip install 'npas[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _colour(index: int) -> str:
    return f"C{index % 10}"


def _draw_map(
    panel: "Axes", layers: Sequence[str], banks: MappingType[str, Sequence[str]], plan: Plan | None
) -> None:
    """Draw layers along, banks down; a square where a layer is in a bank."""
    place = {layer: i for i, layer in enumerate(layers)}
    for row, members in enumerate(banks.values()):
        columns = [place[layer] for layer in members]
        panel.plot(columns, [row] * len(columns), color=_colour(row), linewidth=0.8, alpha=0.5)
        panel.scatter(columns, [row] * len(columns), color=_colour(row), marker="s", s=14)
    panel.set_yticks(range(len(banks)), list(banks), fontsize=6)
    panel.set_ylim(len(banks) - 0.4, -0.6)
    panel.set_xlim(-0.8, len(layers) - 0.2)
    few = len(layers) <= _MOST_NAMES
    panel.set_xticks(range(len(layers)) if few else [], layers if few else [], fontsize=5)
    panel.tick_params(axis="x", rotation=90)
    panel.set_xlabel("" if few else f"{len(layers):,} layers, in the model's order", fontsize=7)
    panel.grid(axis="x", alpha=0.2)
    if plan is not None:
        panel.set_title("layers against banks", loc="left", fontsize=8)


def _draw_sharing(panel: "Axes", layers: Sequence[LayerPlan], n_bank: int, colour: str) -> None:
    counts = sharing(layers, n_bank)
    edges = np.flatnonzero(np.diff(counts)) + 1
    starts = np.concatenate(([0], edges))
    panel.stairs(counts[starts], [*starts, n_bank], fill=True, color=colour, alpha=0.6)
    panel.set_ylim(0, max(1, int(counts.max())) * 1.1)
    panel.set_yticks([0, int(counts.max())])
    panel.set_ylabel("readers", fontsize=6)
    panel.tick_params(axis="both", labelsize=6, labelbottom=False)


def _draw_windows(
    panel: "Axes", layers: Sequence[LayerPlan], n_bank: int, colour: str, n_rows: int
) -> None:
    for row, layer in enumerate(layers):
        _draw_layer(panel, row, layer, n_bank, colour)
    names = [layer.name for layer in layers] if n_rows <= _MOST_NAMES else []
    panel.set_yticks(range(len(names)), names, fontsize=7)
    panel.set_ylim(len(layers) - 0.4, -0.6)
    panel.set_xlim(0, n_bank)
    panel.xaxis.set_major_formatter(lambda value, _: f"{int(value):,}")
    panel.tick_params(axis="x", labelsize=7)


def _draw_layer(panel: "Axes", row: int, layer: LayerPlan, n_bank: int, colour: str) -> None:
    if layer.k == 0:
        panel.broken_barh(
            [(0, n_bank)], (row - 0.38, 0.76), facecolor=colour, alpha=0.35, hatch="//"
        )
        tiles = -(-layer.n // n_bank)
        panel.text(n_bank / 2, row, f"{layer.upsample} x{tiles}", ha="center", va="center", size=6)
        return
    for t, (start, n) in enumerate(_windows(layer.block, layer.n)):
        width = min(n, layer.stride) if t < layer.k - 1 else n
        shade = 0.75 if t % 2 == 0 else 0.45
        panel.broken_barh([(start, width)], (row - 0.38, 0.76), facecolor=colour, alpha=shade)


def _draw_similarity(panel: "Axes", names: Sequence[str], points: np.ndarray, title: str) -> None:
    points, shown = points[:_MOST_CELLS], names[:_MOST_CELLS]
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.where(norms > 0, norms, 1.0)
    image = panel.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="RdBu_r")
    few = len(shown) <= _MOST_NAMES
    panel.set_yticks(range(len(shown)) if few else [], shown if few else [], fontsize=5)
    panel.set_xticks([])
    cut = "" if len(shown) == len(names) else f" (the first {len(shown)} of {len(names)})"
    panel.set_title(title + cut, loc="left", fontsize=8)
    bar: Any = panel.figure.colorbar(image, ax=panel, shrink=0.7)
    bar.ax.tick_params(labelsize=6)


def _similarities(plan: Plan, module: nn.Module) -> list[tuple[str, tuple[str, ...], np.ndarray]]:
    """Return, for each bank in which two layers have as many coefficients, those coefficients."""
    banks = banks_of(module)
    wanted = {bank.name for bank in plan.banks if not plan.is_ordinary(bank.name)}
    if set(banks) != wanted:
        raise NpasError("plot: the module was not compiled from this plan")
    found: list[tuple[str, tuple[str, ...], np.ndarray]] = []
    for name, bank in banks.items():
        layers = [layer for layer in plan.layers_of(name) if layer.has_coefficients]
        widest = max((layer.k for layer in layers), default=0)
        if len(layers) >= 2:
            rows, alphas = np.zeros((len(layers), widest)), bank.coefficients()
            for row, layer in zip(rows, layers, strict=True):
                row[: layer.k] = alphas[layer.name].detach().float().cpu().numpy()
            found.append((name, tuple(layer.name for layer in layers), rows))
    # The largest banks; more panels would be too small to read.
    return sorted(found, key=lambda item: -len(item[1]))[:4]
