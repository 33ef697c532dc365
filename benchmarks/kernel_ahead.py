"""Rows of ``python -m benchmarks.kernels --aot``: what each kernel becomes for each target.

A row is one direction of one case for one target. ``load_bits`` and ``store_bits`` are the widest
load and store of the tensor that has the narrowest, of those that carry a fiftieth of the bytes
moved: one tensor that is read element by element is not hidden by three that are not. One that
has no load or store in the code is a KeyError: the code was not understood.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.ahead import TARGETS, Compiled, compile_ahead
from benchmarks.counting import Moved, count_elsewhere, key_of
from benchmarks.kernel_cases import FORWARD, NAMES, Case, cases_of, directions
from benchmarks.kernel_floors import floor_bytes

Row = dict[str, Any]

#: A tensor that carries less of the bytes moved has no say in the width of loads, nor of stores.
SHARE = 1 / 50
#: Ops whose kernels must load and store 128 bits, and move no more than the floor and a twentieth.
AT_SPEED = ("combine", "tile_mask")
MOST_LAUNCHES = {True: 1, False: 3}
MOST_OF_FLOOR = 1.05


def rows(
    module: str = "benchmarks.kernel_cases",
    *,
    targets: Iterable[str] = TARGETS,
    quick: bool = False,
    op: str | None = None,
) -> list[Row]:
    """Compile the cases of a module, and count what they move.

    Args:
        module: where ``CASES`` is.
        targets: keys of `TARGETS`.
        quick: only the cases that ``--quick`` looks at.
        op: only its cases.
    """
    counted = count_elsewhere(module, quick=quick, op=op)
    return [
        _row(case, direction, dtype, target, counted[key_of(case, direction, dtype)])
        for case in cases_of(module, quick=quick, op=op)
        for direction, dtype in directions(case)
        for target in targets
    ]


def _row(
    case: Case, direction: str, dtype: torch.dtype, target: str, moved: Sequence[Moved]
) -> Row:
    launches = case.launches(direction, dtype)
    made = [compile_ahead(launch, target) for launch in launches]
    loads, stores = _widths(made, moved)
    total = sum(launch.total for launch in moved)
    floor = floor_bytes(case.op, case.sample, direction, dtype)
    return {
        "op": case.op,
        "direction": direction,
        "dtype": NAMES[dtype],
        "target": target,
        "registers": max(kernel.registers for kernel in made),
        "spills": sum(kernel.spills for kernel in made),
        "shared_bytes": max(kernel.shared_bytes for kernel in made),
        "load_bits": loads,
        "store_bits": stores,
        "launches": len(launches),
        "bytes": total,
        "floor_bytes": floor,
        "ratio_floor": round(total / floor, 4),
        "shape": case.sample.label,
        "kernels": [kernel.kernel for kernel in made],
    }


def _widths(made: Sequence[Compiled], moved: Sequence[Moved]) -> tuple[int, int]:
    """Return the widest load, and the widest store, of the tensor that has the narrowest."""
    least = SHARE * sum(launch.total for launch in moved)
    pairs = list(zip(made, moved, strict=True))
    loads = [(n, c.load_bits, c.loads, name) for c, m in pairs for name, n in m.loads.items()]
    stores = [(n, c.store_bits, c.stores, name) for c, m in pairs for name, n in m.stores.items()]
    return _narrowest(loads, least), _narrowest(stores, least)


def _narrowest(accesses: Sequence[tuple[int, int, Mapping[str, int], str]], least: float) -> int:
    # Where no tensor carries enough, the one that carries most counts.
    enough = min(least, max(n_bytes for n_bytes, *_ in accesses))
    return min(min(bits, of[name]) for n_bytes, bits, of, name in accesses if n_bytes >= enough)


def problems(row: Row) -> list[str]:
    """Return what a row breaks of what is promised: no spills, width, launches, bytes."""
    found: list[str] = []
    if row["spills"]:
        found.append(f"spills {row['spills']}")
    if row["op"] in AT_SPEED:
        found += [
            f"{key} {row[key]}, must be 128"
            for key in ("load_bits", "store_bits")
            if row[key] < 128
        ]
        most = MOST_LAUNCHES[row["direction"] == FORWARD]
        if row["launches"] > most:
            found.append(f"launches {row['launches']}, must be {most} at most")
        ratio = row["ratio_floor"]
        if ratio > MOST_OF_FLOOR:
            found.append(f"moves {ratio} of the floor, must be {MOST_OF_FLOOR} at most")
    where = " ".join(row[key] for key in ("op", "direction", "dtype", "target"))
    return [f"{where} ({row['shape']}): {problem}" for problem in found]
