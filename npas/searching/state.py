"""The state of a search between two steps: kept in a file, so that it can go on bit for bit."""

import json
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from npas.errors import CheckpointError, is_out_of_memory

_VERSION = 1


@dataclass(slots=True)
class Progress:
    """How far a search has come.

    Attributes:
        step: steps that were taken.
        losses: of the first and of the last.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)

    def add(self, loss: float) -> None:
        """Count a step."""
        self.step += 1
        self.losses = [self.losses[0] if self.losses else loss, loss]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python for what runs inside, and put their states back afterwards."""
    before = random_states()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        set_random_states(before)


def random_states() -> dict[str, Any]:
    """Return the states of all global generators, as `torch.load` reads without pickle."""
    numpy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set the states of all global generators."""
    name, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def save_state(
    path: Path,
    what: Mapping[str, Any],
    progress: Progress,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state beside its place and move it there.

    Raises:
        CheckpointError: if it cannot be written.
    """
    state = {
        "npas_search": _VERSION,
        "what": json.dumps(what),
        "step": progress.step,
        "losses": progress.losses,
        "random": random_states(),
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    beside = path.with_name(f".{path.name}.saving")
    try:
        torch.save(state, beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # the latter from torch.save, of files and disks too
        raise CheckpointError(f"{path}: the search cannot be saved ({error})") from error


def load_state(
    path: Path,
    what: Mapping[str, Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[Progress, Mapping[str, Any]]:
    """Read a state into module and optimizer.

    Args:
        path: of the file.
        what: what is searched; a file of another search is refused.
        module: from `npas.search_model`.
        optimizer: of its parameters.

    Returns:
        How far the search had come, and the states of the generators then.

    Raises:
        CheckpointError: if it is no file of this search.
    """
    try:
        state = torch.load(path, weights_only=True)
        version = state["npas_search"]
        saved = json.loads(state["what"])
    except Exception as error:  # torch.load raises what its reader raises
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: not the state of a search ({error})") from error
    if version != _VERSION:
        raise CheckpointError(f"{path}: written by another version of npas")
    differs = [name for name in what if saved.get(name) != json.loads(json.dumps(what[name]))]
    if differs:
        name = differs[0]
        raise CheckpointError(
            f"{path}: the state of another search: {name} was {_short(saved.get(name))}, now "
            f"{_short(what[name])}; delete the file to start anew"
        )
    try:
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(int(state["step"]), [float(loss) for loss in state["losses"]])
        return progress, state["random"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the state of this search ({error})") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
