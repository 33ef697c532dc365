"""A model of how long a training step takes on many GPUs: alpha-beta rings, and overlap.

A collective of m bytes over a ring of n ranks takes a start, a latency for every step, and the time
in which its bytes pass the slowest link: for an all-reduce 2 (n - 1) steps, of which two for each
node go from one node to the next (as in NCCL's tuner), and 2 m (n - 1) / n bytes, for an all-gather
or a reduce-scatter half of both. Rings pass every node's network once, so
that is the slowest link. Collectives run one after the other, beside the backward pass, which
loses a share of its speed while one runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scale.machines import Machine
from npas.plan import Plan

#: Of DistributedDataParallel: bytes of the first bucket, and of the others.
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient that is sent.

    Attributes:
        ready: share of the backward pass's work behind which it is complete.
        n_bytes: of it.
    """

    ready: float
    n_bytes: float


@dataclass(frozen=True, slots=True)
class Step:
    """The seconds of a training step.

    Attributes:
        compute: forward and backward pass, undisturbed, without generation.
        generation: making weights, and adding up their gradients.
        exposed: what communication adds, by being waited for and by slowing other work.
        update: of the optimizer.
    """

    compute: float
    generation: float
    exposed: float
    update: float

    @property
    def total(self) -> float:
        """Of the step."""
        return self.compute + self.generation + self.exposed + self.update


