"""Save and load: a folder with plan.json and safetensors, no pickle."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from npas.api import compile as compile_module
from npas.errors import CheckpointError, NpasError, PlanError
from npas.module import Shapeshifter
from npas.plan import Plan

_PLAN = "plan.json"
_WEIGHTS = "model.safetensors"
_FORMAT = "1"


def save(ssn: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a compiled module to a folder: ``plan.json`` and ``model.safetensors``.

    Both files are written beside their place and then moved onto it. The safetensors file carries
    the plan too, so an interrupted save leaves either the earlier or the new module complete.

    Args:
        ssn: from `npas.compile`.
        folder: made if it is not there.

    Raises:
        NpasError: if the module was not compiled by npas.
        CheckpointError: if the folder cannot be written.
    """
    if not isinstance(ssn, Shapeshifter):
        raise NpasError(f"{type(ssn).__name__} was not compiled by npas; save takes what it made")
    path = Path(folder)
    plan = ssn._npas.plan.to_json()
    # Tied and sliced tensors would be refused by safetensors as sharing memory.
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in ssn.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    metadata = {"npas": _FORMAT, "plan": plan, "sha256": _digest(plan, tensors)}
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as scratch:
            save_file(tensors, Path(scratch, _WEIGHTS), metadata)
            Path(scratch, _PLAN).write_text(plan, encoding="utf-8")
            for name in (_WEIGHTS, _PLAN):
                with Path(scratch, name).open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(Path(scratch, _PLAN), path / _PLAN)
            os.replace(Path(scratch, _WEIGHTS), path / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error


def load(
    folder: str | os.PathLike[str], model: nn.Module | Callable[[], nn.Module]
) -> Shapeshifter:
    """Read a folder that `save` wrote.

    Args:
        folder: the folder.
        model: the original architecture, or a callable that makes it; its weights do not matter
            and it is not changed.

    Returns:
        The compiled module, in training mode as a new module is.

    Raises:
        CheckpointError: if a file is missing, truncated, altered or made for another model (from
            the `PlanError` where the plan is at fault).
    """
    path = Path(folder)
    metadata, tensors = _read(path / _WEIGHTS)
    text = metadata["plan"]
    if _digest(text, tensors) != metadata["sha256"]:
        raise CheckpointError(f"{path / _WEIGHTS}: altered since it was saved (its hash differs)")
    _check_plan_file(path / _PLAN, text)
    try:
        plan = Plan.from_json(text)
        original = model if isinstance(model, nn.Module) else model()
        ssn = compile_module(original, plan=plan)
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _check_tensors(path, ssn, tensors)
    ssn.load_state_dict(tensors, strict=False)
    return ssn


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not there; load takes a folder that npas.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not safetensors ({error})") from error
    if metadata.get("npas") != _FORMAT or not {"plan", "sha256"} <= set(metadata):
        raise CheckpointError(f"{path}: not written by this version of npas.save")
    return metadata, tensors


def _check_plan_file(path: Path, text: str) -> None:
    if not path.exists():
        return  # the plan in the weights file is the one that was saved with them
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if found == text:
        return
    try:
        Plan.from_json(found)
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error
    raise CheckpointError(
        f"{path}: not the plan that {_WEIGHTS} was saved with (an interrupted save, or edited); "
        f"{_WEIGHTS} carries its own: delete {_PLAN} to load with that"
    )


def _check_tensors(path: Path, ssn: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = ssn.state_dict()
    for name, value in expected.items():
        found = tensors.get(name)
        if isinstance(value, torch.Tensor) and (
            found is None or found.shape != value.shape or found.dtype != value.dtype
        ):
            what = "missing" if found is None else f"{tuple(found.shape)} of {found.dtype}"
            raise CheckpointError(
                f"{path}: {name} is {what}, the model has {tuple(value.shape)} of {value.dtype}"
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} is not in the model")


def _digest(plan: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(plan.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
