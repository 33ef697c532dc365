"""Samples of every op's arguments, ragged ones first of all: what tests and benchmarks run on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from npas.kernels import combine, gather_combine, gather_tile_mask, interpolate, tile_mask
from npas.kernels.combine import reference as combine_reference
from npas.kernels.combine_linear import reference as combine_linear_reference
from npas.kernels.combine_linear.op import combine_linear_flat
from npas.kernels.gather_combine import reference as gather_combine_reference
from npas.kernels.gather_tile_mask import reference as gather_tile_mask_reference
from npas.kernels.interpolate import reference as interpolate_reference
from npas.kernels.tile_mask import reference as tile_mask_reference
from npas.kernels.tile_mask.tiles import mask_size

Op = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of an op, without the values of its float tensors.

    Attributes:
        label: what is particular about it.
        sizes: elements of the float tensors, in the order of the op's arguments.
        gains: number of weights that have a fixed gain, or None where the op takes none.
        constants: the arguments that follow, up to ``ids`` and ``dtype``.
        ids: shape of the rows looked up and how many rows there are, where the op takes ids.
    """

    label: str
    sizes: tuple[int, ...]
    constants: tuple[Any, ...]
    gains: int | None = None
    ids: tuple[tuple[int, ...], int] | None = None

    def tensors(
        self, dtype: torch.dtype, *, device: str = "cpu", seed: int = 0
    ) -> list[torch.Tensor]:
        """Draw the float tensors from a unit normal: the same values, rounded, in every dtype."""
        source = torch.Generator().manual_seed(seed)
        drawn = (torch.randn(n, generator=source, dtype=torch.float64) for n in self.sizes)
        return [tensor.to(device, dtype) for tensor in drawn]

    def others(self, *, device: str = "cpu", seed: int = 0) -> list[Any]:
        """Return the arguments after the float tensors, ``dtype`` excepted; rows may repeat."""
        source = torch.Generator().manual_seed(seed)
        found: list[Any] = []
        if self.gains is not None:
            found.append(torch.rand(self.gains, generator=source).add_(0.5).to(device))
        found += self.constants
        if self.ids is not None:
            shape, n_rows = self.ids
            found.append(torch.randint(n_rows, shape, generator=source).to(device))
        return found


