"""Calibrate where there is no graph: module by module, as the model calls them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from npas.bank import Bank, banks_of
from npas.calibrate import (
    ROUNDS,
    copies_of_buffers,
    forward_inputs,
    is_float,
    normalise_gains,
    restore_buffers,
)
from npas.errors import NpasError, is_out_of_memory
from npas.leaf import sources_of
from npas.passes.trace import first_line
from npas.plan import Plan

_Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]


@torch.no_grad()
def measure(model: nn.Module, plan: Plan, batch: Any) -> dict[str, float]:
    """Return layer -> standard deviation of what its module returns at the first call.

    Args:
        model: the original; its buffers are left as they were.
        plan: of its layers.
        batch: a tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        NpasError: if the batch does not run through the model.
    """
    spreads: dict[str, float] = {}
    owners: dict[str, str] = {}
    for layer in plan.layers:
        if not plan.is_ordinary(layer.bank):
            owners[layer.name.rpartition(".")[0]] = layer.name

    def note(path: str) -> _Hook:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del module, args, kwargs
            if is_float(output):
                spreads.setdefault(owners[path], float(output.float().std(correction=0)))

        return hook

    _run_with(model, {path: note(path) for path in owners}, batch)
    return spreads


@torch.no_grad()
def correct(model: nn.Module, spreads: Mapping[str, float], batch: Any) -> tuple[str, ...]:
    """Rescale gains so that what each module returns has the original's standard deviation.

    Args:
        model: the compiled model; its gains and bank scales change, its buffers do not.
        spreads: from `measure`.
        batch: as for `measure`.

    Returns:
        The layers that were left alone: those of modules that were not called, or that read
        several generated weights.
    """
    done: set[str] = set()

    def fix(layer: str) -> _Hook:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            bank, target = next(iter(sources_of(module).values())).bank, spreads[layer]
            assert isinstance(bank, Bank)
            if layer in done or not is_float(output):
                return output
            done.add(layer)
            for _ in range(ROUNDS):
                own = float(output.float().std(correction=0))
                if own > 0 and target > 0:
                    bank.scale_gain(layer, target / own)
                    output = module.forward(*args, **kwargs)
            return output

        return hook

    hooks: dict[str, _Hook] = {}
    layers: list[str] = []
    for path, module in model.named_modules():
        own = [source.layer for source in sources_of(module).values()]
        layers += own
        if len(own) == 1 and own[0] in spreads:
            hooks[path] = fix(own[0])
    _run_with(model, hooks, batch)
    normalise_gains(banks_of(model).values())
    return tuple(layer for layer in dict.fromkeys(layers) if layer not in done)


def _run_with(model: nn.Module, hooks: Mapping[str, _Hook], batch: Any) -> None:
    args, kwargs = forward_inputs(batch)
    before, handles = copies_of_buffers(model), []
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        for path, hook in hooks.items():
            owner = model.get_submodule(path)
            handles.append(owner.register_forward_hook(hook, with_kwargs=True))
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(0)
            model(*args, **kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise NpasError(
            f"calibrate: the batch does not run through {type(model).__name__}: {first_line(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        restore_buffers(model, before)
