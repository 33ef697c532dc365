"""Tables of multiply-accumulates."""

from collections.abc import Sequence
from typing import Any

from benchmarks import paper
from benchmarks.peers import PEERS
from benchmarks.tables import Column, Row, Section, count, percent

#: The network of the paper's Section 2, and method -> the total that it prints.
EXAMPLE = "wrn-16-1"
_PRINTED = {
    "dense": "flops-dense",
    "npas": "flops-ssn-total",
    "npas-single": "flops-ssn-total",
    "hypernetwork": "flops-hypernetwork-total",
}
#: In place of a budget: a peer as its paper has it.
PUBLISHED = "as published"
#: More than the paper's own example: 0.8M of 26.7M.
HIGH = 0.03


def _mb(value: float) -> str:
    return f"{value / 1e6:.1f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.3%}"


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return what npas adds, what peers add, and where the counts differ."""
    ours = [_wide(row, rows) for row in rows if row["method"] == "npas" and _first(row)]
    example = [_example(row) for row in rows if row["network"] == EXAMPLE and _shown(row)]
    theirs = [_peer_line(row, rows) for row in rows if row["method"] in PEERS and _first(row)]
    agree = [row["agrees"] for row in rows if "agrees" in row]
    different = [row for row in rows if row.get("agrees") is False]
    said = (f"{r['network']} {r['method']} (batch {r['batch']}, {r['mode']})" for r in different)
    both = ", ".join(said)
    conv = [row for row in ours if row["kind"] == "conv"]
    high = _above(conv, "overhead", HIGH, "{:.2%}")
    high_64 = _above(conv, "at_64", HIGH / 60, "{:.3%}")
    return [
        Section(
            "The paper's example",
            "Section 2 of the paper: millions for one 32x32 image at batch 1. Its network of 26.7M "
            "is WRN-16-1. npas is below its 27.5M at every budget, with one bank too. The static "
            "hypernetwork of Ha et al. with its own sizes (16x16 units, embeddings of 64, both "
            "layers of 64) takes 212,992 multiply-accumulates a unit, and WRN-16-1 has 74 units: "
            "15.8M, where the paper has 108.5M. Counted as two operations each they are 31.5M. "
            "The nearest reading that we found is WRN-40-1, the smaller network that Ha et al. "
            "train so: 242 units, 51.5M multiply-accumulates or 103.1M operations; but its forward "
            "pass takes 83M and not 26.7M. So we do not reproduce 135.2M, and by our count a "
            "hypernetwork costs 1.5 times an SSN here and not five times.",
            [
                Column("what", "what"),
                Column("budget", "budget"),
                Column("parameters", "params", count),
                Column("network", "macs", _millions),
                Column("generation", "generation_macs", _millions),
                Column("total", "total_macs", _millions),
                Column("the paper's total", "paper"),
            ],
            example,
        ),
        Section(
            "npas at the budgets of the paper",
            "Networks that the paper trains at no printed budget stand at 10, 50 and 100%. "
            "Parameters asked and trained, of which coefficients and masks; layers that are larger "
            "than their bank; multiply-accumulates of one sample, of generation once a forward "
            "pass, and the overhead at each batch size in training. The formula is the sum of "
            "K_i n_i over the network's own count; it differs where rows of an embedding are made "
            "and not the whole. In evaluation weights are kept, and after "
            "`npas.materialize` the count is the dense network's. A whole step (forward and "
            "backward, with weights made again where the default does) is compared with the dense "
            "network's step; it is left out for grouped convolutions, whose gradients "
            "FlopCounterMode counts as if there were one group. "
            "With one bank for all layers most templates are combined: the column beside it. "
            f"Convolutional networks above {HIGH:.0%} at batch 1: {high}; above {HIGH / 60:.2%} at "
            f"batch 64: {high_64}. Those use a weight less often than the others: EfficientNet-B0 "
            "takes 73 multiply-accumulates a parameter, ResNet-10 on 32x32 images 51, "
            "EfficientNet-ND on 32x32 images 13 in evaluation (in training deconvolution adds to "
            "the network's own, at batch 1 more than the rest), where WRN-28-10 takes 144; `k=3` "
            "or `k=2` takes as many fewer. "
            f"In {sum(agree)} of {len(agree)} rows, those of peers included, the analytic count "
            f"and FlopCounterMode's agree exactly. The others: {both or 'none'}; there a peer "
            "makes a weight at every use, and a network uses it several times.",
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("asked", "asked", count),
                Column("trained", "params", count),
                Column("coefficients", "coefficients", count),
                Column("masks", "masks", count),
                Column("upsampled", "upsampled"),
                Column("MACs", "macs", count),
                Column("generation", "generation_macs", _whole),
                Column("formula", "formula_overhead", _share),
                Column("batch 1", "overhead", _share),
                Column("one bank", "single", _share),
                Column("batch 64", "at_64", _share),
                Column("eval, batch 1", "in_eval", _share),
                Column("step, batch 1", "step", _share),
            ],
            ours,
        ),
        Section(
            "Where generation cannot hide",
            "Linear and recurrent networks at batch 1: a weight is used once a sample, so making "
            "it from K templates takes K times what using it takes. What counts there is traffic: "
            "bytes of weights that a forward pass moves in float32, where they are read (dense), "
            "where they are made, written and read, and where the fused product "
            "(`npas::combine_linear`, chosen on GPUs) reads the templates and writes no weight. "
            "Recurrent weights are always written.",
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("generation to network, MACs", "overhead", percent),
                Column("in eval", "in_eval", percent),
                Column("batch 64", "at_64", percent),
                Column("dense MB", "dense_bytes", _mb),
                Column("written MB", "written_bytes", _mb),
                Column("fused MB", "fused_bytes", _mb),
            ],
            [row for row in ours if row["kind"] in ("linear", "recurrent")],
        ),
        Section(
            "Peers at the same budgets",
            "What each peer trains with at most that many parameters, and what it adds to a "
            "forward pass at batch 1 in training, beside npas. A peer that cannot meet a budget "
            "has its own minimum, one that has nothing to replace in a network none. LCNN replaces "
            "products instead of generating weights: in training every filter may use all of its "
            "dictionary.",
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("method", "method"),
                Column("asked", "asked", count),
                Column("trained", "params", count),
                Column("minimum", "minimum", count),
                Column("MACs a sample", "total_macs", _whole),
                Column("overhead", "overhead", percent),
                Column("npas", "npas", percent),
                Column("in eval", "in_eval", percent),
                Column("how", "note"),
            ],
            theirs,
        ),
    ]


def _above(rows: Sequence[Row], key: str, limit: float, form: str) -> str:
    found = [row for row in rows if (row[key] or 0) > limit]
    said = [f"{row['network']} at {row['budget']} ({form.format(row[key])})" for row in found]
    return ", ".join(said) or "none"


def _shown(row: Row) -> bool:
    return _first(row) and (row["method"] in _PRINTED) and row.get("params") is not None


def _example(row: Row) -> Row:
    claim = _PRINTED[row["method"]]
    published = row["method"] != "hypernetwork" or row["budget"] == PUBLISHED
    said = paper.claims()[claim].value if published else None
    return {**row, "what": row["method"], "paper": None if said is None else f"{said:g}M"}


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f}M"


def _first(row: Row) -> bool:
    return row["batch"] == 1 and row["mode"] == "train"


def _same(row: Row, rows: Sequence[Row], **changed: Any) -> Row:
    """Return the row that differs from another in what is given, empty if there is none."""
    keys = ("network", "budget", "method", "batch", "mode")
    wanted = {key: changed.get(key, row[key]) for key in keys}
    return next((r for r in rows if all(r[key] == wanted[key] for key in keys)), {})


def _wide(row: Row, rows: Sequence[Row]) -> Row:
    return {
        **row,
        "at_64": _same(row, rows, batch=64).get("overhead"),
        "single": _same(row, rows, method="npas-single").get("overhead"),
        "in_eval": _same(row, rows, mode="eval").get("overhead"),
        "step": _same(row, rows, mode="step").get("overhead"),
    }


def _peer_line(row: Row, rows: Sequence[Row]) -> Row:
    note = row["note"]
    if row.get("params") is None:
        note = "its minimum is above the budget" if row["minimum"] else "does not apply"
    return {
        **row,
        "note": note,
        "npas": _same(row, rows, method="npas").get("overhead"),
        "in_eval": _same(row, rows, mode="eval").get("overhead"),
    }