@dataclass(frozen=True, slots=True)
class OpSamples:
    """An op, its definition, and the arguments to try it on.

    Attributes:
        op: the public function.
        reference: the definition.
        tensors: names of the float tensors.
        samples: see `Sample`.
        roundings: how often a number is rounded to the dtype of the output on its way to a result.
    """

    op: Op
    reference: Op
    tensors: tuple[str, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    roundings: int = 1


def _combine(label: str, bank: int, *rows: tuple[int, ...]) -> Sample:
    """Build a sample from rows of (base, stride, k, n), each with coefficients of its own.

    A fifth integer is the row's ``coef_offset``.
    """
    table: list[int] = []
    offset = 0
    for base, stride, k, n, *given in rows:
        table += [base, stride, k, n, *(given or [offset])]
        offset += 0 if given else k
    return Sample(label, (bank, offset), (table,), gains=len(rows))


def _combine_linear(label: str, bank: int, row: tuple[int, ...], out: int, m: int) -> Sample:
    base = _combine(label, bank, row)
    return Sample(label, (*base.sizes, m * (row[3] // out)), (*base.constants, out), 1)


def _gather_combine(label: str, bank: int, row: tuple[int, ...], cols: int, *ids: int) -> Sample:
    base = _combine(label, bank, row)
    return Sample(label, base.sizes, (*base.constants, cols), 1, (ids, row[3] // cols))


def _tile(label: str, bank: int, *sizes: int, spare: int = 0, masked: bool = True) -> Sample:
    mask = mask_size(bank, max(sizes)) + spare if masked else 0
    return Sample(label, (bank, mask, len(sizes)), (list(sizes),))


def _gather_tile(
    label: str, bank: int, rows: int, cols: int, *ids: int, masked: bool = True
) -> Sample:
    base = _tile(label, bank, rows * cols, spare=4, masked=masked)
    return Sample(label, base.sizes, (rows * cols, cols), ids=(ids, rows))


def _interpolate(label: str, bank: int, rows: int, cols: int) -> Sample:
    return Sample(label, (bank, 1), (rows, cols))


SAMPLES: Mapping[str, OpSamples] = {
    "combine": OpSamples(
        combine,
        combine_reference.combine,
        ("theta", "coef"),
        (
            _combine("one element", 1, (0, 1, 1, 1)),
            _combine("one template", 64, (1, 7, 1, 63)),
            _combine("disjoint, stride is n", 60, (0, 15, 4, 15)),
            _combine("disjoint, gaps", 4200, (3, 1050, 4, 1000)),
            _combine("overlap by one", 253, (0, 62, 4, 63)),
            _combine("overlap by more than a window", 1100, (4, 20, 3, 1000)),
            _combine("stride 1", 4200, (5, 1, 9, 4097)),
            _combine("three windows deep", 2100, (0, 400, 4, 900)),
            _combine(
                "several rows over each other",
                9000,
                (0, 4097, 2, 4097),
                (11, 15, 5, 15),
                (8985, 1, 1, 15),
                (100, 1000, 7, 1000),
                (6000, 48, 4, 63),
                (0, 1, 2, 1),
            ),
            _combine("averages", 2100, (0, 500, 4, 600, -1), (7, 63, 3, 63), (100, 1, 1, 1000, -1)),
            _combine("aligned", 8192, (0, 2048, 4, 2048), (16, 1024, 3, 1024), (4096, 0, 1, 4096)),
            _combine("ends ragged", 8192, (32, 2000, 4, 2001), (64, 1008, 2, 1015)),
            _combine("more than a cache of one template", 300_001, (0, 1, 1, 300_001)),
        ),
    ),
    "combine_linear": OpSamples(
        combine_linear_flat,
        combine_linear_reference.combine_linear_flat,
        ("theta", "coef", "input"),
        (
            _combine_linear("one element", 1, (0, 1, 1, 1), 1, 1),
            _combine_linear("one row", 15, (0, 5, 3, 5), 5, 1),
            _combine_linear("one output", 63, (3, 20, 3, 20), 1, 7),
            _combine_linear("gaps", 300, (2, 80, 3, 75), 15, 15),
            _combine_linear("averages", 200, (3, 63, 3, 63, -1), 9, 15),
            _combine_linear("one template", 4100, (3, 1, 1, 4097), 17, 15),
            _combine_linear("ragged", 4100, (3, 1000, 4, 1000), 40, 63),
            _combine_linear("aligned", 4096, (0, 1024, 4, 1024), 32, 32),
            _combine_linear("more templates than are unrolled", 600, (0, 63, 9, 63), 7, 20),
            _combine_linear("more rows than a tile", 512, (0, 256, 2, 256), 16, 150),
            _combine_linear("several tiles each way", 9000, (0, 8775, 1, 8775), 65, 70),
            _combine_linear("no rows", 63, (0, 20, 2, 20), 5, 0),
        ),
        roundings=2,
    ),
    "tile_mask": OpSamples(
        tile_mask,
        tile_mask_reference.tile_mask,
        ("theta", "mask", "coef"),
        (
            _tile("bank of one", 1, 15),
            _tile("bank below the window", 4, 63),
            _tile("bank of one window", 9, 1000),
            _tile("last tile of one element", 63, 64),
            _tile("last tile shorter than the window", 15, 34),
            _tile("last tile whole", 63, 252),
            _tile("mask longer than needed", 63, 1000, spare=17),
            _tile("repeated", 63, 1000, masked=False),
            _tile("ragged", 1000, 4097),
            _tile("several weights", 63, 100, 1000, 64, 189),
            _tile("several weights, aligned", 1024, 4096, 2048, 5000),
            _tile("several periods and a rest", 4097, 9000),
            _tile("whole tiles of a block and a rest", 4200, 8400),
            _tile("more tiles than a chunk", 100, 300_001),
        ),
    ),
    "interpolate": OpSamples(
        interpolate,
        interpolate_reference.interpolate,
        ("theta", "coef"),
        (
            _interpolate("one element", 1, 1, 1),
            _interpolate("one element, many", 1, 15, 63),
            _interpolate("same size", 63, 9, 7),
            _interpolate("grid wraps", 61, 15, 63),
            _interpolate("grid wraps more than once", 2, 63, 1),
            _interpolate("one row", 15, 1, 1000),
            _interpolate("one column", 15, 1000, 1),
            _interpolate("columns limit the grid", 4097, 1400, 3),
            _interpolate("nearly full", 4095, 64, 64),
            _interpolate("ragged", 100, 15, 63),
            _interpolate("convolution", 1000, 16, 144),
        ),
    ),
    "gather_combine": OpSamples(
        gather_combine,
        gather_combine_reference.gather_combine,
        ("theta", "coef"),
        (
            _gather_combine("one element", 1, (0, 1, 1, 1), 1, 1),
            _gather_combine("rows repeat", 300, (2, 75, 3, 75), 15, 40),
            _gather_combine("overlap", 1100, (5, 30, 3, 1000), 8, 4, 15),
            _gather_combine("one template", 4100, (3, 1, 1, 4097), 4097, 3),
            _gather_combine("average", 100, (3, 30, 3, 36, -1), 4, 15),
            _gather_combine("aligned", 512, (0, 128, 4, 128), 16, 9),
            _gather_combine("no rows", 63, (0, 20, 2, 40), 5, 0),
            _gather_combine("scalar id", 63, (0, 20, 2, 40), 5),
            _gather_combine("one row, more than a chunk", 3300, (3, 1100, 3, 1090), 1090, 33),
        ),
    ),
    "gather_tile_mask": OpSamples(
        gather_tile_mask,
        gather_tile_mask_reference.gather_tile_mask,
        ("theta", "mask", "coef"),
        (
            _gather_tile("bank of one", 1, 15, 1, 40),
            _gather_tile("bank below the window", 4, 15, 3, 8),
            _gather_tile("short rows", 63, 40, 8, 4, 8),
            _gather_tile("row across tiles", 63, 40, 100, 4, 15),
            _gather_tile("tile across rows", 1000, 63, 65, 100),
            _gather_tile("repeated", 63, 40, 25, 15, masked=False),
            _gather_tile("no rows", 15, 8, 8, 0),
            _gather_tile("scalar id", 15, 8, 8),
            _gather_tile("more than a chunk", 4097, 15, 4097, 65),
            _gather_tile("rows and runs longer than chunks", 63, 3, 90, 150),
        ),
    ),
}
