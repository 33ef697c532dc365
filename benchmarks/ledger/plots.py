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
