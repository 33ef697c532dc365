"""A plan for people: table, summary, explanation."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from npas.naming import matches
from npas.plan import LayerPlan, Plan
from npas.plan_rows import MOST_ROWS, common_name, rows


def plan_table(plan: Plan, *, full: bool = False) -> Table:
    """Return a table of the layers: shape, elements, bank, how weights are made, windows.

    Args:
        plan: of any size.
        full: a row for each layer; without it layers of repeated blocks that are alike are one row
            in a plan of many layers (`npas.plan_rows`).
    """
    table = Table(title=Text(_title(plan)), title_justify="left", caption_justify="left")
    table.caption = Text(_kept(plan))
    for column in ("layer", "kind", "shape", "bank", "made by", "windows"):
        table.add_column(column, overflow="fold")
    for column in ("elements", "MACs"):
        table.add_column(column, justify="right")
    for layers in rows(plan, len(plan.layers) if full else MOST_ROWS):
        layer, count = layers[0], len(layers)
        times = f"{count:,} x " if count > 1 else ""
        names = zip(*((x.name, *x.aliases) for x in layers), strict=True)
        windows = list(dict.fromkeys(_windows(plan, x) for x in layers))
        table.add_row(
            Text("\n= ".join(map(common_name, names))),
            Text(layer.kind),
            "x".join(map(str, layer.shape)),
            f"{_banks(layers)} ({plan.bank_by_name[layer.bank].size:,})",
            "ordinary" if plan.is_ordinary(layer.bank) else layer.mode,
            windows[0] if len(windows) == 1 else f"{len(windows):,} places",
            f"{times}{layer.n:,}",
            "-" if layer.macs is None else f"{times}{layer.macs:,}",
        )
    return table


def _banks(layers: Sequence[LayerPlan]) -> str:
    first, *others = dict.fromkeys(layer.bank for layer in layers)
    return f"{first} to {others[-1]}" if others else first


def plan_summary(plan: Plan) -> str:
    """Return the plan in a few lines: the budget, and where its parameters are."""
    lines = [_title(plan), ""]
    lines += [f"  {n:>13,}  {name}" for name, n in plan.params.items() if n]
    if plan.n_macs:
        share = plan.generation_macs / plan.n_macs
        lines += [
            "",
            f"{plan.n_macs:,} multiply-accumulates a sample; generating every weight once takes "
            f"{plan.generation_macs:,} ({share:.2%} at batch 1)",
        ]
    n_banks = len(plan.banks)
    n_layers = len(plan.layers)
    counts = [
        f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((n_layers, "layer"), (n_banks, "bank"))
    ]
    lines += ["", f"{' in '.join(counts)} ({plan.groups}):"]
    for bank in plan.banks:
        layers = plan.layers_of(bank.name)
        modes: dict[str, int] = {}
        for layer in layers:
            mode = "ordinary" if plan.is_ordinary(bank.name) else layer.mode
            modes[mode] = modes.get(mode, 0) + 1
        made = ", ".join(f"{count} {mode}" for mode, count in modes.items())
        wanted = sum(layer.n for layer in layers)
        lines.append(
            f"  {bank.name}: {bank.size:,} elements for {wanted:,} ({made}): {bank.reason}"
        )
    lines.append(_kept(plan))
    return "\n".join(lines)


def plan_explanation(plan: Plan, name: str | None) -> str:
    """Return, for one layer or all, where its weight comes from, with whom it shares, and why."""
    layers: tuple[LayerPlan, ...] = plan.layers
    if name is not None:
        layers = tuple(
            layer
            for layer in plan.layers
            if any(matches(name, alias) for alias in (layer.name, *layer.aliases))
        ) or (plan.layer(name),)
    return "\n\n".join(_explain(plan, layer) for layer in layers)


def _explain(plan: Plan, layer: LayerPlan) -> str:
    bank = plan.bank_by_name[layer.bank]
    shape = "x".join(map(str, layer.shape))
    lines = [f"{layer.name}: {layer.kind} {shape}, {layer.n:,} elements of {layer.dtype}"]
    if layer.aliases:
        lines.append(f"  tied with {', '.join(layer.aliases)}: one weight, allocated once")
    if plan.is_ordinary(bank.name):
        lines.append(f"  fills bank {bank.name} exactly: an ordinary parameter, no generation")
        return "\n".join(lines)
    lines.append(f"  from bank {bank.name} of {bank.size:,} elements: {_how(layer, bank.size)}")
    others = [other for other in plan.layers_of(bank.name) if other.name != layer.name]
    overlapping = [other.name for other in others if _overlap(layer, other, bank.size)]
    if others:
        lines.append(
            f"  in the bank with {len(others)} other layers ({bank.reason}); "
            f"{len(overlapping)} of them use some of the same elements"
        )
        shown = overlapping[:8]
        if shown:
            more = f" and {len(overlapping) - 8} more" if len(overlapping) > 8 else ""
            lines.append(f"  shares elements with {', '.join(shown)}{more}")
    else:
        lines.append(f"  alone in the bank ({bank.reason})")
    if layer.scale and not layer.has_coefficients:
        lines.append("  times one learnable scalar, which may start at zero")
    if layer.padding_idx is not None:
        lines.append(f"  row {layer.padding_idx} (padding) stays zero")
    return "\n".join(lines)


def _how(layer: LayerPlan, n_bank: int) -> str:
    if layer.k == 0:
        tiles = -(-layer.n // n_bank)
        how = {
            "mask": f"{tiles} tiles, those after the first times learned window-9 masks (3.1.2)",
            "repeat": f"{tiles} tiles (B.4)",
            "inter": "bilinear interpolation to [out, rest] (3.1.2)",
        }
        return f"upsampled, {how[layer.upsample]}"
    if layer.k == 1:
        return f"used as it is, elements {layer.base:,} to {layer.base + layer.n:,}"
    how = {
        "wavg": "weighted by learned coefficients (WAvg, 3.1.1)",
        "emb": "weighted by coefficients from its layer embedding (Emb, 3.1.1)",
        "avg": "averaged (B.2)",
        "rr": "taken in turn (B.2)",
    }
    return (
        f"{layer.k} templates from element {layer.base:,}, {layer.stride:,} apart, "
        f"{how[layer.downsample]}"
    )


def _overlap(one: LayerPlan, other: LayerPlan, n_bank: int) -> bool:
    return all(
        start < end
        for start, end in (
            (_span(one, n_bank)[0], _span(other, n_bank)[1]),
            (_span(other, n_bank)[0], _span(one, n_bank)[1]),
        )
    )


def _span(layer: LayerPlan, n_bank: int) -> tuple[int, int]:
    if layer.k == 0:
        return 0, n_bank
    return layer.base, layer.base + (layer.k - 1) * layer.stride + layer.n


def _windows(plan: Plan, layer: LayerPlan) -> str:
    if plan.is_ordinary(layer.bank):
        return "all"
    if layer.k == 0:
        return f"all, {-(-layer.n // plan.bank_by_name[layer.bank].size)} tiles"
    start, end = _span(layer, 0)
    return f"{start:,} to {end:,}"


def _title(plan: Plan) -> str:
    return (
        f"budget {plan.budget}: {plan.n_params:,} of {plan.budget_params:,} parameters "
        f"({plan.n_params / plan.n_dense:.2%} of {plan.n_dense:,})"
    )


def _kept(plan: Plan) -> str:
    reasons: dict[str, int] = {}
    for fixed in plan.fixed:
        reasons[fixed.reason] = reasons.get(fixed.reason, 0) + fixed.n_params
    kept = "; ".join(f"{n:,} {reason}" for reason, n in reasons.items())
    return f"kept as they are: {kept}" if kept else "everything is allocated"
