"""What the foundation promises, measured: ``python -m benchmarks.foundation [SECTION ...]``.

Sections: budgets, scale, activations, identity, speed, memory. Every section checks what it prints
and ends with an error where a promise does not hold; times and bytes are printed, not judged.
"""

import argparse
import gc
import itertools
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import npas
from benchmarks.networks import NETWORKS, example_inputs
from benchmarks.networks.mlp import mlp
from benchmarks.networks.transformer import transformer
from npas.bank import Bank
from npas.init import spread
from npas.plan import DOWNSAMPLE, UPSAMPLE, Plan
from npas.recompute import LiveWeights

BUDGETS = ("1.4%", "5%", "10%", "34.7%", "50%", "75%", "100%", "200%", "400%")
GROUPS = ("auto", "own", "single", "random", "by_shape", "repeated")
REFERENCE = ("wrn-28-10", "wrn-16-1", "mlp", "transformer", "recurrent")
console = Console(width=132)


@dataclass
class _Row:
    asked: int
    got: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    refused: int = 0
    honest: int = 0
    dead: int = 0


def budgets(names: tuple[str, ...] = REFERENCE) -> None:
    """Every budget, mapping, downsampling and upsampling mode on every reference network."""
    table = Table(title="budgets: all mappings x down- and upsampling modes", show_lines=False)
    for column in ("network", "budget", "asked", "got, least", "got, most", "least share"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for column in ("plans", "refused", "bound holds", "over", "dead"):
        table.add_column(column, justify="right")
    for name in names:
        with torch.device("meta"):
            model = NETWORKS[name].make()
        seen: dict[tuple[object, ...], int] = {}
        for budget in BUDGETS:
            row = _budget_row(model, budget, seen)
            over = sum(got > row.asked for got in row.got)
            table.add_row(
                name,
                budget,
                f"{row.asked:,}",
                f"{min(row.got, default=0):,}",
                f"{max(row.got, default=0):,}",
                f"{min(row.shares):.4%}" if row.shares else "-",
                str(len(row.got)),
                str(row.refused),
                f"{row.honest}/{row.refused}",
                str(over),
                str(row.dead),
            )
            assert not over and not row.dead and row.honest == row.refused, (name, budget)
            if row.asked >= 100_000 and row.shares:
                assert min(row.shares) >= 0.999, (name, budget, min(row.shares))
    console.print(table)


def _budget_row(model: nn.Module, budget: str, seen: dict[tuple[object, ...], int]) -> _Row:
    n_dense = sum(p.numel() for p in model.parameters() if p.requires_grad)
    row = _Row(int(float(budget.rstrip("%")) / 100 * n_dense + 1e-9))
    for groups, down, up in itertools.product(GROUPS, DOWNSAMPLE, UPSAMPLE):
        make = partial(npas.plan, model, groups=groups, downsample=down, upsample=up)
        try:
            plan = make(budget)
        except npas.BudgetError as error:
            row.refused += 1
            row.honest += _bound_holds(make, error)
            continue
        row.got.append(plan.n_params)
        row.shares.append(plan.n_params / row.asked)
        key = (plan.banks, tuple((x.block, x.bank, x.mode) for x in plan.layers))
        if key not in seen:
            seen[key] = dead_parameters(plan)
        row.dead += seen[key]
    return row


def _bound_holds(make: Callable[[int], Plan], error: npas.BudgetError) -> bool:
    """Tell whether the bound that a refusal names is usable, and the next budget is not."""
    bound, outside = (error.smallest, -1) if error.smallest is not None else (error.largest, 0)
    assert bound is not None
    if make(bound).n_params > bound:
        return False
    if error.smallest is None:
        return True
    try:
        make(bound + outside)
    except npas.BudgetError:
        return True
    return False


def dead_parameters(plan: Plan) -> int:
    """Count parameters that all-ones gradients into every generated weight do not reach."""
    dead = 0
    for bank in _banks(plan):
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.fill_(1.0)
        weights = bank()
        assert isinstance(weights, dict)
        torch.autograd.backward(
            list(weights.values()), [torch.ones_like(w) for w in weights.values()]
        )
        for parameter in bank.parameters():
            assert parameter.grad is not None
            dead += int((parameter.grad == 0).sum())
    return dead


def _banks(plan: Plan) -> Iterator[Bank]:
    for bank in plan.banks:
        if not plan.is_ordinary(bank.name):
            yield Bank(plan, bank.name, device=torch.device("cpu"), live=LiveWeights())


def scale() -> None:
    """Standard deviation of every weight at the start, and the geometric mean of the gains."""
    table = Table(title="start: standard deviation of generated weights against the original's")
    for column in ("network", "downsample", "upsample", "worst ratio", "layer", "gain mean"):
        table.add_column(column)
    for name, down, up in itertools.product(REFERENCE, DOWNSAMPLE, UPSAMPLE):
        if name == "wrn-28-10" and (down, up) != ("wavg", "mask"):
            continue
        torch.manual_seed(0)
        model = NETWORKS[name].make()
        originals = dict(model.named_parameters())
        worst, mean = (1.0, "-"), 1.0
        shares = ("10%",) if name == "wrn-28-10" else ("1.4%", "10%", "50%", "100%", "400%")
        for budget, groups in itertools.product(shares, ("auto", "single", "by_shape")):
            try:
                ssn = npas.compile(model, budget, groups=groups, downsample=down, upsample=up)
            except npas.BudgetError:
                continue
            for bank in (m for m in ssn.modules() if isinstance(m, Bank)):
                gain = float(bank.gain.double().abs().log().mean().exp())
                mean = max(mean, gain, 1 / gain)
                for layer in bank.layer_names():
                    with torch.no_grad():
                        ratio = spread(bank.generate(layer)) / spread(originals[layer])
                    if abs(ratio - 1) > abs(worst[0] - 1):
                        worst = (ratio, f"{layer} ({groups}, {budget})")
        table.add_row(name, down, up, f"{worst[0]:.4f}", worst[1], f"{mean:.6f}")
        assert abs(worst[0] - 1) < 0.05 and abs(mean - 1) < 1e-3, (name, down, up, worst, mean)
    console.print(table)


def activations(depth: int = 12) -> None:
    """Standard deviation of the output of each block of a pre-norm transformer at the start."""
    torch.manual_seed(0)
    model = transformer(depth=depth)
    tokens = torch.randint(1000, (8, 64))
    plan = npas.plan(model, "1.4%" if depth > 8 else "5%", groups="single", upsample="mask")
    plain = npas.compile(model, plan=plan)
    torch.manual_seed(0)
    calibrated = npas.compile(model, plan=plan, calibrate=tokens)
    columns = {
        "original": _block_spreads(model, tokens),
        "npas": _block_spreads(plain, tokens),
        "calibrate=batch": _block_spreads(calibrated, tokens),
    }
    table = Table(title=f"activations at the start: {depth} blocks, one bank, budget {plan.budget}")
    table.add_column("output of")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("ratio", justify="right")
    worst = 0.0
    for where, original in columns["original"].items():
        cells = [where]
        for name in columns:
            ratio = columns[name][where] / original
            cells += [f"{columns[name][where]:.4f}", f"{ratio:.3f}"]
            if name.startswith("calibrate"):
                worst = max(worst, abs(ratio - 1))
        table.add_row(*cells)
    console.print(table)
    console.print(f"furthest from the original after calibrate=batch: {worst:.1%}")
    assert worst < 0.10, worst


def _block_spreads(module: nn.Module, tokens: torch.Tensor) -> dict[str, float]:
    """Return the spread of what enters each block and the final norm (the residual stream)."""
    found: dict[str, float] = {}
    handles = []
    for name, child in module.named_modules():
        if isinstance(child, nn.LayerNorm):

            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                found[f"before {name}"] = float(args[0].std())

            handles.append(child.register_forward_pre_hook(hook))
    with torch.no_grad():
        module.eval()(tokens)
    module.train()
    for handle in handles:
        handle.remove()
    return found


def identity() -> None:
    """groups="own" at 100%: outputs and one SGD step bit-equal to the original's."""
    table = Table(title="identity: own banks at 100%")
    for column in ("network", "outputs", "gradients", "one SGD step", "banks generated"):
        table.add_column(column)
    for name in ("wrn-16-1", "mlp", "transformer", "recurrent", "wrn-28-10"):
        torch.manual_seed(0)
        model = NETWORKS[name].make()
        ssn = npas.compile(model, "100%", groups="own")
        inputs = example_inputs(name)
        results = []
        for module in (model, ssn):
            torch.manual_seed(1)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            out = module(*inputs)
            out.float().square().mean().backward()
            gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
            optimizer.step()
            results.append(([out], gradients, [p.detach() for p in module.parameters()]))
        equal = [all(map(torch.equal, a, b)) for a, b in zip(*results, strict=True)]
        n_banks = sum(isinstance(m, Bank) for m in ssn.modules())
        table.add_row(name, *("bit-equal" if e else "DIFFER" for e in equal), str(n_banks))
        assert all(equal), name
    console.print(table)


def speed() -> None:
    """Planning and compiling: milliseconds a pass, and how they grow with the layers."""
    with torch.device("meta"):
        model = NETWORKS["wrn-28-10"].make()
    inputs = example_inputs("wrn-28-10", device="meta")
    npas.plan(model, "10%", example_inputs=inputs)  # lazy imports of torch and scikit-learn
    for label, given in (("no example inputs", ()), ("counting MACs on example inputs", inputs)):
        wall, cpu = _timed(lambda given=given: npas.plan(model, "10%", example_inputs=given), 9)
        console.print(
            f"npas.plan WRN-28-10 at 10%, {label}: {wall * 1e3:.0f} ms, of which "
            f"{cpu * 1e3:.0f} ms on a processor (medians of 9)"
        )
    table = Table(title="compile of an MLP of width 32 at 10% (medians of 3)")
    for column in ("layers", "seconds", "CPU seconds", "CPU ms a layer", "against 250"):
        table.add_column(column, justify="right")
    base = None
    for depth in (250, 500, 1000, 2000):
        model = mlp(depth=depth, width=32)
        wall, cpu = _timed(lambda model=model: npas.compile(model, "10%"), 3)
        base = base or cpu / depth
        table.add_row(
            str(depth),
            f"{wall:.2f}",
            f"{cpu:.2f}",
            f"{cpu / depth * 1e3:.3f}",
            f"{cpu / depth / base:.2f}x",
        )
    console.print(table)


def _timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return median seconds by the clock, and of processor time (what a busy machine leaves)."""
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(rounds):
        gc.collect()  # the modules of the round before are not this round's to clear away
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return statistics.median(wall), statistics.median(cpu)


_CASES = ("dense", "recompute=True", "recompute=False")


def memory() -> None:
    """Peak memory of training steps, each case in a process of its own."""
    table = Table(
        title="peak memory of training steps (AdamW): transformer, dim 1024, 8 blocks, 50%"
    )
    for column in ("case", "trainable parameters", "peak MiB over imports", "against dense"):
        table.add_column(column, justify="right")
    dense = None
    for case in _CASES:
        command = [sys.executable, "-m", "benchmarks.foundation", "--memory-case", case]
        # Large blocks go straight to and from the system, so that what is resident is what is used.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        out = done.stdout.split()
        n_params, mib = int(out[-2]), float(out[-1])
        dense = dense or mib
        table.add_row(case, f"{n_params:,}", f"{mib:,.0f}", f"{mib / dense:.2f}x")
    console.print(table)


def _memory_case(case: str) -> None:
    make = partial(transformer, dim=1024, depth=8, heads=8)
    tokens = torch.randint(1000, (2, 64))
    nn.Linear(8, 8)(torch.ones(1, 8)).sum().backward()  # thread pools, before the baseline
    with torch.device("meta"):
        model: nn.Module = make()
    if case != "dense":
        model = npas.compile(model, "50%", recompute=case.endswith("True"))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(0, 0.02)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(tokens).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(n_params, (peak - base) / 1024)


SECTIONS: dict[str, Callable[[], None]] = {
    "identity": identity,
    "activations": activations,
    "scale": scale,
    "speed": speed,
    "memory": memory,
    "budgets": budgets,
}


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--memory-case", choices=_CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_case:
        _memory_case(arguments.memory_case)
        return
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; they are {', '.join(SECTIONS)}")
    for name in arguments.sections or SECTIONS:
        start = time.perf_counter()
        SECTIONS[name]()
        console.print(f"[{name}: {time.perf_counter() - start:.0f} s]", markup=False)


if __name__ == "__main__":
    main()
