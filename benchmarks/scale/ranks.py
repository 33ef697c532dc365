"""Functions on several ranks: processes of this machine, joined by gloo over a file."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile

#: Collectives of gloo that move tensors, as the profiler names them -> what they are called here.
_MOVES = {
    "gloo:all_reduce": "all-reduce",
    "gloo:broadcast": "broadcast",
    "gloo:all_gather": "all-gather",
    "gloo:reduce_scatter": "reduce-scatter",
}


def on_ranks(n: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``function(rank, n, *arguments)`` returns on each of n ranks.

    Args:
        n: processes, of one thread each.
        function: of a module that can be imported. The default group is there while it runs.
        arguments: that can be pickled.

    Raises:
        torch.multiprocessing.ProcessRaisedException: if it fails on a rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (n, folder, function, arguments), nprocs=n)
        return [torch.load(Path(folder) / f"{i}.pt", weights_only=False) for i in range(n)]


def _work(
    rank: int, n: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=n)
    try:
        torch.save(function(rank, n, *arguments), Path(folder) / f"{rank}.pt")
        dist.barrier()  # whoever leaves first closes connections that others may still read from
    finally:
        dist.destroy_process_group()


def moved(call: Callable[[], Any]) -> list[tuple[str, int]]:
    """Return the collectives that a call makes on this rank, in order, with the elements of each.

    They are seen by the profiler where the process group starts them, whoever asked for them.
    """
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        call()
        dist.barrier()
    found = []
    events: Any = profiled.events()
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.name in _MOVES:
            shapes = [shape for shape in event.input_shapes if shape]
            found.append((_MOVES[event.name], sum(_n(shape) for shape in shapes)))
    return found


def _n(shape: list[int]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n
