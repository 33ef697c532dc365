"""Ranks that are killed: torchrun starts them again, and training ends with the same bits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.scale.ranks import on_ranks
from examples import loop
from tests.distributed.networks import compiled, loss, smooth

N = 2
_KILLED = "tests.distributed.killed"


def torchrun(module: str, *arguments: str) -> str:
    """Run a module on two processes, and return what it says."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={N}", "--max-restarts=3", "-m", module, *arguments]
    environ = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",  # whatever this machine's name leads to
        # Without it ranks may find the addresses of those that were killed (pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("whole", "killed")}
    return {
        "whole": torchrun(_KILLED, str(folders["whole"])),
        "killed": torchrun(_KILLED, str(folders["killed"]), "killed"),
        "left": "\n".join(sorted(path.name for path in folders["killed"].iterdir())),
    }


def test_training_that_is_killed_three_times_ends_with_the_same_bits(said: dict[str, str]) -> None:
    # In step 13 on rank 1; in the save of step 20; then with that written and not named.
    assert said["killed"].splitlines()[:4] == ["from the start", *["from step 10 on"] * 3]
    digests = [re.findall(r"sha256 (\w{16})", said[name]) for name in ("whole", "killed")]
    assert digests[0] == digests[1] != []
    assert said["whole"].startswith("from the start\n")


def test_nothing_half_written_is_left(said: dict[str, str]) -> None:
    assert said["left"].splitlines() == ["step-00000030", "step-00000032"]


def _read(rank: int, n: int, folder: Path) -> str:
    """Save twice, lose a part of the newest, and return what is said of it."""
    module = compiled(smooth())
    optimizer = torch.optim.AdamW(module.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    loss(module, 0).backward()
    optimizer.step()
    state = loop.Resumable(module, optimizer, schedule)
    for step in (1, 2):
        state.save(folder, step)
    next((folder / "step-00000002").glob("__0_*.distcp")).unlink()
    try:
        return str(state.load(folder))
    except SystemExit as error:
        return str(error)


def test_a_checkpoint_that_misses_a_shard_is_named(tmp_path: Path) -> None:
    (said,) = on_ranks(1, _read, tmp_path)
    assert "step-00000002 cannot be read (FileNotFoundError" in said
    assert said.endswith("delete it to go on from the one before")
