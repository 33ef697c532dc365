"""What front ends cost and what calibration does inside of them: python -m benchmarks.front_ends.

memory: peak of a process that trains a model which no front end captures, 24 layers of 1,536 x
1,536 behind control flow over values, for two AdamW steps: dense, at 10% with each weight made
where it is read ("layer"), and with all weights of the bank made at once ("bank"). activations: the
standard deviation after each of eight pre-norm blocks inside of nn.TransformerEncoder, from one
bank at 8%, as a multiple of the original's, without and with `calibrate=`.
"""

import argparse
import json
import resource
import subprocess
import sys
import warnings

import torch
from rich.console import Console
from torch import Tensor, nn

import npas
from benchmarks.tables import Column, Row, Section, show, times

_MIB = 1024  # ru_maxrss is in KiB
WIDTH, DEPTH, STEPS = 1536, 24, 2


class Valued(nn.Module):
    """A residual network whose forward looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.relu(layer(norm(x))) if x.sum() < 1e9 else x
        return x


def train(way: str) -> Row:
    """Train in this process, and return its peak."""
    torch.manual_seed(0)
    if way == "dense":
        model: nn.Module = Valued()
    else:
        with torch.device("meta"):
            original = Valued()
        model = npas.compile(original, "10%", groups="single", schedule=way)
        model.to_empty(device="cpu")
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        npas.reset(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(STEPS):
        model(torch.randn(8, WIDTH)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_params = sum(p.numel() for p in model.parameters())
    return {"way": way, "params": n_params, "before": before // _MIB, "peak": peak // _MIB}


def memory() -> Section:
    """Train in a process each."""
    rows: list[Row] = []
    for way in ("dense", "layer", "bank"):
        command = [sys.executable, "-m", "benchmarks.front_ends", "--train", way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    columns = [Column("weights", "way"), Column("parameters", "params", "{:,}".format)]
    columns += [Column("before training, MiB", "before"), Column("peak, MiB", "peak")]
    return Section("Memory without a graph", "", columns, rows)


def activations() -> Section:
    """Compare activations inside of a module that fx calls whole."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(block, 8, enable_nested_tensor=False)
    model = nn.Sequential(nn.Linear(32, 32), encoder)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    x = torch.randn(16, 12, 32)
    expected = _spreads(model, x)
    rows: list[Row] = []
    for batch in (None, x):
        torch.manual_seed(1)
        ssn = npas.compile(model, "8%", groups="single", calibrate=batch)
        found = _spreads(ssn, x)
        ratios = {f"{i}": a / b for i, (a, b) in enumerate(zip(found, expected, strict=True), 1)}
        rows.append({"how": "without" if batch is None else "with calibrate=", **ratios})
    columns = [Column("start", "how"), *(Column(f"block {i}", f"{i}", times) for i in range(1, 9))]
    return Section("Activations inside of nn.TransformerEncoder", "", columns, rows)


def _spreads(module: nn.Module, x: Tensor) -> list[float]:
    found: list[float] = []
    handles = [
        module.get_submodule(f"1.layers.{i}").register_forward_hook(
            lambda _module, _args, output: found.append(float(output.detach().std()))
        )
        for i in range(8)
    ]
    module(x)
    for handle in handles:
        handle.remove()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--train", choices=("dense", "layer", "bank"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.train:
        print(json.dumps(train(arguments.train)))
    else:
        show(Console(width=120), [memory(), activations()])


if __name__ == "__main__":
    main()
