"""Rows of ``python -m benchmarks.kernels`` in which all weights of a network are made.

A plan's layers are made one after the other, each weight dropped before the next one is made, as
training with recomputation does it ("a call a layer"), and in one call a bank. They take turns with

- a plain copy of ``sum (K_i + 1) n_i / 2`` elements, which moves as many bytes as the floor, from
  one buffer that is there into another; the same in pieces, each layer's out of its bank into the
  same small buffer, most of which a cache holds (`cached`); and those pieces into fresh memory, as
  the output of any op is (`clone`);
- the naive form, layer after layer; backward by autograd (which adds up a gradient as large as the
  bank for each layer) and written by hand (which adds to the windows alone);
- autograd through the reference, layer after layer.

Backward, a copy moves the floor of the layer's own call, or of the bank's
(`benchmarks.kernel_floors`). Weights of one template whose gain is 1 are views of the bank and
cost nothing: banks of layers of one shape and one template are left out for that.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

import npas
from benchmarks.kernel_cases import BACKWARD, FORWARD, FP32, NAMES
from benchmarks.kernel_floors import floor_bytes
from benchmarks.kernel_naive import alpha_of, templates
from benchmarks.kernel_networks import (
    CASES,
    HOW,
    Made,
    add_gradients,
    bank_of,
    check,
    samples_of,
)
from benchmarks.kernel_times import backend_of, timings
from benchmarks.runner import Call, environment, paired
from benchmarks.traffic import bytes_moved, peak_temporaries
from npas.kernels import combine
from npas.kernels.combine import eager
from npas.kernels.combine.table import ROW, Row
from npas.kernels.samples import Sample

#: What must hold, by direction: times the naive form, times a copy, share of the weights generated.
TARGETS = {
    FORWARD: {"ratio_naive": 1 / 8, "ratio_copy": 2.0, "temporaries": 0.05},
    BACKWARD: {"ratio_naive": 1 / 4, "temporaries": 0.05},
}


def rows(*, device: torch.device, rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Check and time the networks, each with ``groups="auto"`` and ``groups="single"``."""
    found: list[dict[str, Any]] = []
    where = environment(device)
    for case in CASES:
        if case.quick != quick:
            continue
        with torch.device("meta"):
            model = case.make()
        plans = {g: npas.plan(model, case.budget, groups=g) for g in ("auto", "single")}
        if plans["auto"].layers == plans["single"].layers:
            plans = {"auto and single": plans["auto"]}
        for groups, plan in plans.items():
            banks = [bank_of(sample, device) for sample in samples_of(plan)]
            for bank in banks:
                check(bank, device)
            for forward in (True, False):
                name = f"{case.name}, groups={groups}"
                if banks:
                    found += (row | where for row in _rows(name, banks, forward, device, rounds))
    return found


