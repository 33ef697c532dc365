"""How the benchmarks time: variants in turn, medians, and what a row says of where it was made.

The variants of a case take turns within each round, so that a machine that slows down slows all of
them, and a comparison is the median of the rounds' ratios, never a ratio of two medians.
"""

import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], object]

# More than the last cache of any GPU here: 50 MB on an H100, 256 MB on an MI300.
FLUSH_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of each variant, a round after the other."""

    rounds: Mapping[str, list[float]]

    def ms(self, variant: str) -> float:
        """Return a variant's median."""
        return statistics.median(self.rounds[variant])

    def spread(self, variant: str) -> float:
        """Return the distance between a variant's quartiles, in medians."""
        low, _, high = statistics.quantiles(self.rounds[variant], n=4, method="inclusive")
        return (high - low) / self.ms(variant)

    def ratio(self, variant: str, other: str) -> float | None:
        """Return the median of the rounds' ratios of one variant to another, None if absent."""
        if other not in self.rounds:
            return None
        pairs = zip(self.rounds[variant], self.rounds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


def paired(variants: Mapping[str, Call], device: torch.device, rounds: int) -> Times:
    """Time variants in turn.

    On a CUDA device a round is timed by events on the stream, with the device's cache emptied
    before each call. What a call returns is dropped before the clock stops: on the CPU that is
    when its memory is given back.

    Args:
        variants: name -> what is timed. Each is called once before the first round.
        device: where they run.
        rounds: how often each is called, at least 2.
    """
    clock = _cuda_ms if device.type == "cuda" else _cpu_ms
    for call in variants.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in variants}
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            # Every other round backwards, so that none always finds the caches as the same one
            # left them.
            for name in list(variants)[:: -1 if index % 2 else 1]:
                found[name].append(clock(variants[name]))
    finally:
        if enabled:
            gc.enable()
    return Times(found)


def _cpu_ms(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(call: Call) -> float:
    torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda").zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def environment(device: torch.device) -> dict[str, Any]:
    """Return what every row carries: versions, machine, threads and git revision."""
    packages = {}
    for package in ("torch", "triton"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.machine()} {capability}, {os.cpu_count()} cores"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        **packages,
        "machine": machine,
        "threads": torch.get_num_threads(),
        "revision": revision(),
    }


def revision() -> str:
    """Return the git revision, marked ``+`` where files differ from it, or ``unknown``."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