def half_ring(machine: Machine, n: int, n_bytes: float) -> float:
    """Return the seconds of an all-gather to, or a reduce-scatter of, so many bytes."""
    nodes = -(-n // machine.per_node)
    between = nodes if nodes > 1 else 0
    hops = (n - 1 - between) * machine.near + between * machine.far
    passed = n_bytes * (n - 1) / n / (machine.network * machine.reached)
    return machine.start + hops + passed


def ring(machine: Machine, n: int, n_bytes: float) -> float:
    """Return the seconds of an all-reduce."""
    return 2 * half_ring(machine, n, n_bytes) - machine.start


def dense_gradients(plan: Plan, itemsize: int = 4) -> list[Gradient]:
    """Return the gradients of the network that a plan was made for, in the order they are ready.

    Each layer's is ready when the backward pass is through it; kept parameters come evenly.
    """
    found = [
        Gradient(ready, layer.n * itemsize)
        for layer, ready in zip(plan.layers, _behind(plan), strict=True)
    ]
    return sorted([*found, *_kept(plan, itemsize)], key=lambda gradient: gradient.ready)


def compiled_gradients(plan: Plan, itemsize: int = 4) -> list[Gradient]:
    """Return the gradients of the compiled network, in the order they are ready.

    A bank's is ready when the backward pass is through the first layer that it serves.
    """
    behind = {layer.name: r for layer, r in zip(plan.layers, _behind(plan), strict=True)}
    found = [
        Gradient(
            max(behind[layer.name] for layer in plan.layers_of(bank.name)),
            plan.costs[bank.name].total * itemsize,
        )
        for bank in plan.banks
    ]
    return sorted([*found, *_kept(plan, itemsize)], key=lambda gradient: gradient.ready)


def segmented_gradients(plan: Plan, segment: int = 2**18, itemsize: int = 4) -> list[Gradient]:
    """Return what `compiled_gradients` would be if banks were sent in pieces, each when complete.

    A piece is complete behind the first layer with a template in it.

    Args:
        plan: of the network.
        segment: elements of a piece.
        itemsize: bytes of an element.
    """
    behind = {layer.name: r for layer, r in zip(plan.layers, _behind(plan), strict=True)}
    found: list[Gradient] = []
    for bank in plan.banks:
        ready = np.zeros(bank.size, np.float32)
        for layer in plan.layers_of(bank.name):
            for k in range(max(1, layer.k)):
                first = layer.base + k * layer.stride
                window = ready[first : first + layer.n]
                np.maximum(window, behind[layer.name], out=window)
        pieces = (ready[i : i + segment] for i in range(0, bank.size, segment))
        found += [Gradient(float(piece.max()), len(piece) * itemsize) for piece in pieces]
    return sorted([*found, *_kept(plan, itemsize)], key=lambda gradient: gradient.ready)


def _behind(plan: Plan) -> list[float]:
    """Return the share of the backward pass that ends with each layer."""
    work = [layer.macs or layer.n for layer in plan.layers]
    total, rest = sum(work), 0
    found = []
    for own in reversed(work):
        rest += own
        found.append(rest / total)
    return found[::-1]


def _kept(plan: Plan, itemsize: int) -> list[Gradient]:
    kept = plan.n_dense - sum(layer.n for layer in plan.layers)
    parts = len(plan.layers)
    return [Gradient((i + 1) / parts, kept * itemsize / parts) for i in range(parts if kept else 0)]


def buckets(gradients: Iterable[Gradient]) -> list[Gradient]:
    """Return what DistributedDataParallel sends together, in the order it is sent."""
    found: list[Gradient] = []
    ready, held = 0.0, 0.0
    for gradient in gradients:
        ready, held = max(ready, gradient.ready), held + gradient.n_bytes
        if held >= (BUCKET if found else FIRST_BUCKET):
            found.append(Gradient(ready, held))
            held = 0.0
    return [*found, Gradient(ready, held)] if held else found


def backward(machine: Machine, n: int, work: float, sent: Sequence[Gradient]) -> float:
    """Return the seconds from the start of the backward pass until everything is sent.

    Args:
        machine: see `Machine`.
        n: ranks.
        work: seconds of the backward pass, undisturbed.
        sent: all-reduces, in the order in which they run.
    """
    now = done = 0.0
    for gradient in sent:
        if done < gradient.ready * work:  # undisturbed until then
            now += gradient.ready * work - done
            done = gradient.ready * work
        took = ring(machine, n, gradient.n_bytes)
        now += took
        done = min(work, done + took * (1 - machine.contention))
    return now + work - done


def ddp_step(
    machine: Machine,
    n: int,
    compute: float,
    sent: Sequence[Gradient],
    *,
    generated_bytes: float = 0.0,
    state_bytes: float = 28.0,
) -> Step:
    """Return a step of DistributedDataParallel.

    Args:
        machine: see `Machine`.
        n: ranks.
        compute: seconds of forward and backward pass on one GPU; a third is forward.
        sent: gradients, as `dense_gradients` or `compiled_gradients` give them.
        generated_bytes: that making weights, and adding up their gradients, moves in memory.
        state_bytes: that the optimizer moves for a parameter of four bytes: Adam reads weight,
            gradient and two moments, and writes all but the gradient.
    """
    memory = machine.memory * machine.memory_reached
    end = backward(machine, n, compute * 2 / 3, buckets(sent))
    n_params = sum(gradient.n_bytes for gradient in sent) / 4
    return Step(
        compute, generated_bytes / memory, end - compute * 2 / 3, n_params * state_bytes / memory
    )


def generated_bytes(plan: Plan, itemsize: int = 4, again: int = 0) -> float:
    """Return the bytes of memory that generation moves in a step.

    Forward it reads K templates and writes a weight; backward it reads the weight's gradient, and
    reads and writes K windows of the bank's, which is added up in four bytes.

    Args:
        plan: of the network.
        itemsize: bytes of a weight.
        again: how often weights are made once more.
    """
    made = [layer for layer in plan.layers if not plan.is_ordinary(layer.bank)]
    moved = 0.0
    for layer in made:
        k = max(1, layer.k)
        moved += layer.n * ((1 + again) * (k + 1) * itemsize + itemsize + 2 * k * 4)
    return moved


def overlapped(machine: Machine, work: float, sent: float) -> float:
    """Return the seconds of work with a collective beside it, until both have ended."""
    return max(sent, work + machine.contention * sent)


def fsdp_step(
    machine: Machine,
    n: int,
    compute: float,
    units: int,
    n_params: float,
    *,
    generated_bytes: float = 0.0,
    state_bytes: float = 28.0,
) -> Step:
    """Return a step of FSDP2: parts that are alike, each gathered while the one before it runs.

    Parameters are gathered in two bytes, before the forward pass of a part and again before its
    backward pass; gradients are reduced in four.

    Args:
        machine: see `Machine`.
        n: ranks.
        compute: seconds of forward and backward pass on one GPU; a third is forward.
        units: parts of the network.
        n_params: that are sharded, of all parts.
        generated_bytes: see `ddp_step`; it takes part in the overlap.
        state_bytes: see `ddp_step`; a rank updates its shards.
    """
    memory = machine.memory * machine.memory_reached
    generation = generated_bytes / memory
    gather = half_ring(machine, n, 2 * n_params / units)
    reduce = half_ring(machine, n, 4 * n_params / units)
    forward, back = (share * (compute + generation) / units for share in (1 / 3, 2 / 3))
    total = gather + (units - 1) * overlapped(machine, forward, gather) + forward
    total += gather + (units - 1) * overlapped(machine, back, gather + reduce) + back + reduce
    exposed = total - compute - generation
    return Step(compute, generation, exposed, n_params / n * state_bytes / memory)
