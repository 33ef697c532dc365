"""`examples.train_fsdp2`, killed in the middle of a step, and once more in the middle of a save.

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


def commit(scratch: Path, place: Path, before: Any = loop.commit) -> None:
    """Die on the first rank when a checkpoint is written and has not got its name."""
    if ATTEMPT == 1:
        assert list(scratch.glob("*.distcp"))
        die()
    before(scratch, place)


if __name__ == "__main__":
    how = loop.Options("20%", EPOCHS, Path(sys.argv[1]), EVERY)
    if len(sys.argv) > 2:
        loop.commit = commit  # type: ignore[assignment]
        train_fsdp2.run(how, on_step)
    else:
        train_fsdp2.run(how)
