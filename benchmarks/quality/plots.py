"""Pictures of the quality suite: an experiment's arms, or its methods at several budgets.

The axes of scores do not begin at 0, so means are points and no bars.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import mappings, summary
from benchmarks.quality.spec import Experiment, Rows

Record = Mapping[str, Any]
#: Methods are told apart by form as well as colour.
_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "0.3")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*")
#: What a difference to the baseline is -> colour, and colour within.
_KINDS = {
    "baseline": ("0.45", "0.45"),
    "difference resolved": ("C0", "C0"),
    "not resolved": ("C0", "white"),
}
_ACROSS: dict[str, Any] = {"linewidth": 1, "linestyle": "--", "zorder": 0}
#: An arm with diverged runs; an interval of such scores would say nothing.
_CROSS: dict[str, Any] = {"markersize": 9, "markeredgewidth": 2}


def draw(experiments: Sequence[Experiment], rows: Rows, folder: Path) -> None:
    """Draw a picture of each experiment that `has_picture`; the same rows give the same bytes."""
    records = summary.records(experiments, rows)
    for experiment in experiments:
        own = [record for record in records if record["experiment"] == experiment.name]
        if has_picture(own):
            save(figure_of(own), folder / picture(experiment.name))
        learned = mappings.of_experiment(experiment, rows)
        if learned:
            layers = mappings.layers_of(experiment, next(iter(learned.values())))
            save(mappings.figure(learned, layers), folder / picture(f"{experiment.name} mappings"))


def save(figure: Any, path: Path) -> None:
    """Write a figure so that the same one gives the same bytes."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "npas"}):
        figure.savefig(path, metadata={"Date": None})


def picture(name: str) -> str:
    """Return the file name of an experiment's picture, without what a link would have to escape."""
    return re.sub(r"[^\w.]+", "-", name.replace("%", "pct")).strip("-") + ".svg"


def has_picture(records: Sequence[Record]) -> bool:
    """Return whether an experiment has arms to draw."""
    return len(records) > 1


def figure_of(records: Sequence[Record]) -> Any:
    """Return the figure of an experiment's records: a curve where a method has several budgets."""
    sizes = {(record["method"], round(record["params"])) for record in records}
    curves = len(sizes) > len({method for method, _ in sizes})
    return curve_figure(records) if curves else arms_figure(records)


def arms_figure(records: Sequence[Record]) -> Any:
    """Draw each arm's mean with its own 95% interval, and the baseline's mean across."""
    from matplotlib.figure import Figure

    figure = Figure((8.0, 1.3 + 0.3 * len(records)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    low, high = _limits(records)
    for kind, (colour, face) in _KINDS.items():
        own = [(y, record) for y, record in enumerate(records) if _kind(record) == kind]
        whole = [(y, record) for y, record in own if not record["diverged"]]
        if whole:
            axes.errorbar(
                [100 * record["mean"] for _, record in whole],
                [y for y, _ in whole],
                xerr=[_half(record) for _, record in whole],
                fmt="o",
                color=colour,
                markerfacecolor=face,
                capsize=3,
                label=kind,
            )
        for y, record in own:
            if record["diverged"]:
                axes.plot([_within(record, low, high)], [y], "x", color=colour, **_CROSS)
            if kind == "baseline":
                axes.axvline(100 * record["mean"], color=colour, **_ACROSS)
    axes.set_yticks(range(len(records)), [_named(record) for record in records], fontsize="small")
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.set_xlim(low, high)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(_score(records))
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def curve_figure(records: Sequence[Record]) -> Any:
    """Draw the score against the parameters: a line a method, with each arm's own 95% interval."""
    from matplotlib.figure import Figure

    methods: dict[str, list[Record]] = {record["method"]: [] for record in records}
    for record in sorted(records, key=lambda record: record["params"]):
        methods[record["method"]].append(record)
    columns = 2 if max(map(len, methods)) > 24 else 3
    height = 4.4 + 0.2 * math.ceil(len(methods) / columns)
    figure = Figure((8.0, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xscale("log")
    low, high = _limits(records)
    for index, (method, own) in enumerate(methods.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        # Arms of one size are drawn side by side.
        shift = 1.02 ** (index - (len(methods) - 1) / 2)
        places = [(record["params"] * shift, _within(record, low, high)) for record in own]
        axes.errorbar(
            [x for x, _ in places],
            [y for _, y in places],
            yerr=[0.0 if record["diverged"] else _half(record) for record in own],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            color=colour,
            capsize=2.5,
            linewidth=1.2,
            label=method,
        )
        for (x, y), record in zip(places, own, strict=True):
            if record["budget"] is None:
                axes.axhline(y, color=colour, **_ACROSS)
            if record["diverged"]:
                axes.plot([x], [y], "x", color=colour, **_CROSS)
                text = f"{record['diverged']} of {record['seeds']} diverged"
                axes.annotate(text, (x, y), (8, 6), textcoords="offset points", fontsize="x-small")
    axes.set_ylim(low, high)
    ticks = _ticks([record["params"] for record in records])
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel(_score(records))
    figure.legend(loc="outside upper center", ncols=columns, fontsize="small", frameon=False)
    return figure


def _kind(record: Record) -> str:
    if record["variant"] == record["baseline"]:
        return "baseline"
    return "difference resolved" if record["resolved"] else "not resolved"


def _half(record: Record) -> float:
    """Return half the width of an arm's interval, in points; 0 where one run has none."""
    interval = record["mean_interval"]
    return 0.0 if interval is None else 50 * (interval[1] - interval[0])


def _named(record: Record) -> str:
    """Return an arm's name; where runs diverged, with its mean, which may not be on the scale."""
    if not record["diverged"]:
        return record["variant"]
    lost = f"{record['diverged']} of {record['seeds']} diverged"
    return f"{record['variant']} ({lost}, mean {100 * record['mean']:.1f})"


def _limits(records: Sequence[Record]) -> tuple[float, float]:
    """Return the ends of the axis of scores.

    Arms with diverged runs do not count if there are others, which they would press together.
    """
    whole = [record for record in records if not record["diverged"]] or records
    ends = [100 * record["mean"] + sign * _half(record) for record in whole for sign in (-1, 1)]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _within(record: Record, low: float, high: float) -> float:
    """Return an arm's mean in points; of one with diverged runs, what of it is on the scale."""
    mean = 100 * record["mean"]
    return min(max(mean, low + 0.03 * (high - low)), high) if record["diverged"] else mean


def _score(records: Sequence[Record]) -> str:
    data = ", ".join(dict.fromkeys(record["data"] for record in records))
    return f"{records[0]['measure']}, % ({data})"


def _ticks(params: Sequence[float]) -> list[float]:
    """Return the arms' sizes, without those whose labels would run into each other."""
    apart = max(1.2, (max(params) / min(params)) ** (1 / 11))
    ticks: list[float] = []
    for value in sorted(set(params)):
        if not ticks or value > apart * ticks[-1]:
            ticks.append(value)
    return ticks


def _short(n_params: float) -> str:
    """Write a number of parameters to three digits: ``"17.5k"``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n_params >= size:
            return f"{n_params / size:.3g}{unit}"
    return f"{n_params:.3g}"
