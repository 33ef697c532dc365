"""How alike a weight's tiles are before and after training, by the masks' start.

``python -m benchmarks.learning.tiles --data CIFAR10``: one run a start of the experiment masks/5%.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import npas
from benchmarks.data import DATA_HELP
from benchmarks.learning.experiments import WRN16
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.starts import MASKS, restart
from benchmarks.learning.task import Task, task_of
from benchmarks.learning.train import fit
from benchmarks.tables import Column, Section, show
from npas.bank import Bank, banks_of


def similarity(bank: Bank) -> float:
    """Return the mean absolute correlation of the whole tiles of the bank's largest layer."""
    largest = max(bank.layer_names(), key=lambda name: bank.slot_of(name)[0].n)
    weight, n = bank.generate(largest).detach().flatten(), bank.theta.numel()
    tiles = weight[: len(weight) // n * n].view(-1, n)
    correlations = torch.corrcoef(tiles)
    apart = ~torch.eye(len(tiles), dtype=torch.bool)
    return float(correlations[apart].abs().mean())


def measure(start: str, task: Task, budget: str = "5%", seed: int = 0) -> dict[str, object]:
    """Train from a start of the masks, and return how tiles and masks moved."""
    torch.manual_seed(seed)
    model = NETWORKS[WRN16.network]()
    torch.manual_seed(10_000 + seed)
    module = npas.compile(model, budget, groups="single", recompute=False)
    restart(module, start, seed)
    (bank,) = banks_of(module).values()
    before, first = mask_of(bank).clone(), similarity(bank)
    fit(module, WRN16, task, seed)
    after = mask_of(bank)
    return {
        "start": start.removeprefix("mask: "),
        "first": first,
        "last": similarity(bank),
        "moved": float((after - before).square().mean().sqrt()),
        "flipped": int((after.sign() != before.sign()).sum()),
        "elements": after.numel(),
    }


def mask_of(bank: Bank) -> Tensor:
    """Return the bank's masks, without grad."""
    assert bank.mask is not None
    return bank.mask.detach()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.tiles")
    parser.add_argument("--data", type=Path, required=True, help=DATA_HELP)
    torch.set_num_threads(1)
    task = task_of(WRN16, parser.parse_args().data)
    columns = (
        Column("start", "start"),
        Column("correlation at first", "first", lambda value: f"{value:.2f}"),
        Column("at last", "last", lambda value: f"{value:.2f}"),
        Column("masks moved by", "moved", lambda value: f"{value:.2f}"),
        Column("signs changed", "flipped"),
        Column("mask elements", "elements"),
    )
    rows = [measure(start, task) for start in MASKS]
    show(Console(), [Section("Tiles of the largest layer", f"{task.label}.", columns, rows)])


if __name__ == "__main__":
    main()
