"""Train on scikit-learn's digits: dense, narrower dense, and npas at a tenth of the parameters.

Run by ``make demo``. Prints the plan and a table, and writes ``demo/plan.png`` and
``demo/results.png``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import npas

BUDGET = "10%"
CHANNELS = 24
BATCH = 64


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class DigitsNet(nn.Module):
    """A residual network of 25 convolutions for 8x8 images."""

    def __init__(self, channels: int = CHANNELS, inner: int = CHANNELS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.fine = nn.Sequential(*(Block(channels, inner) for _ in range(4)))
        self.coarse = nn.Sequential(*(Block(channels, inner) for _ in range(8)))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 1, 8, 8] images to [batch, 10] logits."""
        x = F.relu(self.norm(self.stem(x)))
        x = self.coarse(F.avg_pool2d(self.fine(x), 2))
        return self.head(x.mean(dim=(2, 3)))


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: test accuracy (%), milliseconds a step, bytes held for training."""

    n_params: int
    accuracy: float
    step_ms: float
    state_bytes: int


def narrower(n_params: int) -> tuple[int, int]:
    """Return the channels, outside and inside the blocks, that come nearest to ``n_params``."""
    pairs = [(c, inner) for c in range(2, CHANNELS) for inner in (c - 1, c, c + 1)]
    return min(pairs, key=lambda pair: abs(count(DigitsNet(*pair)) - n_params))


def count(module: nn.Module) -> int:
    """Return the trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return train images and labels, test images and labels, split by seed."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(np.asarray(images), dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(np.asarray(labels))
    train, test = train_test_split(range(len(y)), test_size=0.4, random_state=seed, stratify=y)
    return x[train], y[train], x[test], y[test]


def train(
    make: Callable[[], nn.Module], seed: int, epochs: int, advance: Callable[[], None]
) -> Run:
    """Train one network with an ordinary loop and return what it took."""
    x, y, x_test, y_test = data(seed)
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.AdamW(npas.param_groups(model, weight_decay=0.05), lr=3e-3)
    n_steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=n_steps)
    times: list[float] = []
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            start = time.perf_counter()
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            times.append((time.perf_counter() - start) * 1e3)
        advance()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(dim=1) == y_test).float().mean()) * 100
    held = [p for p in model.parameters() if p.requires_grad]
    held += [p.grad for p in held if p.grad is not None]
    held += [t for s in optimizer.state.values() for t in s.values() if t.dim() > 0]
    n_bytes = sum(t.numel() * t.element_size() for t in held)
    return Run(count(model), accuracy, statistics.median(times), n_bytes)


def results_table(runs: dict[str, list[Run]]) -> Table:
    """Return a row a network: parameters, accuracy, milliseconds a step, bytes."""
    table = Table(title="scikit-learn digits, 1,078 training and 719 test images")
    for column in ("network", "parameters", "test accuracy", "ms a step", "training state"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, rows in runs.items():
        accuracies = [run.accuracy for run in rows]
        spread = statistics.stdev(accuracies) if len(rows) > 1 else 0.0
        table.add_row(
            name,
            f"{rows[0].n_params:,}",
            f"{statistics.mean(accuracies):.2f} ± {spread:.2f} %",
            f"{statistics.median(run.step_ms for run in rows):.1f}",
            f"{rows[0].state_bytes / 2**20:.2f} MiB",
        )
    table.caption = "training state: weights + gradients + optimizer state"
    return table


def plot_results(runs: dict[str, list[Run]], path: Path) -> None:
    """Draw accuracy, step time and training state side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    names = list(runs)
    for i, name in enumerate(names):
        rows = runs[name]
        panels[0].plot([i] * len(rows), [r.accuracy for r in rows], "o", color=f"C{i}", alpha=0.6)
        panels[0].plot(i, statistics.mean(r.accuracy for r in rows), "_", ms=30, color=f"C{i}")
        panels[1].bar(i, statistics.median(r.step_ms for r in rows), color=f"C{i}")
        panels[2].bar(i, rows[0].state_bytes / 2**20, color=f"C{i}")
    titles = ("test accuracy (%), a dot a seed", "milliseconds a step", "training state (MiB)")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=10)
        labels = [n.replace(", ", ",\n").replace(" at ", "\nat ") for n in names]
        panel.set_xticks(range(len(names)), labels, fontsize=7)
        panel.margins(x=0.2)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    arguments = parser.parse_args()
    epochs, seeds = (2, 1) if arguments.quick else (arguments.epochs, arguments.seeds)
    console = Console(width=None if Console().is_terminal else 140)
    # A second thread gains little on layers this small, and costs much where a core is busy.
    torch.set_num_threads(1)

    plan = npas.plan(DigitsNet(), BUDGET, example_inputs=(torch.zeros(1, 1, 8, 8),))
    console.print(plan.table())
    console.print(plan.summary(), highlight=False, markup=False)
    slim = narrower(plan.budget_params)
    networks: dict[str, Callable[[], nn.Module]] = {
        f"dense, {CHANNELS} channels": DigitsNet,
        f"narrower dense, {slim[0]} channels": lambda: DigitsNet(*slim),
        f"npas, {CHANNELS} channels at {BUDGET}": lambda: npas.compile(DigitsNet(), plan=plan),
    }
    runs: dict[str, list[Run]] = {name: [] for name in networks}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        tasks = {name: progress.add_task(name, total=epochs * seeds) for name in networks}
        for seed in range(seeds):
            for name, make in networks.items():
                task = tasks[name]
                runs[name].append(train(make, seed, epochs, lambda t=task: progress.advance(t)))
    console.print(results_table(runs))

    arguments.out.mkdir(parents=True, exist_ok=True)
    plan.plot().savefig(arguments.out / "plan.png", dpi=130)
    plot_results(runs, arguments.out / "results.png")
    console.print(f"wrote {arguments.out / 'plan.png'} and {arguments.out / 'results.png'}")


if __name__ == "__main__":
    main()
