"""Bytes that PyTorch's operators move, and the memory that a call takes besides its result."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Read only as many elements as they return; what they write is their result.
_LOOK_UP = frozenset({"index_select", "index", "gather", "embedding"})
# Change only as many elements as they are given.
_ADD_ROWS = frozenset({"index_add_", "index_put_"})
# Write their first argument and do not read it.
_OVERWRITE = frozenset({"copy_", "zero_", "fill_"})
# Take a tensor for its shape and device.
_FILL = frozenset({"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"})
_ALLOCATE = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"})


def bytes_moved(call: Callable[[], object]) -> int:
    """Count the bytes that the operators of a call read and write.

    Each operator reads its tensors once and writes its result once, in place or not; views and
    fresh memory cost nothing. What a cache saves between two operators is not known here, and
    what an operator does inside is not seen: neither is a copy that it makes of a view.

    Args:
        call: made of PyTorch's own operators, without custom ops.
    """
    with _Traffic() as mode:
        call()
    return mode.n_bytes


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator below it."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:
            self.n_bytes += _bytes_of(func, args, kwargs, result)
        return result


def _bytes_of(func: Any, args: Sequence[Any], kwargs: Any, result: Any) -> int:
    name = func._schema.name.removeprefix("aten::")
    if name in _ALLOCATE:
        return 0
    if name in _FILL:
        return _size(result)
    if name in _ADD_ROWS:
        given = list(_tensors(args[1:]))
        return sum(map(_size, given)) + 2 * max(map(_size, given))
    written = [
        value
        for value, argument in _arguments(func, args, kwargs)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if name in _LOOK_UP:
        return 2 * sum(map(_size, _tensors(result)))
    total = 0
    for value, argument in _arguments(func, args, kwargs):
        # beta = 0: a product replaces its first argument.
        unread = name in _OVERWRITE or kwargs.get("beta") == 0
        if (unread and value is args[0]) or (argument.is_out):
            continue
        total += sum(map(_size, _tensors([value])))
    return total + sum(map(_size, _tensors(written) if written else _tensors([result])))


def _arguments(func: Any, args: Sequence[Any], kwargs: Any) -> Iterator[tuple[Any, Any]]:
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if value is not None:
            yield value, argument


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _size(tensor: torch.Tensor) -> int:
    """Return the bytes of the elements that differ: those of an expanded tensor count once."""
    n = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        n *= length if stride else min(length, 1)
    return n * tensor.element_size()


def peak_temporaries(call: Callable[[], object]) -> int:
    """Return the most bytes that a call holds at once, besides what it returns.

    Args:
        call: runs on the CPU.
    """
    held = peak = 0
    for change in memory_changes(call).changes:
        held += change.n_bytes
        peak = max(peak, held)
    return peak - held


@dataclass(frozen=True, slots=True)
class Change:
    """Memory that the allocator gave, or took back.

    Attributes:
        at: time in microseconds.
        address: of the memory.
        n_bytes: above 0 where it was given.
    """

    at: float
    address: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a call did with memory.

    Attributes:
        changes: in their order.
        ends: name of a part of the call, as `torch.profiler.record_function` has it -> its end in
            microseconds.
    """

    changes: list[Change]
    ends: dict[str, float]


def memory_changes(call: Callable[[], object]) -> Memory:
    """Return what a call did with memory; what it returns is dropped after the last change.

    What a library allocates for itself, as oneDNN does for work space, is not seen.

    Args:
        call: runs on the CPU.
    """
    # Its library greets on stderr at every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    given = [(e["ts"], e["args"]) for e in events if e.get("name") == "[memory]"]
    given.sort(key=lambda pair: pair[1]["Ev Idx"])
    ends = {e["name"]: e["ts"] + e["dur"] for e in events if e.get("cat") == "user_annotation"}
    return Memory([Change(at, row["Addr"], row["Bytes"]) for at, row in given], ends)
