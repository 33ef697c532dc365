"""What `examples.train_ddp` and `examples.train_fsdp2` share: data, checkpoints, and the loop."""

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from examples.digits import data

#: Of all ranks together.
BATCH = 64
LR = 3e-3
#: Checkpoints that are kept.
KEEP = 2


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Attributes:
        budget: of `npas.compile`.
        epochs: passes over the training images.
        folder: where checkpoints are.
        every: steps from one checkpoint to the next.
    """

    budget: str
    epochs: int
    folder: Path
    every: int


def options(description: str | None, name: str) -> Options:
    """Read the command line of a script; ``name`` is that of its folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--budget", default="10%")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("build") / name, help="of checkpoints")
    parser.add_argument("--every", type=int, default=50, metavar="STEPS", help="a checkpoint")
    return Options(**vars(parser.parse_args()))


def start() -> None:
    """Join the other processes that torchrun started: nccl with GPUs, gloo without."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def device() -> torch.device:
    """Return the device of this process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    module: nn.Module,
    optimizer: Optimizer,
    how: Options,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train on scikit-learn's digits, from the newest checkpoint on.

    The order of images follows from the number of the epoch, so that training that was stopped and
    goes on takes the same steps as if it had not been.

    Args:
        module: wrapped or sharded.
        optimizer: of its parameters.
        how: see `Options`.
        on_step: called with the number of each step, before its update.
    """
    rank, n = dist.get_rank(), dist.get_world_size()
    images, labels, *_ = (tensor.to(device()) for tensor in data(seed=0))
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=how.epochs * steps)
    state = Resumable(module, optimizer, schedule)
    first = state.load(how.folder)
    say(f"from step {first} on" if first else "from the start")
    module.train()
    for step in range(first, how.epochs * steps):
        epoch, batch = divmod(step, steps)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        own = order[batch * BATCH : (batch + 1) * BATCH][rank::n]
        loss = F.cross_entropy(module(images[own]), labels[own])
        optimizer.zero_grad()
        loss.backward()
        on_step(step)
        optimizer.step()
        schedule.step()
        if (step + 1) % how.every == 0 or step + 1 == how.epochs * steps:
            state.save(how.folder, step + 1)
        if batch + 1 == steps and (epoch + 1) % 5 == 0:
            say(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}")


@dataclass(frozen=True, slots=True)
class Resumable:
    """All that a step depends on, in checkpoints of torch.distributed."""

    module: nn.Module
    optimizer: Optimizer
    schedule: Any

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint beside its place, and move it there when all ranks have written."""
        place, scratch = folder / f"step-{step:08d}", folder / "writing"
        if dist.get_rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        save(self._state(), checkpoint_id=scratch)
        if dist.get_rank() == 0:
            commit(scratch, place)
            for old in checkpoints(folder)[:-KEEP]:
                shutil.rmtree(old)
        dist.barrier()

    def load(self, folder: Path) -> int:
        """Read the newest checkpoint, into any number of ranks, and return its step; 0 if none."""
        found = checkpoints(folder)
        if not found:
            return 0
        state = self._state()
        try:
            load(state, checkpoint_id=found[-1])
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise SystemExit(
                f"{found[-1]} cannot be read ({cause!r}): use another --folder with other options, "
                "or delete it to go on from the one before"
            ) from error
        set_state_dict(
            self.module,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self.schedule.load_state_dict(state["schedule"])
        return int(found[-1].name.rpartition("-")[2])

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.module, self.optimizer)
        return {"model": model, "optimizer": optimizer, "schedule": self.schedule.state_dict()}


def commit(scratch: Path, place: Path) -> None:
    """Let a complete checkpoint be the newest."""
    os.replace(scratch, place)


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, the oldest first."""
    return sorted(folder.glob("step-*"))


@torch.no_grad()
def accuracy(module: nn.Module) -> float:
    """Return the percentage of test images that are recognised."""
    module.eval()
    _, _, images, labels = (tensor.to(device()) for tensor in data(seed=0))
    return float((module(images).argmax(dim=1) == labels).float().mean()) * 100


def finish(module: nn.Module) -> None:
    """Say what was reached, with a digest of all parameters that tells whether bits are equal."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode() + whole(parameter).cpu().numpy().tobytes())
    n_params = sum(p.numel() for p in module.parameters())
    reached = accuracy(module)
    say(f"{reached:.2f}% of test images, {n_params:,} parameters, sha256 {digest.hexdigest()[:16]}")
    dist.barrier()  # nobody closes connections that another still reads from
    dist.destroy_process_group()


def whole(parameter: Any) -> Tensor:
    """Return a parameter that may be sharded, as one tensor."""
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()


def say(text: str) -> None:
    """Print on the first rank."""
    if dist.get_rank() == 0:
        print(text, flush=True)
