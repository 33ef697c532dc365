"""The folder of a saved module: tensors in a file named by its hash, and plan.json, which names it.

Replacing plan.json is what makes a save the one that counts. Whatever was written before, and
whatever is removed behind it, a crash leaves the earlier module or the new one, whole.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from npas.errors import CheckpointError, PlanError
from npas.passes.schedule import SCHEDULES
from npas.plan import Plan
from npas.plan_json import PLAN, dump_plan, read_file

FORMAT = 2
_FILE = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
_SCRATCH = ".saving-"
_CHUNK = 2**22
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Saved:
    """What a folder holds.

    Attributes:
        plan: of the compiled module.
        how: what compiling it the same again needs, as JSON values.
        tensors: its state dict, on the CPU.
        n_bytes: of the file that they are in.
    """

    plan: Plan
    how: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    n_bytes: int


def write_folder(
    folder: Path, plan: Plan, how: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write a module: first its tensors, then plan.json; files that it does not name are removed.

    Raises:
        CheckpointError: if the folder cannot be written; what was there is there still.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _write(folder, plan, how, tensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from error


def _write(
    folder: Path, plan: Plan, how: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        written = Path(scratch, "weights")
        save_file(dict(tensors), written, {"npas": str(FORMAT)})
        _sync(written)
        digest = _hash_of(written)
        name = f"weights-{digest[:16]}.safetensors"
        head = {
            "format": FORMAT,
            "file": name,
            "bytes": written.stat().st_size,
            "sha256": digest,
            "how": dict(how),
        }
        head["plan_sha256"] = _hash_of_plan(plan, head)
        data = json.loads(dump_plan(plan)) | {"saved": head}
        text = Path(scratch, PLAN)
        text.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        _sync(text)
        written.chmod(text.stat().st_mode & 0o777)  # safetensors lets the owner alone read it
        os.replace(written, folder / name)
        _sync(folder)
        os.replace(text, folder / PLAN)
        _sync(folder)
    for path in folder.iterdir():
        if path.name != name and (_FILE.fullmatch(path.name) or path.name == "model.safetensors"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time save into a folder, where the system can lock one."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in folder.glob(f"{_SCRATCH}*"):  # by a process that was killed
            for path in left.iterdir():
                path.unlink()
            left.rmdir()
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_of_plan(plan: Plan, head: Mapping[str, Any]) -> str:
    named = {key: value for key, value in head.items() if key != "plan_sha256"}
    return hashlib.sha256(
        (dump_plan(plan) + json.dumps(named, sort_keys=True)).encode()
    ).hexdigest()


def read_folder(folder: Path) -> Saved:
    """Read and check a folder; nothing is built, and nothing larger than its files is allocated.

    Raises:
        CheckpointError: if a file is missing, truncated or altered, from the `PlanError` where the
            plan is at fault.
    """
    for attempt in range(_TRIES):
        text = _read_plan(folder / PLAN)
        try:
            return _read(folder, text)
        except FileNotFoundError as error:
            # Saved anew between the two reads.
            if attempt == _TRIES - 1 or _read_plan(folder / PLAN) == text:
                raise CheckpointError(f"{error.filename}: not there; {PLAN} names it") from error
    raise AssertionError


def _read_plan(path: Path) -> str:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        what = "not there; load takes a folder that npas.save wrote"
        raise CheckpointError(f"{path}: {what}") from error
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read(folder: Path, text: str) -> Saved:
    path = folder / PLAN
    try:
        plan = Plan.from_json(text)
    except PlanError as error:
        raise CheckpointError(f"{path}: {error}") from error
    head = _check_head(path, json.loads(text).get("saved"))
    if head["plan_sha256"] != _hash_of_plan(plan, head):
        raise CheckpointError(f"{path}: altered since it was saved (its hash differs)")
    return Saved(plan, head["how"], _read_tensors(folder / head["file"], head), head["bytes"])


def _check_head(path: Path, head: Any) -> dict[str, Any]:
    """Check the part of plan.json that names the tensors.

    Raises:
        CheckpointError: that names the field.
    """
    if not isinstance(head, dict):
        raise CheckpointError(
            f"{path}: a plan, and not of a saved module (no field saved); load takes a folder that "
            "npas.save wrote"
        )
    if head.get("format") != FORMAT or isinstance(head["format"], bool):
        raise CheckpointError(
            f"{path}: saved.format: {head.get('format')!r} found, {FORMAT} required; not written "
            "by this version of npas.save"
        )
    how = head.get("how")
    right = {
        "file": isinstance(head.get("file"), str) and bool(_FILE.fullmatch(head["file"])),
        "bytes": _is_count(head.get("bytes")),
        "sha256": isinstance(head.get("sha256"), str),
        "plan_sha256": isinstance(head.get("plan_sha256"), str),
        "how": isinstance(how, dict) and _is_how(how),
    }
    wrong = [name for name, fine in right.items() if not fine]
    wrong += sorted(set(head) - {*right, "format"})
    if wrong:
        raise CheckpointError(
            f"{path}: saved.{wrong[0]}: not what npas.save writes; the file was altered"
        )
    return head


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_how(how: Mapping[str, Any]) -> bool:
    if set(how) != {"frontend", "keywords", "n_inputs", "recompute", "schedule"}:
        return False
    keywords, recompute = how["keywords"], how["recompute"]
    return (
        isinstance(how["frontend"], str)
        and isinstance(keywords, list)
        and all(isinstance(name, str) for name in keywords)
        and _is_count(how["n_inputs"])
        and (isinstance(recompute, bool) or recompute == "auto")
        and how["schedule"] in SCHEDULES
    )


def _read_tensors(path: Path, head: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    if path.is_symlink():
        raise CheckpointError(f"{path}: a link; npas.save writes files")
    if path.stat().st_size != head["bytes"]:
        raise CheckpointError(
            f"{path}: {path.stat().st_size:,} bytes, {head['bytes']:,} were saved (truncated?)"
        )
    if _hash_of(path) != head["sha256"]:
        raise CheckpointError(f"{path}: altered since it was saved (its hash differs)")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not safetensors ({error})") from error
