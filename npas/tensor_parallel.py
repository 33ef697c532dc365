"""Tensor parallelism: generated weights as DTensors, by a plan of torch's own styles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module as parallelize

from npas.bank import banks_of
from npas.compiled import required_state
from npas.errors import NpasError
from npas.guards import Never
from npas.leaf import SOURCES, Source, give_back, sources_of, take_over
from npas.module import Shapeshifter
from npas.sharding import is_sharded


def place(ssn: nn.Module, mesh: DeviceMesh, plan: Mapping[str, ParallelStyle]) -> nn.Module:
    """Do what `npas.parallelize_module` says."""
    required_state(ssn, "npas.parallelize_module")
    banks = banks_of(ssn)
    if mesh.ndim != 1:
        raise NpasError(
            f"parallelize_module takes a mesh of one dimension, found {mesh.ndim}; pass one of "
            'them, such as mesh["tp"]'
        )
    sharded = [name for name, p in ssn.named_parameters() if is_sharded(p)]
    if sharded or any(bank.summed_over is not None for bank in banks.values()):
        raise NpasError(
            f"{sharded[0] if sharded else 'the module'} is sharded already; call "
            "parallelize_module once, before fully_shard"
        )
    if sources_of(ssn) and "" in plan:
        raise NpasError("parallelize_module: the module itself has generated weights; name parts")
    _parallelize(ssn, mesh, dict(plan))
    for tensor in (*ssn.parameters(), *ssn.buffers()):
        if not is_sharded(tensor):
            dist.broadcast(tensor.detach(), group=mesh.get_group(), group_src=0)
    for bank in banks.values():
        bank.summed_over = mesh
        bank.note_gains()
    if isinstance(ssn, Shapeshifter):
        # The graph was made for ordinary weights.
        ssn._guards = {True: Never(), False: Never()}
    return ssn


def _parallelize(ssn: nn.Module, mesh: DeviceMesh, plan: dict[str, ParallelStyle]) -> None:
    """Let torch parallelize stand-ins without memory for weights, and note where it puts them."""
    below = [(m, dict(sources_of(m))) for path, m in ssn.named_modules() if path and sources_of(m)]
    for module, sources in below:
        give_back(module, {name: _stand_in(source) for name, source in sources.items()})
    placed: list[dict[str, Placed]] = []
    try:
        parallelize(ssn, mesh, plan)
        placed = [
            {name: Placed(mesh, _placement(module._parameters[name])) for name in sources}
            for module, sources in below
        ]
    finally:
        for i, (module, sources) in enumerate(below):
            where = placed[i] if placed else {}
            take_over(module, {n: replace(s, placed=where.get(n)) for n, s in sources.items()})
    if sources_of(ssn):
        everywhere = Placed(mesh, Replicate())
        ssn.__dict__[SOURCES] = {
            name: replace(source, placed=everywhere) for name, source in sources_of(ssn).items()
        }


def _stand_in(source: Source) -> nn.Parameter:
    bank: Any = source.bank
    shape = bank.slot_of(source.layer)[0].shape
    return nn.Parameter(torch.empty(shape, dtype=bank.theta.dtype, device="meta"))


def _placement(parameter: Any) -> Placement:
    return parameter.placements[0] if is_sharded(parameter) else Replicate()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the ranks of a mesh have a generated weight.

    Attributes:
        mesh: of one dimension.
        placement: of the weight.
    """

    mesh: DeviceMesh
    placement: Placement

    def place(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a whole weight as this rank's part of a DTensor, or as it is.

        The gradient that comes back is of the part. That of a weight which all ranks use alike is
        whole on each of them, and is divided, since the bank adds up those of all ranks.
        """
        if not isinstance(self.placement, Shard):
            return _Divided.apply(weight, self.mesh.size())  # pyright: ignore
        dim, n, rank = (
            self.placement.dim % weight.dim(),
            self.mesh.size(),
            self.mesh.get_local_rank(),
        )
        size = weight.shape[dim]
        step = -(-size // n)
        first = min(rank * step, size)
        part = weight.narrow(dim, first, min(step, size - first))
        return DTensor.from_local(
            part,
            self.mesh,
            [self.placement],
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )


class _Divided(torch.autograd.Function):
    """A tensor, whose gradient is divided."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, n: int) -> torch.Tensor:
        ctx.n = n
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, None]:
        return grads[0] / ctx.n, None
