"""Compiled modules on several ranks: what FSDP2 shards, and what is done where a bank is sharded.

``fully_shard`` puts a module's parameters into one unit, which it gathers before that module's
forward and frees behind it. A bank serves many layers, so it is a unit of its own that stays
gathered from its first use in a step until its gradient is reduced.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from npas.errors import NpasError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle

    from npas.calls import Sources

_HOW = (
    "for unit in npas.fsdp_units(module): fully_shard(unit, mesh=mesh, reshard_after_forward=False)"
)


def fsdp_units(module: nn.Module) -> list[nn.Module]:
    """Return what to pass to ``fully_shard``, one after the other: every bank, then the module.

    ::

        for unit in npas.fsdp_units(ssn):
            fully_shard(unit, mesh=mesh, reshard_after_forward=False)

    A bank is gathered once in a step: before the first layer that it serves, for all of them, for
    the backward pass and what is made again there. Biases, norms and what else is kept as it is are
    the module's unit, which ``reshard_after_forward=True`` would gather again for the backward
    pass. Large parts that share nothing may be sharded by themselves, before these units are.

    Args:
        module: a compiled module, or one that has compiled modules in it.

    Raises:
        NpasError: if nothing in the module is compiled, or a bank is sharded already.
    """
    from npas.bank import Bank

    banks: list[nn.Module] = [part for part in module.modules() if isinstance(part, Bank)]
    if not banks:
        raise NpasError(
            f"fsdp_units takes a compiled module; {type(module).__name__} has no bank in it"
        )
    for bank in banks:
        if is_sharded(bank.get_parameter("theta")):
            raise NpasError("a bank is sharded already; call fsdp_units before fully_shard")
    return [*banks, module]


def parallelize_module(
    ssn: nn.Module, mesh: "DeviceMesh", plan: Mapping[str, "ParallelStyle"]
) -> nn.Module:
    """Parallelize a compiled module, as ``torch.distributed.tensor.parallel`` does an ordinary one.

    ::

        npas.parallelize_module(
            ssn,
            mesh,
            {
                "blocks.*.up": ColwiseParallel(),
                "blocks.*.down": RowwiseParallel(),
            },
        )

    Banks are whole on every rank, and so is what the plan leaves alone: they get the values of the
    mesh's first rank. The gradients of banks are added up over the mesh. A rank makes a whole
    weight and multiplies with its part, so products and activations are divided and generation is
    not. What FSDP2 shards besides is sharded behind this, over another dimension of the mesh.

    Every generated layer that reads or writes a divided activation has to be in the plan: for
    others each rank is taken to have the whole gradient. An error of torch's in the middle leaves
    the module in parts; compile another. Parameters are DTensors in part, so that an optimizer
    takes ``foreach=False``, and norms of gradients are taken of both kinds by themselves.

    Args:
        ssn: a compiled module, changed in place; it runs the original's forward from here on.
        mesh: of one dimension.
        plan: path of a module, with wildcards, -> style: ``ColwiseParallel``, ``RowwiseParallel``,
            or another that shards weights along one dimension.

    Returns:
        The module.

    Raises:
        NpasError: if the module was not compiled, is sharded or parallelized already, or the mesh
            has several dimensions.
    """
    from npas.tensor_parallel import place

    return place(ssn, mesh, plan)


def in_fsdp(cls: type) -> bool:
    """Tell whether ``fully_shard`` made a class; it is not imported for that."""
    return any(base.__name__ == "FSDPModule" for base in cls.__mro__)


def is_sharded(parameter: torch.Tensor | None) -> bool:
    """Tell whether a parameter is a shard on each rank now."""
    if parameter is None or type(parameter) in (nn.Parameter, torch.Tensor):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def gather(bank: nn.Module) -> None:
    """Gather a bank whose weights are about to be made.

    That is not left to FSDP's hooks: they see calls of a module, but layers are multiplied with
    what they read from a bank, and weights are made again for the backward pass.

    Raises:
        NpasError: if the bank is no unit of FSDP.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(bank, FSDPModule):
        raise NpasError(
            "a bank is sharded where its weights are made, and is no unit of FSDP that could be "
            f"gathered; use {_HOW}"
        )
    bank.unshard()


def reshard(module: nn.Module) -> None:
    """Free what FSDP has gathered, so that parameters are the shards that are trained."""
    for part in module.modules():
        if in_fsdp(type(part)):
            part.reshard()  # type: ignore[operator]


def mesh_of(module: nn.Module) -> "DeviceMesh | None":
    """Return the mesh that a module's parameters are sharded over, None if they are not."""
    sharded: Any = next((p for p in module.parameters() if is_sharded(p)), None)
    return None if sharded is None else sharded.device_mesh


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter or buffer whole; a collective where it is sharded."""
    if not is_sharded(tensor):
        return tensor
    shards: Any = tensor
    return shards.full_tensor()


def once(module: nn.Module, call: Callable[[], None]) -> None:
    """Do something on the first of the ranks that share a module; all leave together.

    Raises:
        NpasError: on the other ranks, if it failed on the first, which raises what it raised.
    """
    meshes = _meshes_of(module)
    failed: BaseException | None = None
    if is_first(module):
        try:
            call()
        except BaseException as error:
            failed = error
    told = torch.tensor(float(failed is not None))  # is told to nobody where there is no mesh
    for mesh in meshes:
        told = told.to(mesh.device_type)
        for dim in range(mesh.ndim):
            torch.distributed.all_reduce(told, group=mesh.get_group(dim))
    if failed is not None:
        raise failed
    if told.item():
        raise NpasError("it failed on the first rank, which says why")


def is_first(module: nn.Module) -> bool:
    """Tell whether this is the first of the ranks that share a module."""
    return not any(any(mesh.get_coordinate() or ()) for mesh in _meshes_of(module))


def _meshes_of(module: nn.Module) -> "list[DeviceMesh]":
    """Return the meshes that a module's parameters, or the gradients of its banks, are on."""
    from npas.bank import Bank

    sharded: list[Any] = [p for p in module.parameters() if is_sharded(p)]
    found = [p.device_mesh for p in sharded]
    found += [bank.summed_over for bank in module.modules() if isinstance(bank, Bank)]
    return list(dict.fromkeys(mesh for mesh in found if mesh is not None))


def same_number(number: torch.Tensor, mesh: "DeviceMesh") -> torch.Tensor:
    """Return the number that the first rank of a mesh has."""
    sent = number.to(mesh.device_type)
    for dim in range(mesh.ndim):
        torch.distributed.broadcast(sent, group=mesh.get_group(dim), group_src=0)
    return sent


def write(own: torch.Tensor, value: torch.Tensor) -> None:
    """Write a whole tensor into a parameter or buffer, of which a rank may hold a part.

    Args:
        own: that is written.
        value: of the same shape, and the same on all ranks.
    """
    if not is_sharded(own):
        own.copy_(value)
        return
    from torch.distributed.tensor import distribute_tensor

    shard: Any = own
    part = distribute_tensor(value, shard.device_mesh, shard.placements, src_data_rank=None)
    shard.to_local().copy_(part.to_local())


def summed(sources: "Sources", mesh: "DeviceMesh") -> "Sources":
    """Return sources whose gradients are added up over the ranks of a mesh."""
    group = mesh.get_group()
    return type(sources)(
        *(_Summed.apply(s, group) if s.requires_grad else s for s in sources)  # pyright: ignore
    )


class _Summed(torch.autograd.Function):
    """A tensor, whose gradient is added up over a group of ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, None]:
        found = grads[0].contiguous().clone()
        torch.distributed.all_reduce(found, group=ctx.group)
        return found, None
