"""Pictures of the ledger's rows."""

from collections.abc import Sequence
from typing import Any

from benchmarks.tables import Row

_SIZE = (8.0, 4.5)


def overhead_plot(rows: Sequence[Row]) -> Any:
    """Draw what generation adds against the batch size, each network at its costliest budget."""
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    first = [r for r in rows if r["method"] == "npas" and (r["batch"], r["mode"]) == (1, "train")]
    batches = [2**i for i in range(9)]
    kinds = list(dict.fromkeys(row["kind"] for row in first))
    for kind in kinds:
        own = [row for row in first if row["kind"] == kind]
        for index, name in enumerate(dict.fromkeys(row["network"] for row in own)):
            most = max(row["overhead"] for row in own if row["network"] == name)
            if most > 0:
                label = kind if index == 0 else None
                color = f"C{kinds.index(kind)}"
                axes.loglog(
                    batches, [100 * most / b for b in batches], color=color, label=label, alpha=0.6
                )
    axes.axhspan(0.5, 2, color="0.9", label="the paper's 0.5 to 2% at batch 1", zorder=0)
    axes.set_xlabel("samples a batch")
    axes.set_ylabel("generation, % of the network's own")
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.legend()
    return figure


#: Methods of a training step, with what they are drawn in: told apart by form as well as colour.
_METHODS = {
    "dense": ("0.45", "s"),
    "npas": ("C0", "o"),
    "npas-layer": ("C4", "s"),
    "npas-bank": ("C9", "D"),
    "parametrize": ("C3", "^"),
    "soft_sharing": ("C1", "v"),
    "hypernetwork": ("C2", "P"),
    "reduced_width": ("C7", "X"),
}
_KINDS = {
    "weights": "C0",
    "gradients": "C1",
    "optimizer": "C2",
    "saved": "0.7",
    "temporaries": "C3",
}
#: Cases whose memory is drawn: (network, batch, budget).
_DRAWN = (
    ("wrn-28-10", 2, "50%"),
    ("wrn-28-10", 2, "10%"),
    ("embnet", 32, "10%"),
    ("bert-base-4", 1, "10%"),
)


def _cases(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows with numbers, by network, batch and budget."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["step_ms"] is not None:
            found.setdefault((row["network"], row["batch"], row["budget"]), []).append(row)
    return found


def step_memory_plot(rows: Sequence[Row]) -> Any:
    """Draw what a step holds, by kind, of a few cases: a bar a method."""
    from matplotlib.figure import Figure

    every = _cases(rows)
    chosen = [case for case in _DRAWN if case in every] or list(every)[: len(_DRAWN)]
    figure = Figure((8.0, 0.8 + 1.9 * max(1, len(chosen))), layout="constrained", facecolor="white")
    panels = figure.subplots(max(1, len(chosen)), squeeze=False)[:, 0]
    for panel, case in zip(panels, chosen, strict=False):
        own = every[case][::-1]
        names = [row["method"] for row in own]
        start = [0.0] * len(own)
        for kind, colour in _KINDS.items():
            sizes = [row[f"{kind}_bytes"] / 1e6 for row in own]
            panel.barh(names, sizes, left=start, color=colour, label=kind)
            start = [a + b for a, b in zip(start, sizes, strict=True)]
        peaks = [row["peak_bytes"] / 1e6 for row in own]
        panel.plot(peaks, names, "k|", markersize=12, label="peak in all")
        panel.set_title("{}, batch {}, {}".format(*case), fontsize="medium")
    panels[-1].set_xlabel("MB")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small")
    return figure


def step_time_plot(rows: Sequence[Row]) -> Any:
    """Draw the ratio of each method's step to the dense network's: a line a case."""
    from matplotlib.figure import Figure

    every = _cases(rows)
    labels = ["{}, batch {}, {}".format(*case) for case in every]
    figure = Figure((8.0, 1.4 + 0.28 * len(labels)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for method, (colour, marker) in _METHODS.items():
        places = [
            (row["to_dense"], y)
            for y, own in enumerate(every.values())
            for row in own
            if row["method"] == method != "dense"
        ]
        if places:
            axes.plot(*zip(*places, strict=True), marker, color=colour, label=method, alpha=0.8)
    axes.axvline(1, color="0.45", linewidth=1, label="dense")
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.grid(axis="y", color="0.9")
    axes.set_xlabel("time of a step, to the dense network's")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    return figure


def adam_plot(rows: Sequence[Row]) -> Any:
    """Draw what is resident after a step of Adam, and at the peak, at each budget."""
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    own = [row for row in rows if row["activations"] == rows[0]["activations"]]
    places = range(len(own))
    steady = [row["steady_bytes"] / 1e9 for row in own]
    above = [(row["peak_bytes"] - row["steady_bytes"]) / 1e9 for row in own]
    axes.bar(places, steady, color="C0", label="after a step: weights, gradients, Adam")
    axes.bar(places, above, bottom=steady, color="C1", label="more at the peak")
    axes.set_xticks(places, [row["budget"] for row in own])
    axes.set_xlabel(f"budget of {own[0]['network']}")
    axes.set_ylabel("GB")
    axes.legend()
    return figure
