"""Memory of Adam training on BERT-base's shapes, as the system counts it."""

import gc
import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import npas
from benchmarks.ledger.plots import adam_plot
from benchmarks.ledger.suite import Case, Plot, Rows, Suite
from benchmarks.networks import network
from benchmarks.tables import Column, Row, Section, count
from npas.bank import banks_of

NETWORK = "bert-base"
DENSE = "dense"
BUDGETS = ("5%", "10%", "25%", "50%", "75%")
#: Whether activations of a block are made again in the backward pass.
ACTIVATIONS = ("made again", "kept")
#: Sequences a batch and tokens a sequence.
BATCH, TOKENS = 1, 128
STEPS = 3
#: Of weights at the start, as BERT's.
STD = 0.02
#: Weight, gradient and both moments of Adam, of four bytes each.
COPIES, ITEMSIZE = 4, 4


def rows_of(budget: str, activations: str) -> Rows:
    """Train for a few steps and note what is resident.

    Args:
        budget: `DENSE`, or of the compiled model.
        activations: one of `ACTIVATIONS`.
    """
    spec = network(NETWORK)
    nn.Linear(8, 8)(torch.ones(1, 8)).sum().backward()  # thread pools, before the baseline
    with torch.device("meta"):
        model: Any = spec.make()
    if activations == "made again":
        model.gradient_checkpointing_enable()
    if budget != DENSE:
        model = npas.compile(model, budget)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, (BATCH, TOKENS), generator=generator)
    # A norm's output alone has the same mean square whatever the weights are.
    wanted = torch.randn(BATCH, TOKENS, model.config.hidden_size, generator=generator)
    gc.collect()
    before = resident()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() > 1 and tensor.is_floating_point():
                tensor.normal_(0, STD)
            else:
                tensor.fill_("norm" in name.lower() and name.endswith("weight"))
    if budget != DENSE:
        npas.reset(model, dict.fromkeys(generated_names(model), STD))
    forget_peak()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.mse_loss(model(ids).last_hidden_state, wanted)
        loss.backward()
        del loss
        optimizer.step()
    gc.collect()
    n_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert all(p.grad is not None for p in model.parameters())
    return [
        {
            "network": NETWORK,
            "budget": budget,
            "activations": activations,
            "params": n_params,
            "steady_bytes": resident() - before,
            "peak_bytes": peak() - before,
        }
    ]


def generated_names(module: nn.Module) -> list[str]:
    """Return the names of the weights that banks make."""
    return [name for bank in banks_of(module).values() for name in bank.layer_names()]


def resident() -> int:
    """Return the bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Let what was resident before not count as the peak (of Linux: `man 5 proc`)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """Return the most bytes of this process that were in memory since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one table: what is resident, and what is saved against the dense model."""
    saved = [saving(row, rows) for row in rows]
    short = [r["expected"] - r["saved_peak"] for r in saved if "expected" in r]
    note = (
        f"{NETWORK}, {BATCH} sequence of {TOKENS} tokens, {STEPS} steps of Adam in float32; each "
        "case in a process of its own, large blocks going straight to and from the system. Steady: "
        "resident after a step, above what was before the model was made. Peak: the most that was "
        "resident at any time. Expected: 4 numbers (weight, gradient, two moments) of 4 bytes for "
        "each parameter that the dense model has and the compiled one has not. The peak has "
        "activations in it, which npas does not change (G.2), and they stand elsewhere: a bank's "
        "gradient is there as a whole from the first layer of the backward pass that reads it, "
        "beside the activations, while a dense model's gradients come as the activations go. So "
        f"at the peak less is saved, here by {_mb(min(short, default=0))} to "
        f"{_mb(max(short, default=0))} MB."
    )
    columns = [
        Column("budget", "budget"),
        Column("activations", "activations"),
        Column("trained", "params", count),
        Column("steady MB", "steady_bytes", _mb),
        Column("peak MB", "peak_bytes", _mb),
        Column("expected saving MB", "expected", _mb),
        Column("saved, steady MB", "saved_steady", _mb),
        Column("to expected", "steady", "{:.3f}".format),
        Column("saved at the peak MB", "saved_peak", _mb),
        Column("to expected", "peak", "{:.3f}".format),
    ]
    return [Section("Adam on BERT-base", note, columns, saved)]


def saving(row: Row, rows: Sequence[Row]) -> Row:
    """Return a row with what it saves against the dense model's."""
    same = (r for r in rows if r["activations"] == row["activations"] and r["budget"] == DENSE)
    dense = next(same, None)
    if dense is None or row["budget"] == DENSE:
        return row
    expected = COPIES * ITEMSIZE * (dense["params"] - row["params"])
    saved = {key: dense[f"{key}_bytes"] - row[f"{key}_bytes"] for key in ("steady", "peak")}
    return {
        **row,
        "expected": expected,
        **{f"saved_{key}": value for key, value in saved.items()},
        **{key: value / expected for key, value in saved.items()},
    }


def _mb(value: float) -> str:
    return f"{value / 1e6:,.0f}"


SUITE = Suite(
    "memory",
    "Memory of Adam training",
    lambda: [
        Case(f"{budget} {activations}", partial(rows_of, budget, activations))
        for activations in ACTIVATIONS
        for budget in (DENSE, *BUDGETS)
    ],
    sections,
    (Plot("adam", "Memory of Adam training at each budget", adam_plot),),
    environ={"MALLOC_MMAP_THRESHOLD_": "65536"},
)
