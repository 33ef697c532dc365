"""Reset: draw a compiled module's values again, also of one that had none or is sharded."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from npas.bank import Bank, banks_of
from npas.compiled import State, required_state
from npas.errors import NpasError
from npas.init import draw_again, spread
from npas.leaf import sources_of
from npas.naming import nearest
from npas.sharding import mesh_of, reshard, same_number, write
from npas.ties import check_tied

Init = str | Callable[[nn.Module], object]


def reset(
    ssn: nn.Module, stds: Mapping[str, float] | None = None, *, init: Init | None = None
) -> None:
    """Draw every bank again, each layer at the scale it was compiled at.

    For a module that came from the meta device through ``to_empty``, whose banks and gains have no
    values, or to start once more. With ``init`` all else is drawn too, so that a model that fits
    on no machine is planned, sharded, and given its values where they are trained::

        with torch.device("meta"):
            model = Decoder(config)
        ssn = npas.compile(model, "10%")
        for unit in npas.fsdp_units(ssn):
            fully_shard(unit, mesh=mesh, reshard_after_forward=False)
        ssn.to_empty(device=device)
        npas.reset(ssn, init="reset_parameters")

    One bank at a time is whole, then one module's own tensors and weights. Values follow from
    torch's generator, on one process or sharded from that of the mesh's first rank: they are the
    same on any number of ranks.

    Args:
        ssn: a compiled module, on a real device.
        stds: layer -> standard deviation to start at, for a module that was compiled on the meta
            device. Layers that are neither here nor in the report start as torch.nn's
            ``reset_parameters`` would, or as ``init`` has them.
        init: how the modules of the original start: the name of a method, such as
            ``"reset_parameters"``, that every module with parameters or buffers of its own has, or
            a function that takes such a module, such as the ``_init_weights`` of a model of
            transformers. It sets all that the module holds, buffers included; what it makes of a
            generated weight gives that layer's standard deviation. What it makes of the weights of
            modules below is not seen (the scaled residual layers of GPT-2: pass them as ``stds``).
            None leaves kept values as they are.

    Raises:
        NpasError: if the module was not compiled by npas, is on the meta device or went through
            `npas.parallelize_module`, if a name in ``stds`` is no generated layer, or ``init``
            leaves something without a value. Banks are as they were then.
    """
    state = required_state(ssn, "npas.reset")
    banks = banks_of(ssn)
    if any(bank.theta.is_meta for bank in banks.values()):
        raise NpasError("reset: the banks are on the meta device; call ssn.to_empty(device) first")
    if any(bank.summed_over is not None for bank in banks.values()):
        raise NpasError("reset: the module is parallelized; call reset before parallelize_module")
    known = {name for bank in banks.values() for name in bank.layer_names()}
    for name in stds or {}:
        if name not in known:
            raise NpasError(f"stds: {name!r} is no generated layer{nearest(name, known)}")
    check_tied(ssn, state.ties)
    if isinstance(init, str):
        init = _method(ssn, init)
    reshard(ssn)
    with torch.no_grad(), _one_generator(ssn):
        found = {n: start.std for n, start in state.report.starts.items() if n in known}
        if init is not None:
            found |= _draw_modules(ssn, state, init)
        starts = draw_again(state.plan, banks, {**found, **(stds or {})})
    state.report = replace(state.report, starts={**state.report.starts, **starts})


def _method(ssn: nn.Module, name: str) -> Callable[[nn.Module], object]:
    lacking = [path for path, module in _with_tensors(ssn) if not hasattr(module, name)]
    if lacking:
        raise NpasError(
            f"init={name!r}: {lacking[0] or 'the module itself'} has parameters or buffers and no "
            f"such method{_more(lacking)}; pass a function of a module that sets them"
        )
    return lambda module: getattr(module, name)()


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""


def _with_tensors(ssn: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return the original's modules that have something to set."""
    for path, module in ssn.named_modules():
        held = (*module._parameters.values(), *module._buffers.values())
        if not isinstance(module, Bank) and (
            sources_of(module) or any(x is not None for x in held)
        ):
            yield path, module


@contextlib.contextmanager
def _one_generator(ssn: nn.Module) -> Iterator[None]:
    """Draw what runs inside from one number of torch's generator, the same on all ranks."""
    seed = torch.randint(2**62, ())
    mesh = mesh_of(ssn)
    if mesh is not None:
        seed = same_number(seed, mesh)
    devices = {p.device for p in ssn.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(device.index or 0 for device in devices)):
        torch.manual_seed(int(seed))
        yield


def _draw_modules(
    ssn: nn.Module, state: State, init: Callable[[nn.Module], object]
) -> dict[str, float]:
    """Set what the original's modules hold; return layer -> std of what they made of it."""
    # A module that sets those below it as well writes nothing into their weights.
    absent = {x.name: torch.empty(x.shape, device="meta") for x in state.plan.layers}
    stds: dict[str, float] = {}
    done: set[int] = set()
    for path, module in _with_tensors(ssn):
        made: dict[str, torch.Tensor] = {}
        for source in sources_of(module).values():
            bank: Any = source.bank
            if source.layer not in stds:
                shape = bank.slot_of(source.layer)[0].shape
                kind = {"dtype": bank.theta.dtype, "device": bank.theta.device}
                made[source.layer] = torch.full(shape, torch.nan, **kind)
        with _whole(module, path, done), state.live.given(absent | made):
            init(module)
            for name, weight in made.items():
                _check(name, weight)
        stds |= {name: spread(weight) for name, weight in made.items()}
    return stds


@contextlib.contextmanager
def _whole(module: nn.Module, path: str, done: set[int]) -> Iterator[None]:
    """Let a module hold whole tensors without values; those that it has then become its own.

    Args:
        module: of the original.
        path: of it.
        done: ids of tensors that have their values; tied ones keep those of their first module.
    """
    own: list[tuple[dict[str, Any], str, torch.Tensor]] = [
        (store, name, tensor)
        for store in (module._parameters, module._buffers)
        for name, tensor in store.items()
        if tensor is not None
    ]
    try:
        empty: dict[str, torch.Tensor] = {}
        for store, name, tensor in own:
            value = torch.nan if _has_nan(tensor) else 0
            made = torch.full(tensor.shape, value, dtype=tensor.dtype, device=tensor.device)
            is_parameter = isinstance(tensor, nn.Parameter)
            store[name] = nn.Parameter(made, tensor.requires_grad) if is_parameter else made
            empty[name] = store[name]
        versions = {name: tensor._version for name, tensor in empty.items()}
        yield
        for store, name, _ in own:
            now, full_name = store[name], f"{path}.{name}".removeprefix(".")
            _check(full_name, now)
            if not _has_nan(now) and now is empty[name] and now._version == versions[name]:
                raise NpasError(f"init leaves {full_name} without a value; set it there too")
        for store, name, tensor in own:
            if id(tensor) not in done:
                write(tensor, store[name])
                done.add(id(tensor))
    finally:
        for store, name, tensor in own:
            store[name] = tensor


def _has_nan(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor can hold what shows that it was not set."""
    return tensor.is_floating_point() or tensor.is_complex()


def _check(name: str, tensor: torch.Tensor) -> None:
    if _has_nan(tensor) and bool(tensor.isnan().any()):
        raise NpasError(f"init leaves {name} without a value; set it there too")
