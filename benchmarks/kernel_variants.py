"""What the kernels become where one gradient is not wanted, or nothing is aligned.

``python -m benchmarks.kernel_variants [--op OP] [--write FILE]`` compiles every kernel for every
target, for shapes that the table of ``benchmarks.kernels --aot`` leaves out and every choice of
gradients, and lists those that keep something on the stack: a few thousand kernels, ten minutes.
"""

import argparse
import importlib
import itertools
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.ahead import TARGETS, compile_ahead
from benchmarks.kernel_cases import (
    BF16,
    FP32,
    NAMES,
    combine_sample,
    gather_sample,
    gather_tile_sample,
    linear_sample,
    output_shape,
    tile_sample,
)
from benchmarks.runner import environment
from benchmarks.tables import Column, Section, markdown, show
from npas.kernels.launch import Launch
from npas.kernels.samples import Sample

SAMPLES: Mapping[str, Sequence[Sample]] = {
    "combine": (
        combine_sample("aligned", (0, 32_768, 4, 32_768), (8_192, 32_768, 4, 32_768)),
        combine_sample("misaligned", (1, 1_001, 4, 1_001), (5, 77, 9, 501)),
        combine_sample("average", (0, 1_024, 1, 1_024), averages=True),
    ),
    "tile_mask": (
        tile_sample("aligned", 4_096, 65_536, 36_864),
        tile_sample("misaligned", 1_001, 4_097, 9_000),
        tile_sample("repeated", 4_096, 65_536, masked=False),
        tile_sample("bank of 40", 40, 4_000),
        tile_sample("bank of 7", 7, 400),
        tile_sample("tiles dealt out", 512, 512 * 700),
    ),
    "gather_combine": (
        gather_sample("aligned", (0, 131_072, 4, 131_072), 256, (64,)),
        gather_sample("misaligned", (1, 131_072, 4, 130_050), 255, (64,)),
        gather_sample("overlap", (0, 65_536, 4, 131_072), 256, (64,)),
    ),
    "gather_tile_mask": (
        gather_tile_sample("aligned", 4_096, 512, 256, (64,)),
        gather_tile_sample("misaligned", 1_001, 512, 255, (64,)),
        gather_tile_sample("tiles dealt out", 4_096, 512, 256, (4_096,)),
        gather_tile_sample("misaligned, tiles dealt out", 1_001, 512, 255, (4_096,)),
    ),
    "combine_linear": tuple(
        linear_sample(f"K={k}, {rows} rows, base {base}", (base, 262_144, k, 262_144), 512, rows)
        for rows in (16, 32, 64, 128)
        for k in (1, 4, 9)
        for base in (0, 1)
    ),
}
_COLUMNS = (
    Column("op", "op"),
    Column("kernel", "kernel"),
    Column("compiled", "compiled"),
    Column("with a stack", "spilling"),
    Column("most bytes", "most"),
    Column("where", "where"),
)
_NOTE = (
    "Of all variants, those that keep values of a thread on the stack, and the most bytes that one "
    "does. NVIDIA's assembler does that to fit one more block into a multiprocessor: 80 registers "
    "are used of 255."
)


def launches(op: str, sample: Sample, dtype: torch.dtype) -> Iterator[Launch]:
    """Yield the launches of a call, forward and for every choice of gradients."""
    module: Any = importlib.import_module(f"npas.kernels.{op}.triton")
    tensors = [torch.zeros(n, dtype=dtype) for n in sample.sizes]
    others = sample.others()
    flat = torch.zeros(output_shape(op, sample), dtype=dtype)
    yield from module.forward_launches(flat, *tensors, *others)
    for wanted in itertools.product((True, False), repeat=len(tensors)):
        buffers = [torch.zeros(n if w else 0) for n, w in zip(sample.sizes, wanted, strict=True)]
        yield from module.accumulate_launches(flat, *tensors, *others, *buffers)


def rows(ops: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kernel of each op."""
    for op in ops:
        found: dict[str, dict[str, Any]] = {}
        for sample, dtype, target in itertools.product(SAMPLES[op], (FP32, BF16), TARGETS):
            for launch in launches(op, sample, dtype):
                blank = {"op": op, "kernel": launch.name, "compiled": 0, "spilling": 0, "most": 0}
                row = found.setdefault(launch.name, blank | {"where": {}})
                spills = compile_ahead(launch, target).spills
                row["compiled"] += 1
                if spills:
                    row["spilling"] += 1
                    row["most"] = max(row["most"], spills)
                    row["where"][f"{sample.label} ({NAMES[dtype]}, {target})"] = None
        yield from (row | {"where": "; ".join(row["where"]) or "-"} for row in found.values())


def main() -> None:
    """Compile, print, and write a file where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", choices=SAMPLES, help="only this one")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    given = parser.parse_args()
    found = list(rows([given.op] if given.op else list(SAMPLES)))
    sections = [Section("Variants compiled ahead of time", _NOTE, _COLUMNS, found)]
    if given.write:
        where = ", ".join(f"{k} {v}" for k, v in environment(torch.device("cpu")).items())
        command = shlex.join(["python", "-m", "benchmarks.kernel_variants", *sys.argv[1:]])
        text = markdown("Variants of the kernels", command, where, sections)
        given.write.write_text(text, encoding="utf-8")
    show(Console(width=160), sections)


if __name__ == "__main__":
    main()
