"""The calls of the ops that `benchmarks.kernels` compiles, counts and times.

A case is one entry: an op, what is particular about the call, and its arguments. The launches
come from the op's own ``triton.py``, so what is compiled and counted is what runs.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from npas.kernels.launch import Launch
from npas.kernels.samples import Sample
from npas.kernels.tile_mask.tiles import mask_size

FORWARD, BACKWARD = "forward", "backward"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
#: dtype -> its name in tables and JSON.
NAMES = {FP32: "fp32", BF16: "bf16", FP16: "fp16"}


@dataclass(frozen=True, slots=True)
class Case:
    """One call of an op, in both directions and several dtypes.

    Attributes:
        op: name of the op.
        sample: its arguments, and in ``label`` what is particular about them.
        dtypes: of bank, coefficients and output.
        kernels: module whose ``forward_launches`` and ``accumulate_launches`` are looked at, the
            op's own if empty.
        stand_in: the same windows in a bank small enough to hold, whose bytes are counted in place
            of the sample's; that one is then on the meta device, and only compiled.
        quick: whether ``--quick`` looks at it too.
    """

    op: str
    sample: Sample
    dtypes: tuple[torch.dtype, ...] = (FP32, BF16)
    kernels: str = ""
    stand_in: Sample | None = None
    quick: bool = False

    def launches(self, direction: str, dtype: torch.dtype) -> list[Launch]:
        """Return the launches of one direction, with all gradients wanted."""
        return self._launches(self.sample, direction, dtype, "meta" if self.stand_in else "cpu")

    def countable(self, direction: str, dtype: torch.dtype) -> list[Launch]:
        """Return launches that can be run and move as many bytes."""
        return self._launches(self.stand_in or self.sample, direction, dtype, "cpu")

    def _launches(
        self, sample: Sample, direction: str, dtype: torch.dtype, device: str
    ) -> list[Launch]:
        module: Any = importlib.import_module(self.kernels or f"npas.kernels.{self.op}.triton")
        # Zeros take no memory before they are read.
        tensors = [torch.zeros(n, dtype=dtype, device=device) for n in sample.sizes]
        others = sample.others(device=device)
        flat = torch.zeros(output_shape(self.op, sample), dtype=dtype, device=device)
        if direction == FORWARD:
            return module.forward_launches(flat, *tensors, *others)
        buffers = [torch.zeros(n, device=device) for n in sample.sizes]
        return module.accumulate_launches(flat, *tensors, *others, *buffers)


def output_shape(op: str, sample: Sample) -> Sequence[int]:
    """Return the shape of what an op makes."""
    tensors = [torch.empty(n, device="meta") for n in sample.sizes]
    others = sample.others(device="meta")
    importlib.import_module(f"npas.kernels.{op}.op")
    return getattr(torch.ops.npas, op)(*tensors, *others, None, "eager").shape


def combine_sample(
    label: str, *rows: tuple[int, int, int, int], bank: int = 0, averages: bool = False
) -> Sample:
    """Build a call of `combine` from rows of (base, stride, k, n).

    Args:
        label: of the sample.
        rows: without ``coef_offset``: each has coefficients of its own.
        bank: elements; as many as the windows reach if 0.
        averages: whether the rows of one template take none, but 1 / k.
    """
    table: list[int] = []
    offset = 0
    for base, stride, k, n in rows:
        learned = k > 1 or not averages
        table += (base, stride, k, n, offset if learned else -1)
        offset += k if learned else 0
    end = max(base + (k - 1) * stride + n for base, stride, k, n in rows)
    return Sample(label, (bank or end, offset), (table,), gains=len(rows))


def tile_sample(label: str, bank: int, *sizes: int, masked: bool = True) -> Sample:
    """Build a call of `tile_mask`."""
    return Sample(
        label, (bank, mask_size(bank, max(sizes)) if masked else 0, len(sizes)), (list(sizes),)
    )


def gather_sample(
    label: str, row: tuple[int, int, int, int], cols: int, ids: tuple[int, ...]
) -> Sample:
    """Build a call of `gather_combine` from (base, stride, k, n); rows repeat."""
    of = combine_sample(label, row)
    return Sample(label, of.sizes, (*of.constants, cols), 1, (ids, row[3] // cols))


def gather_tile_sample(label: str, bank: int, rows: int, cols: int, ids: tuple[int, ...]) -> Sample:
    """Build a call of `gather_tile_mask`."""
    sizes = (bank, mask_size(bank, rows * cols), 1)
    return Sample(label, sizes, (rows * cols, cols), ids=(ids, rows))


def linear_sample(label: str, row: tuple[int, int, int, int], out: int, rows: int) -> Sample:
    """Build a call of `combine_linear` from (base, stride, k, n), outputs and rows of input."""
    of = combine_sample(label, row)
    return Sample(label, (*of.sizes, rows * row[3] // out), (*of.constants, out), 1)


#: What ``--aot`` compiles. Windows and weights are aligned, as `npas.plan` lays out all but the
#: smallest ones, and large enough that tables and partial sums are below a hundredth of the bytes.
CASES: tuple[Case, ...] = (
    Case(
        "combine",
        combine_sample(
            "bank of 139,264: K=4 of 32,768 and of 18,432, K=1 of 73,728",
            (0, 32_768, 4, 32_768),
            (8_192, 32_768, 4, 32_768),
            (0, 18_432, 4, 18_432),
            (65_536, 0, 1, 73_728),
        ),
        (FP32, BF16, FP16),
        quick=True,
    ),
    Case(
        "combine",
        combine_sample("K=4 at a stride of n / 2", (0, 32_768, 4, 65_536)),
        (BF16,),
    ),
    Case(
        "combine",
        combine_sample("bank past 2^31: K=4 of 32,768", (2**31, 32_768, 4, 32_768)),
        (BF16,),
        stand_in=combine_sample("", (0, 32_768, 4, 32_768)),
    ),
    Case(
        "tile_mask",
        tile_sample(
            "bank of 4,096: weights of 65,536, 36,864 and 18,000", 4_096, 65_536, 36_864, 18_000
        ),
        quick=True,
    ),
    Case(
        "tile_mask",
        tile_sample("bank of 4,096: a weight of 65,536, repeated", 4_096, 65_536, masked=False),
        (BF16,),
    ),
    Case(
        "tile_mask",
        tile_sample("bank of 65,536: a weight of 147,456", 65_536, 147_456),
        (BF16,),
    ),
    Case(
        "gather_combine",
        gather_sample("512 x 256, K=4, 64 rows", (0, 131_072, 4, 131_072), 256, (64,)),
        quick=True,
    ),
    Case(
        "gather_combine",
        gather_sample(
            "512 x 256, K=4 at a stride of n / 2, 64 rows", (0, 65_536, 4, 131_072), 256, (64,)
        ),
        (BF16,),
    ),
    Case(
        "gather_tile_mask",
        gather_tile_sample("bank of 4,096: 512 x 256, 64 rows", 4_096, 512, 256, (64,)),
        quick=True,
    ),
    Case(
        "combine_linear",
        linear_sample("512 x 512, K=4, 16 rows", (0, 262_144, 4, 262_144), 512, 16),
        quick=True,
    ),
    Case(
        "combine_linear",
        linear_sample("512 x 512, K=2, 128 rows", (0, 262_144, 2, 262_144), 512, 128),
        (BF16,),
    ),
)


def cases_of(module: str, *, quick: bool = False, op: str | None = None) -> list[Case]:
    """Return a module's ``CASES``.

    Args:
        module: its name.
        quick: only those that ``--quick`` looks at.
        op: only those of one op.
    """
    cases: Sequence[Case] = importlib.import_module(module).CASES
    return [case for case in cases if (case.quick or not quick) and op in (None, case.op)]


def directions(case: Case) -> Iterator[tuple[str, torch.dtype]]:
    """Yield what is compiled of a case: direction and dtype."""
    for dtype in case.dtypes:
        yield FORWARD, dtype
        yield BACKWARD, dtype
