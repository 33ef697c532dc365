"""What `benchmarks.kernels` prints and writes: columns, titles, and how to read them."""

from collections.abc import Sequence

from benchmarks.kernel_ahead import MOST_OF_FLOOR
from benchmarks.kernel_generation import TARGETS
from benchmarks.tables import Column, Row, Section, count, ms, percent, times

_CALL = (Column("op", "op"), Column("direction", "direction"), Column("dtype", "dtype"))
_BYTES = (Column("bytes", "bytes", count), Column("floor", "floor_bytes", count))

_AHEAD = (
    *_CALL,
    Column("target", "target"),
    Column("registers", "registers"),
    Column("spills", "spills"),
    Column("shared", "shared_bytes", count),
    Column("load bits", "load_bits"),
    Column("store bits", "store_bits"),
    Column("launches", "launches"),
    *_BYTES,
    Column("of floor", "ratio_floor", times),
    Column("shape", "shape"),
)
_TIMES = (
    *_CALL,
    Column("shape", "shape"),
    Column("ms", "ms", ms),
    Column("spread", "spread", percent),
    *_BYTES,
    Column("to copy", "ratio_copy", times),
    Column("to naive", "ratio_naive", times),
    Column("to reference", "ratio_reference", times),
    Column("to written", "ratio_written", times),
)
_NETWORKS = (
    Column("direction", "direction"),
    Column("shape", "shape"),
    Column("ms", "ms", ms),
    Column("spread", "spread", percent),
    *_BYTES,
    Column("to copy", "ratio_copy", times),
    Column("to cached", "ratio_cached", times),
    Column("to clone", "ratio_clone", times),
    Column("to naive", "ratio_naive", times),
    Column("to by hand", "ratio_by_hand", times),
    Column("to reference", "ratio_reference", times),
    Column("temporaries", "temporaries", percent),
    Column("copy ms", "ms_copy", ms),
    Column("naive ms", "ms_naive", ms),
)


def ahead(rows: Sequence[Row]) -> list[Section]:
    """Return the table of ``--aot``."""
    note = (
        "Registers and shared memory: the most of any of the direction's kernels. Spills: of all "
        "of them. Load and store bits: the widest access to the tensor that has the narrowest, of "
        "those that carry a fiftieth of the bytes moved. Launches: for all weights of a bank. "
        "Bytes: counted from the addresses that the kernels compute; the floor is a formula "
        "(benchmarks/kernel_floors.py). combine and tile_mask must have 128 bits, 1 launch forward "
        f"and 3 backward at most, and move {MOST_OF_FLOOR} of the floor at most; no kernel spills."
    )
    return [Section("Compiled ahead of time", note, _AHEAD, rows)]


def timed(rows: Sequence[Row], networks: Sequence[Row]) -> list[Section]:
    """Return the tables of what was timed."""
    calls = (
        "Milliseconds: medians; spread: the distance between the quartiles, in medians. Ratios are "
        "medians of the rounds' ratios: to a copy of as many bytes as the floor, to the form a "
        "user would write, to autograd through the reference, to the product with a weight that "
        "combine writes."
    )
    forward, backward = TARGETS["forward"], TARGETS["backward"]
    whole = (
        f"Targets: forward, {times(forward['ratio_naive'])} of the naive form and "
        f"{times(forward['ratio_copy'])} of a copy at most; backward, "
        f"{times(backward['ratio_naive'])} of the naive form's; temporaries below "
        f"{percent(forward['temporaries'])} of the weights generated. A copy moves as many "
        "bytes as the floor between two buffers that are there; cached: in pieces, layer by layer, "
        "into one buffer that stays in the cache; clone: those pieces into fresh memory. By hand: "
        "the naive backward without autograd. A plan of views alone has no row."
    )
    sections = [Section("One call", calls, _TIMES, rows)] if rows else []
    if networks:
        sections.append(Section("All weights of a network", whole, _NETWORKS, networks))
    return sections
