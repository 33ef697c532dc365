"""Folders of format 1, read as they were written: all in model.safetensors, plan.json beside it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from npas.errors import CheckpointError, PlanError
from npas.plan import Plan
from npas.saved import PLAN, Saved

WEIGHTS = "model.safetensors"
_FORMAT = "1"


def is_before(folder: Path) -> bool:
    """Tell whether a folder is of format 1: with its file, and a plan.json that names none."""
    if not (folder / WEIGHTS).is_file():
        return False
    try:
        return "saved" not in json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return True


def read_before(folder: Path) -> Saved:
    """Read a folder of format 1.

    Raises:
        CheckpointError: as `npas.saved.read_folder`.
    """
    metadata, tensors = _read(folder / WEIGHTS)
    text, how = metadata["plan"], metadata["how"]
    if _digest(text + how, tensors) != metadata["sha256"]:
        raise CheckpointError(f"{folder / WEIGHTS}: altered since it was saved (its hash differs)")
    _check_plan_file(folder / PLAN, text)
    n_bytes = (folder / WEIGHTS).stat().st_size
    return Saved(Plan.from_json(text), json.loads(how), tensors, n_bytes)


def _read(path: Path) -> tuple[Mapping[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not there; load takes a folder that npas.save wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not safetensors ({error})") from error
    if metadata.get("npas") != _FORMAT or not {"plan", "how", "sha256"} <= set(metadata):
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
        f"{path}: not the plan that {WEIGHTS} was saved with (an interrupted save, or edited); "
        f"{WEIGHTS} carries its own: delete {PLAN} to load with that"
    )


def _digest(plan: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(plan.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
