"""Memory of Adam training on BERT-base's shapes, as the system counts it."""

import gc
import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import npas
from benchmarks.ledger.suite import Case, Rows, Suite
from benchmarks.networks import network
from benchmarks.tables import Column, Row, Section, count

NETWORK = "bert-base"
DENSE = "dense"
BUDGETS = ("5%", "10%", "25%", "50%", "75%")
#: Whether activations of a block are made again in the backward pass.
ACTIVATIONS = ("made again", "kept")
#: Sequences a batch and tokens a sequence.
BATCH, TOKENS = 1, 128
STEPS = 3
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
    gc.collect()
    before = resident()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
            else:
                tensor.zero_()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(ids).last_hidden_state.square().mean()
        loss.backward()
        del loss
        optimizer.step()
    gc.collect()
    n_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert all(p.grad is not None for p in model.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        {
            "network": NETWORK,
            "budget": budget,
            "activations": activations,
            "params": n_params,
            "steady_bytes": resident() - before,
            "peak_bytes": peak - before,
        }
    ]


def resident() -> int:
    """Return the bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one table: what is resident, and what is saved against the dense model."""
    note = (
        f"{NETWORK}, {BATCH} sequence of {TOKENS} tokens, {STEPS} steps of Adam in float32; each "
        "case in a process of its own, large blocks going straight to and from the system. Steady: "
        "resident after a step, above what was before the model was made. Peak: the most that was "
        "resident at any time. Expected: 4 numbers (weight, gradient, two moments) of 4 bytes for "
        "each parameter that the dense model has and the compiled one has not. The peak has "
        "activations in it, which npas does not change (G.2), and they stand elsewhere: a bank's "
        "gradient is there as a whole from the first layer of the backward pass that reads it, "
        "beside the activations, while a dense model's gradients come as the activations go. So "
        "at the peak the difference is some tens of megabytes, whatever the budget."
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
    return [Section("Adam on BERT-base", note, columns, [saving(row, rows) for row in rows])]


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
    environ={"MALLOC_MMAP_THRESHOLD_": "65536"},
)
