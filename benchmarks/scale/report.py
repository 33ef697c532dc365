"""docs/scale.md: the tables of `python -m benchmarks.scale`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.machines import H100, V100
from benchmarks.scale.measured import BLOCKS, RANKS, ROWS, STAGES, WIDTH
from benchmarks.scale.planning import BUDGET
from benchmarks.scale.prediction import BERT_BATCH, STAGES as PARTS, TOKENS, WRN_BATCH
from benchmarks.tables import Column, Row, Section, markdown, times

COMMAND = "python -m benchmarks.scale --write"
SUMMARY = Path("benchmarks/results/scale.json")
PAGE = Path("docs/scale.md")

_PLANNING = (
    f"Plans at {BUDGET} of configurations in benchmarks/scale/configs, on the meta device; medians "
    "of three processes of one thread. Imports (torch, transformers, npas) are not part of the "
    "other times."
)
_MEASURED = (
    f"{BLOCKS} residual blocks of width {WIDTH} and AdamW, {ROWS} rows a rank, on "
    f"{' and '.join(map(str, RANKS))} processes with gloo; the most of any rank, in MB. Sent: what "
    "collectives were given (all-reduce, reduce-scatter: all of a gradient; all-gather: all of "
    "what is gathered), as the profiler sees them in the process group; broadcasts of buffers "
    "(norms' statistics, gains) are left out. Parameters, gradients and optimizer: what a "
    "rank keeps of them. Gathered: the most whole parameters at once, seen in the forward pass. "
    "Peak: parameters and "
    "optimizer state, and the most that a step allocated at once, gathered parameters, gradients "
    "and activations included. Dense FSDP2 shards block by block, the compiled network bank by "
    f"bank, or {STAGES} stages that are compiled by themselves are each a unit."
)
_CHECKED = (
    "Two measurements of the paper (appendix G.1) that the model is checked against. It names no "
    f"system: the stated one is {V100.name}, of which collectives reach "
    f"{V100.reached:.0%}, with training speeds that NVIDIA published for a V100 in mixed precision "
    f"(ResNet-50, scaled to WRN-50-2 by multiply-accumulates, at {WRN_BATCH} images a GPU; "
    f"BERT-Large, {BERT_BATCH} sequences of 512) and gradients of four bytes. One constant was "
    "chosen for the first point: the share of its speed that other work loses while a collective "
    f"runs, {V100.contention}. The second hardly depends on it. The other rows say what the ratios "
    "depend on: the network most."
)
_SEGMENTS = (
    "What sending banks in pieces of 1 MiB, each as soon as no layer that is left in the backward "
    "pass has a template in it, would gain, as a share of the step, on the slowest network: too "
    "little for one more kind of parameter. Windows of a bank are used from the first block on. So "
    "a bank is one parameter, and DistributedDataParallel's own buckets are right: one that is "
    "larger is a bucket of its own."
)
_PREDICTED = (
    f"A decoder of 70B, {TOKENS:,} tokens a GPU, under FSDP2: parameters gathered in two bytes for "
    "the forward and again for the backward pass, gradients reduced in four. Dense by blocks, "
    f"compiled as {PARTS} stages that share nothing with each other. Compute is 6 FLOPs a "
    "parameter and token at 40% of the peak (Llama 3: 38 to 43%). Ratio: dense over compiled, at "
    "the same tokens. Held: shards, two parts gathered, the gradient of one; not activations, nor "
    "the weights that are made. On the fast network the work of making weights costs more than is "
    "saved at every size here, by 1% to 12%; on the slow one the bytes decide, and a step takes a "
    "fifth to a half of the time. Memory falls with the budget only where a rank's shards are most "
    "of it: at 64 GPUs to less than half at 10%, not at all at 25%, since a compiled part is "
    "larger than a block.\n\n"
    "The model leaves out: attention and activations, networks whose nodes do not all have the "
    "line rate at once, stragglers, tensor and pipeline parallelism (which keep most bytes within "
    "nodes, and with which less is saved), and kernels that multiply without writing the weight, "
    "which move less than is counted here. It breaks where memory is exceeded, where a step is so "
    "short that starting kernels counts, and where collectives of several rings overlap; and it is "
    "no statement about quality at a budget, which docs/quality.md makes for small networks only. "
    f"{H100.name} and a network a 32nd as fast."
)


_HELD = ("trainable", "sent", "parameters", "gradients", "optimizer", "gathered", "peak")


def _mb(value: float) -> str:
    return f"{value / 1e6:,.2f}"


def _gb(value: float) -> str:
    return f"{value / 1e9:,.1f}"


def _ms(value: float) -> str:
    return f"{value * 1e3:,.1f}"


def _s(value: float) -> str:
    return f"{value:.2f}"


def _wide(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row a case, with its measures as keys."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["case"], {"case": row["case"]})[row["measure"]] = row["value"]
    return list(found.values())


def sections(summary: Mapping[str, Any]) -> list[Section]:
    """Return the tables of a summary."""
    return [
        Section(
            "Planning",
            _PLANNING,
            [
                Column("case", "case"),
                Column("parameters", "parameters", "{:,}".format),
                Column("layers", "layers", "{:,}".format),
                Column("imports s", "imports", _s),
                Column("model on meta s", "model on meta", _s),
                Column("plan s", "plan", _s),
                Column("ms a layer", "plan, a layer", "{:.2f}".format),
                Column("table s", "table", _s),
                Column("rows of the table", "rows of the table", str),
                Column("peak memory MB", "peak memory", _mb),
                Column("JSON MB", "JSON", _mb),
            ],
            _wide(summary["planning"]),
        ),
        Section(
            "Bytes sent and held",
            _MEASURED,
            [
                Column("case", "case"),
                *(Column(what, what, _mb) for what in _HELD),
            ],
            _wide(summary["measured"]),
        ),
        Section(
            "Step time: two published points",
            _CHECKED,
            [
                Column("case", "case"),
                Column("machine", "machine"),
                Column("contention", "contention", str),
                Column("dense ms", "dense_s", _ms),
                Column("of it exposed", "dense_exposed_s", _ms),
                Column("compiled ms", "compiled_s", _ms),
                Column("of it exposed", "compiled_exposed_s", _ms),
                Column("of it generation", "generation_s", _ms),
                Column("ratio", "ratio", "{:.3f}".format),
                Column("published", "published", str),
            ],
            summary["checked"],
        ),
        Section(
            "Banks in pieces",
            _SEGMENTS,
            [
                Column("network", "network"),
                Column("budget", "budget"),
                Column("banks", "banks", str),
                Column("exposed ms, whole", "exposed_s", _ms),
                Column("in pieces", "pieces_exposed_s", _ms),
                Column("gain", "gain", "{:.1%}".format),
            ],
            summary["segments"],
        ),
        Section(
            "Step time: 70B",
            _PREDICTED,
            [
                Column("machine", "machine"),
                Column("GPUs", "gpus", "{:,}".format),
                Column("budget", "budget"),
                Column("step s", "step_s", _s),
                Column("of it exposed", "exposed_s", _s),
                Column("of it generation", "generation_s", _s),
                Column("ratio", "ratio", times),
                Column("held GB", "held_bytes", _gb),
                Column("sent GB a step", "sent_bytes", _gb),
            ],
            summary["predicted"],
        ),
    ]


def page(summary: Mapping[str, Any]) -> str:
    """Return the page's text."""
    made_with = summary["made with"]
    where = "; ".join(f"{name} {value}" for name, value in made_with.items())
    return markdown("Scale", COMMAND, where, sections(summary))
