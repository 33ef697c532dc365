"""Launches of `combine` that each break one promise, and kernels that cannot be counted."""

# pyright: reportIndexIssue=false, reportArgumentType=false, reportOptionalMemberAccess=false

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
import triton
import triton.language as tl

from benchmarks.counting import count
from benchmarks.kernel_cases import FP32, Case, combine_sample
from npas.kernels.combine import triton as good
from npas.kernels.launch import Launch

N = 8192


@triton.jit
def reads_twice(out_ptr, theta_ptr, BLOCK: tl.constexpr):
    """Copy, and read what is copied once more."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(theta_ptr + place)
    tl.store(out_ptr + place, value)
    again = tl.load(theta_ptr + place)
    tl.store(out_ptr + place, again, mask=again != value)


@triton.jit
def spills(out_ptr, theta_ptr, BLOCK: tl.constexpr):
    """Copy with more values at a time than a thread has registers."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(theta_ptr + place)
    tl.store(out_ptr + place, value - tl.sum(value))


@triton.jit
def adds_atomically(out_ptr, theta_ptr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr + place, tl.load(theta_ptr + place))


@triton.jit
def reads_beyond(out_ptr, theta_ptr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(out_ptr + place, tl.load(theta_ptr + place + 1))


def forward_launches(
    out: torch.Tensor,
    theta: torch.Tensor,
    coef: torch.Tensor,
    gain: torch.Tensor | None,
    table: Sequence[int],
) -> list[Launch]:
    """Return launches that break the promise which the table's stride names."""
    tensors = {"out_ptr": out, "theta_ptr": theta}
    match table[1]:
        case 1:
            (launch,) = good.forward_launches(out, theta, coef, gain, table)
            return [launch, replace(launch, grid=(0,))]
        case 2:
            return [Launch(reads_twice, (N // 1024,), tensors, {"BLOCK": 1024})]
        case _:
            return [Launch(spills, (1,), tensors, {"BLOCK": N}, warps=1)]


def accumulate_launches(*args: object) -> list[Launch]:
    """Return what combine does: only forward is broken here."""
    return good.accumulate_launches(*args)


def _case(
    label: str, row: tuple[int, int, int, int], kernels: str = __name__, bank: int = 0
) -> Case:
    return Case("combine", combine_sample(label, row, bank=bank), (FP32,), kernels)


CASES = (
    _case("one more launch", (0, 1, 1, N)),
    _case("reads twice", (0, 2, 1, N)),
    _case("spills", (0, 3, 1, N)),
    _case("not aligned", (1, N, 4, N), kernels="", bank=4 * N + 16),
)


if __name__ == "__main__":
    theta = torch.zeros(1024)
    tensors = {"out_ptr": torch.zeros(1024), "theta_ptr": theta}
    count([Launch(globals()[sys.argv[1]], (1,), tensors, {"BLOCK": 1024})])
