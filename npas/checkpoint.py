"""Save and load: a folder with plan.json and safetensors, no pickle."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npas.compiled import required_state
from npas.errors import CheckpointError, PlanError
from npas.kernels.backends import BACKENDS
from npas.module import Shapeshifter
from npas.naming import as_tuple, check_choice
from npas.passes.frontends import capture, opaque
from npas.passes.structure import analyse
from npas.pipeline import Recorder, assemble, check_backend
from npas.plan import Plan
from npas.planning import check_fits
from npas.saved import Saved, read_folder, write_folder
from npas.saved_before import is_before, read_before
from npas.sharding import gathered, is_first, once
from npas.ties import check_tied


def save(ssn: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a compiled module to a folder: ``plan.json``, and safetensors in a file that it names.

    Tensors are written first, to a file named by its hash; then ``plan.json`` is replaced, and a
    file that it does not name is removed. A crash at any point leaves the earlier module or the
    new one, whole, and so does another process that saves into the folder.

    Of a sharded module every rank calls this: tensors are gathered one after the other, the first
    rank writes, and all return when it has.

    Args:
        ssn: from `npas.compile`.
        folder: made if it is not there.

    Raises:
        NpasError: if the module was not compiled by npas, or weights that were tied are no longer.
        CheckpointError: if the folder cannot be written; on ranks that do not write an `NpasError`.
    """
    state = required_state(ssn, "npas.save")
    check_tied(ssn, state.ties)
    tensors: dict[str, torch.Tensor] = {}
    first = is_first(ssn)
    for name, value in ssn.state_dict().items():
        if isinstance(value, torch.Tensor):
            whole = gathered(value)  # by all ranks, and kept by the one that writes
            if first:
                # Tied and sliced tensors would be refused by safetensors as sharing memory.
                tensors[name] = whole.detach().cpu().contiguous().clone()
    once(ssn, lambda: write_folder(Path(folder), state.plan, state.how, tensors))


def load(
    folder: str | os.PathLike[str],
    model: nn.Module | Callable[[], nn.Module],
    *,
    backend: str = "auto",
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> Shapeshifter:
    """Read a folder that `save` wrote.

    Args:
        folder: the folder.
        model: the original architecture, or a callable that makes it; its weights do not matter
            and it is not changed.
        backend: what generates weights, as for `npas.compile`; it is not in the file, since it
            belongs to the machine.
        example_inputs: positional inputs of forward, for a module that torch.export captured; it
            computes the same without them, by the original's own forward.
        example_kwargs: keyword inputs of forward.

    Returns:
        The compiled module, in training mode as a new module is.

    Raises:
        CheckpointError: if a file is missing, truncated, altered or made for another model (from
            the `PlanError` where the plan is at fault).
        NpasError: for a backend that cannot run here.
    """
    check_choice("backend", backend, BACKENDS)
    path = Path(folder)
    saved = read_before(path) if is_before(path) else read_folder(path)
    plan, tensors = saved.plan, saved.tensors
    _check_size(path, saved)
    original = model if isinstance(model, nn.Module) else model()
    try:
        check_fits(plan, original)
        check_backend(original, backend)
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error
    examples = as_tuple(example_inputs), example_kwargs
    ssn = _build(original, plan, saved.how, backend, *examples)
    _check_tensors(path, ssn, tensors)
    _allocate_as(ssn, tensors)
    left = [n for n, t in (*ssn.named_parameters(), *ssn.named_buffers()) if t.is_meta]
    if left:
        raise CheckpointError(
            f"{path}: {left[0]} is on the meta device and not in the file (a buffer that is not "
            "persistent); make the model on a real device"
        )
    ssn.load_state_dict(dict(tensors), strict=False)
    return ssn


def _check_size(path: Path, saved: Saved) -> None:
    """Check that a plan's banks can be in the file, before any is allocated."""
    sizes = {bank.name: bank.size for bank in saved.plan.banks}
    if sum(sizes.values()) > saved.n_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise CheckpointError(
            f"{path}: bank {largest} has {sizes[largest]:,} elements by the plan, and all tensors "
            f"that were saved have {saved.n_bytes:,} bytes"
        )


def _build(
    model: nn.Module,
    plan: Plan,
    how: Mapping[str, Any],
    backend: str,
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None,
) -> Shapeshifter:
    """Compile as it was compiled, without initialising what the file holds."""
    front_end, keywords = str(how["frontend"]), tuple(how["keywords"])
    analysis = analyse(model, int(how["n_inputs"]), keywords)
    given = bool(example_inputs or example_kwargs)
    if front_end == "fx" or (front_end == "export" and given):
        traced, _ = capture(model, analysis, plan, front_end, example_inputs, example_kwargs)
    else:
        traced = opaque(analysis, f"saved from a module whose front end was {front_end}")
    return assemble(
        Recorder(),
        model,
        traced,
        plan,
        schedule=str(how["schedule"]),
        recompute=how["recompute"],
        backend=backend,
    )


def _allocate_as(ssn: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give parameters and buffers the dtype they were saved in, and memory to those on meta."""
    new: dict[int, torch.Tensor] = {}
    named = [*ssn.named_parameters(remove_duplicate=False), *ssn.named_buffers()]
    for name, old in named:
        saved = tensors.get(name)
        if saved is None or id(old) in new or (saved.dtype == old.dtype and not old.is_meta):
            continue
        made = torch.empty_like(saved, device="cpu" if old.is_meta else old.device)
        kept = isinstance(old, nn.Parameter)
        new[id(old)] = nn.Parameter(made, requires_grad=old.requires_grad) if kept else made
    for module in ssn.modules():
        holders: list[Any] = [module._parameters, module._buffers]
        for held in holders:
            for name, tensor in held.items():
                held[name] = new.get(id(tensor), tensor)


def _check_tensors(path: Path, ssn: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = ssn.state_dict()
    for name, value in expected.items():
        found = tensors.get(name)
        if isinstance(value, torch.Tensor) and (
            found is None
            or found.shape != value.shape
            or found.is_floating_point() != value.is_floating_point()
        ):
            what = "missing" if found is None else f"{tuple(found.shape)} of {found.dtype}"
            raise CheckpointError(
                f"{path}: {name} is {what}, the model has {tuple(value.shape)} of {value.dtype}"
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} is not in the model")