def _rows(
    name: str, banks: Sequence[Made], forward: bool, device: torch.device, rounds: int
) -> Iterator[dict[str, Any]]:
    ways = _forward(banks, device) if forward else _backward(banks, device)
    sizes = {how: floors(banks, forward, how) for how in HOW}
    for how in HOW:
        ways[f"cached {how}"], ways[f"clone {how}"] = _copies(banks, sizes[how])
        source = torch.ones(sum(sizes[how]) // 8, device=device)
        ways[f"copy {how}"] = [partial(torch.zeros_like(source).copy_, source)]
    times = paired({way: partial(_run, calls) for way, calls in ways.items()}, device, rounds)
    n_weights = sum(layer.row.n for bank in banks for layer in bank.layers)
    for how in HOW:
        on_cpu: dict[str, Any] = {"bytes": None, "temporaries": None}
        if device.type == "cpu":
            # One call at a time: what a call holds is gone when the next one begins.
            peak = max(map(peak_temporaries, ways[how]))
            moved = sum(bytes_moved(call) for call in _eager(banks, forward, how))
            on_cpu = {"bytes": moved, "temporaries": peak / (n_weights * FP32.itemsize)}
        yield {
            "op": "combine",
            "shape": f"{name}: a call a {how}",
            "direction": FORWARD if forward else BACKWARD,
            "dtype": NAMES[FP32],
            "backend": backend_of(device),
            "floor_bytes": sum(sizes[how]),
            **on_cpu,
            **timings(times, how, f"copy {how}"),
            "ratio_cached": times.ratio(how, f"cached {how}"),
            "ratio_clone": times.ratio(how, f"clone {how}"),
            "ratio_by_hand": times.ratio(how, "by hand"),
            "ms_copy": times.ms(f"copy {how}"),
            "ms_naive": times.ms("naive"),
        }


def _run(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def floors(banks: Sequence[Made], forward: bool, how: str) -> list[int]:
    """Return, for each layer, the bytes that its own call has to move, or its part of its bank's.

    Args:
        banks: of a network.
        forward: the direction.
        how: ``"layer"`` or ``"bank"``.
    """
    direction = FORWARD if forward else BACKWARD

    def floor(table: Sequence[int]) -> int:
        sample = Sample("", (), (list(table),), gains=len(table) // ROW)
        return floor_bytes("combine", sample, direction, FP32)

    found: list[int] = []
    for bank in banks:
        own = [floor(layer.row) for layer in bank.layers]
        share = 1.0 if how == "layer" else floor(bank.table) / sum(own)
        found += (round(share * each) for each in own)
    return found


def _copies(banks: Sequence[Made], sizes: Sequence[int]) -> tuple[list[Call], list[Call]]:
    """Return calls that move as many bytes, out of the bank into memory that is there and fresh."""
    target = torch.empty_like(max((bank.theta for bank in banks), key=len))
    layers = ((bank.theta, layer) for bank in banks for layer in bank.layers)
    copies: list[Call] = []
    clones: list[Call] = []
    for (theta, layer), size in zip(layers, sizes, strict=True):
        left = size // (2 * theta.element_size())
        while left:
            n = min(left, len(theta))
            first = min(layer.row.base, len(theta) - n)
            source = theta[first : first + n]
            copies.append(partial(target[:n].copy_, source))
            clones.append(source.clone)
            left -= n
    return copies, clones


def _forward(banks: Sequence[Made], device: torch.device) -> dict[str, list[Call]]:
    backend = backend_of(device)
    ways: dict[str, list[Call]] = {"layer": [], "bank": [], "naive": [], "reference": []}
    for b in banks:
        ways["bank"].append(partial(combine, b.theta, b.coef, b.gain, b.table, None, backend))
        for layer in b.layers:
            given = (b.theta, b.coef, layer.gain, layer.row)
            ways["layer"].append(partial(combine, *given, None, backend))
            ways["reference"].append(partial(_reference, *given))
            ways["naive"].append(partial(_naive, *given))
    return ways


def _naive(theta: torch.Tensor, coef: torch.Tensor, gain: torch.Tensor, row: Row) -> torch.Tensor:
    return (templates(theta, row) * alpha_of(row, coef, gain, 0)[:, None]).sum(0)


def _reference(
    theta: torch.Tensor, coef: torch.Tensor, gain: torch.Tensor, row: Row
) -> torch.Tensor:
    return combine(theta, coef, gain, row, None, "reference")


def _backward(banks: Sequence[Made], device: torch.device) -> dict[str, list[Call]]:
    backend = backend_of(device)
    accumulate = torch.ops.npas.combine_accumulate
    ways: dict[str, list[Call]] = {
        way: [] for way in ("layer", "bank", "naive", "by hand", "reference")
    }
    for b in banks:
        ways["bank"].append(
            partial(accumulate, b.grad, b.theta, b.coef, b.gain, b.table, *b.buffers, backend)
        )
        for each in b.layers:
            given = (each.grad, b.theta, b.coef, each.gain, each.row, *b.buffers)
            ways["layer"].append(partial(accumulate, *given, backend))
            ways["by hand"].append(partial(add_gradients, *given))
        for way, make in (("naive", _naive), ("reference", _reference)):
            theta, coef = (t.detach().clone().requires_grad_() for t in (b.theta, b.coef))
            outs = [make(theta, coef, layer.gain, layer.row) for layer in b.layers]
            grads = [layer.grad for layer in b.layers]
            ways[way].append(partial(torch.autograd.backward, outs, grads, retain_graph=True))
    return ways


def _eager(banks: Sequence[Made], forward: bool, how: str) -> Iterator[Call]:
    """Yield the calls without the custom op, whose inside a dispatch mode does not see."""
    for b in banks:
        calls: list[tuple[torch.Tensor, torch.Tensor, Sequence[int]]] = [(b.grad, b.gain, b.table)]
        if how == "layer":
            calls = [(layer.grad, layer.gain, layer.row) for layer in b.layers]
        for grad, gain, table in calls:
            given = (b.theta, b.coef, gain, table)
            if forward:
                yield partial(eager.combine, *given, FP32)
            else:
                yield partial(eager.accumulate, grad, *given, *b.buffers)
