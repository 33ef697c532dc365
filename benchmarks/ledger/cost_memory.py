"""Memory of a training step by kind: from the step's own tensors, and the allocator's record."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from benchmarks.traffic import Memory, memory_changes
from benchmarks.training import Step, kept_bytes

_FORWARD, _BACKWARD = "forward", "backward"


@dataclass(frozen=True, slots=True)
class Held:
    """Memory that the allocator gave.

    Attributes:
        n_bytes: of it.
        start: when it was given, in microseconds.
        end: when it was taken back, infinite if it was not.
    """

    n_bytes: int
    start: float
    end: float


def step_memory(module: nn.Module, step: Step, given: Iterable[torch.Tensor]) -> dict[str, int]:
    """Run two training steps and return what they hold, in bytes.

    Temporaries are what neither lives from the forward pass into the backward pass (saved), nor
    from the backward pass to the optimizer (gradients): the most of them at once. All kinds are
    not at their largest at one time, so that the peak is at most about their sum.

    Args:
        module: that is trained.
        step: of it; at least one was run, so that the optimizer has its state.
        given: inputs, which are there before the step.
    """
    parameters = list(module.parameters())
    own = (*parameters, *module.buffers(), *given)
    saved = kept_bytes(step.loss, own)
    gradients = [p.grad for p in parameters if p.grad is not None]
    states: Any = step.optimizer.state.values()
    state = [t for values in states for t in values.values() if isinstance(t, torch.Tensor)]
    found = {
        "weights_bytes": _size(parameters),
        "gradients_bytes": _size(gradients),
        "optimizer_bytes": _size(state),
        "saved_bytes": saved,
    }
    del gradients
    step.update()
    memory = memory_changes(lambda: _marked(step))
    held = intervals(memory)
    middle, end = memory.ends[_FORWARD], memory.ends[_BACKWARD]
    brief = [h for h in held if not _lasts(h, middle) and not _lasts(h, end)]
    standing = found["weights_bytes"] + found["optimizer_bytes"]
    return found | {
        "temporaries_bytes": peak_of(brief),
        "peak_bytes": standing + peak_of(held),
    }


def _marked(step: Step) -> None:
    with record_function(_FORWARD):
        loss = step.loss()
    with record_function(_BACKWARD):
        loss.backward()
    step.update()


def _lasts(held: Held, moment: float) -> bool:
    return held.start <= moment < held.end


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def intervals(memory: Memory) -> list[Held]:
    """Return all that was given, and how long it was held; what was there before is left out."""
    found: list[Held] = []
    open_: dict[int, tuple[int, float]] = {}
    for change in memory.changes:
        if change.n_bytes > 0:
            open_[change.address] = change.n_bytes, change.at
        elif change.address in open_:
            n_bytes, start = open_.pop(change.address)
            found.append(Held(n_bytes, start, change.at))
    return found + [Held(n_bytes, start, float("inf")) for n_bytes, start in open_.values()]


def peak_of(held: Iterable[Held]) -> int:
    """Return the most bytes that were held at once."""
    changes: list[tuple[float, int]] = []
    for one in held:
        changes += [(one.start, one.n_bytes), (one.end, -one.n_bytes)]
    now = most = 0
    # At one moment what is taken back comes before what is given.
    for _, n_bytes in sorted(changes):
        now += n_bytes
        most = max(most, now)
    return most
