"""`examples.train_fsdp2`, killed in the middle of a step, of a save, and behind one.

Run by torchrun, with a folder; it is killed where there is a second argument.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from examples import loop, train_fsdp2

EVERY = 10
EPOCHS = 2
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def die() -> None:
    """End as a process does that runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_step(step: int) -> None:
    """Die on one rank, behind the backward pass of a step and before its update."""
    if ATTEMPT == 0 and step == 13 and dist.get_rank() == 1:
        die()


def save(state: Any, checkpoint_id: Path, before: Any = loop.save) -> None:
    """Die on one rank while the others write."""
    if ATTEMPT == 1 and dist.get_rank() == 1:
        die()
    before(state, checkpoint_id=checkpoint_id)


def commit(scratch: Path, place: Path, before: Any = loop.commit) -> None:
    """Die on the first rank when a checkpoint is written and has not got its name."""
    if ATTEMPT == 2:
        assert list(scratch.glob("*.distcp"))
        die()
    before(scratch, place)


if __name__ == "__main__":
    how = loop.Options("20%", EPOCHS, Path(sys.argv[1]), EVERY)
    if len(sys.argv) > 2:
        loop.save, loop.commit = save, commit  # type: ignore[assignment]
        train_fsdp2.run(how, on_step)
    else:
        train_fsdp2.run(how)
