"""What training with npas costs: ``python -m benchmarks.training [SECTION ...] [--json]``.

Sections: step (a whole training step against the dense model's), saved (bytes that the forward
pass keeps for the backward pass), compiled (under torch.compile with inductor). Every section
checks gradients before it measures; times are printed, not judged.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import npas
from benchmarks.networks.transformer import Block
from benchmarks.networks.wrn import wrn
from benchmarks.runner import environment, paired
from benchmarks.tables import Column, Section, count, markdown, ms, percent, show

CPU = torch.device("cpu")
TITLE = "What training with npas costs"


def blocks(depth: int, dim: int, heads: int) -> nn.Module:
    """Return an encoder's blocks; BERT-base has 12 of dim 768 with 12 heads."""
    return nn.Sequential(*(Block(dim, heads, False) for _ in range(depth)))


@dataclass(frozen=True, slots=True)
class Network:
    """A network and a batch for it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: tuple[str, ...] = ("auto",)

    def batch(self) -> torch.Tensor:
        """Return the same batch at every call."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


# With groups="auto" all templates of the encoder are views of its banks; "single" makes sums.
LARGE = {
    "WRN-16-4, batch 32": Network(partial(wrn, depth=16, width=4), (32, 3, 32, 32)),
    "12 BERT-base blocks, 8 x 128": Network(
        partial(blocks, 12, 768, 12), (8, 128, 768), ("auto", "single")
    ),
}
SMALL = {
    "WRN-16-1, batch 8": Network(partial(wrn, depth=16, width=1), (8, 3, 32, 32)),
    "2 blocks of 64, 4 x 16": Network(partial(blocks, 2, 64, 4), (4, 16, 64), ("single",)),
}
BUDGETS = ("10%", "50%")
RECOMPUTE = {"kept": False, "recomputed": True}


def compiled_pair(network: Network, budget: str, groups: str) -> dict[str, nn.Module]:
    """Return the module without and with recomputation, with the same parameters."""
    torch.manual_seed(0)
    model = network.make()
    modules: dict[str, nn.Module] = {}
    for name, recompute in RECOMPUTE.items():
        torch.manual_seed(1)
        modules[name] = npas.compile(model, budget, groups=groups, recompute=recompute)
    return modules


def gradients(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of one step's loss, from the module's first state."""
    torch.manual_seed(2)
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.zero_grad()
    module(x).square().mean().backward()
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    for name, buffer in module.named_buffers():
        buffer.copy_(state[name])
    return found


def same_bits(modules: Mapping[str, nn.Module], x: torch.Tensor) -> None:
    """Check that recomputation changes no bit of any gradient."""
    kept, recomputed = (gradients(modules[name], x) for name in RECOMPUTE)
    assert list(kept) == list(recomputed) and kept
    different = [name for name in kept if not torch.equal(kept[name], recomputed[name])]
    assert not different, f"gradients differ with recomputation: {different}"


def squares(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the loss of a module with one input and one output."""
    return module(x).square().mean()


class Step:
    """A training step of a module with AdamW; how long the optimizer takes is noted apart.

    Attributes:
        loss: runs the forward pass.
        optimizer: of the module's parameters.
        optimizer_ms: of every step until now.
    """

    def __init__(self, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
        """Make the optimizer."""
        self.loss = loss
        # Without fused=True each temporary is as large as a parameter, and fresh memory for a large
        # one: 220 ms for a bank of 43M parameters, 130 for as many in layers, 25 fused.
        self.optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        self.optimizer_ms: list[float] = []

    def __call__(self) -> None:
        """Run forward, backward and the optimizer."""
        self.loss().backward()
        self.update()

    def update(self) -> None:
        """Run the optimizer, and drop the gradients."""
        start = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.optimizer_ms.append((time.perf_counter() - start) * 1e3)


def step(networks: Mapping[str, Network], rounds: int) -> list[dict[str, Any]]:
    """Time a whole training step, the optimizer's included, in turn with the dense model's."""
    rows = []
    for name, network in networks.items():
        x = network.batch()
        for groups in network.groups:
            for budget in BUDGETS:
                modules = compiled_pair(network, budget, groups)
                same_bits(modules, x)
                torch.manual_seed(0)
                every = {"dense": network.make(), **modules}
                steps = {key: Step(m, partial(squares, m, x)) for key, m in every.items()}
                times = paired(steps, CPU, rounds)
                rows += [
                    {
                        "section": "step",
                        "network": name,
                        "groups": groups,
                        "budget": budget,
                        "weights": key,
                        "ms": times.ms(key),
                        "spread": times.spread(key),
                        "optimizer_ms": statistics.median(steps[key].optimizer_ms),
                        "ratio_dense": times.ratio(key, "dense"),
                        "rounds": rounds,
                    }
                    for key in steps
                ]
    return rows


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Return the bytes that forward keeps for backward, the module's own tensors apart."""
    found = kept_bytes(partial(squares, module, x), (*module.parameters(), *module.buffers()))
    module.zero_grad()
    return found


def kept_bytes(loss: Callable[[], torch.Tensor], own: Iterable[torch.Tensor]) -> int:
    """Return the bytes that forward keeps for backward; both are run.

    Args:
        loss: runs the forward pass.
        own: tensors that are there anyway, and do not count.
    """
    # The storage's own address: those of meta tensors have no data.
    known = {t.untyped_storage()._cdata for t in own}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = loss()
    n_bytes = sum(storage.nbytes() for storage in kept.values())
    found.backward()
    return n_bytes


def saved(networks: Mapping[str, Network], rounds: int) -> list[dict[str, Any]]:
    """Count the bytes held for the backward pass, against the dense model's activations."""
    del rounds
    rows = []
    for name, network in networks.items():
        x = network.batch()
        dense = saved_bytes(network.make(), x)
        for groups in network.groups:
            for budget in BUDGETS:
                modules = compiled_pair(network, budget, groups)
                same_bits(modules, x)
                row = {"section": "saved", "network": name, "groups": groups, "budget": budget}
                for key, module in {"dense": None, **modules}.items():
                    n_bytes = dense if module is None else saved_bytes(module, x)
                    rows.append(
                        row | {"weights": key, "bytes": n_bytes, "ratio_dense": n_bytes / dense}
                    )
                assert rows[-1]["ratio_dense"] <= 1.05, rows[-1]
    return rows


def compiled(networks: Mapping[str, Network], rounds: int) -> list[dict[str, Any]]:
    """Time forward and backward under torch.compile, in turn with the dense model's."""
    rows = []
    for name, network in networks.items():
        x = network.batch()
        for budget in BUDGETS:
            modules = compiled_pair(network, budget, network.groups[0])
            torch.manual_seed(0)
            calls: dict[str, Callable[[], object]] = {}
            for key, module in {"dense": network.make(), **modules}.items():
                torch._dynamo.reset()
                expected = gradients(module, x)
                fast: Any = torch.compile(module, fullgraph=True)  # a graph break is an error
                torch.testing.assert_close(fast(x), module(x), rtol=1e-3, atol=1e-3)
                for found, right in zip(
                    gradients(fast, x).values(), expected.values(), strict=True
                ):
                    torch.testing.assert_close(found, right, rtol=1e-2, atol=1e-4)
                calls[key] = partial(gradients, fast, x)
            times = paired(calls, CPU, rounds)
            rows += [
                {
                    "section": "compiled",
                    "network": name,
                    "groups": network.groups[0],
                    "budget": budget,
                    "weights": key,
                    "ms": times.ms(key),
                    "spread": times.spread(key),
                    "ratio_dense": times.ratio(key, "dense"),
                    "rounds": rounds,
                }
                for key in calls
            ]
    return rows


SECTIONS = {"saved": saved, "step": step, "compiled": compiled}

_WHICH = (
    Column("network", "network"),
    Column("groups", "groups"),
    Column("budget", "budget"),
    Column("weights", "weights"),
)
_TIMES = (
    *_WHICH,
    Column("ms", "ms", ms),
    Column("spread", "spread", percent),
    Column("optimizer ms", "optimizer_ms", ms),
    Column("to dense", "ratio_dense", "{:.3f}".format),
)
_TABLES = {
    "saved": (
        "Held for the backward pass",
        "Bytes that the forward pass saves, parameters and buffers apart. With recomputation at "
        "most 1.05 of the dense model's; gradients are the same bits with and without.",
        (
            *_WHICH,
            Column("bytes", "bytes", count),
            Column("to dense", "ratio_dense", "{:.3f}".format),
        ),
    ),
    "step": (
        "A training step",
        "Forward, backward and AdamW (fused), in turn with the dense model's; ratios are medians "
        "of the rounds' ratios. At most 1.05 where weights are kept, 1.10 where they are made "
        "again. With groups=auto all templates of the encoder are views of its banks; single "
        "makes each weight from four.",
        _TIMES,
    ),
    "compiled": (
        "Under torch.compile",
        "Forward and backward, compiled by inductor without a graph break, in turn with the "
        "compiled dense model's; outputs and gradients are those of eager mode.",
        _TIMES,
    ),
}


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the tables of rows, a section each."""
    found = []
    for section, (title, note, columns) in _TABLES.items():
        own = [row for row in rows if row["section"] == section]
        if own:
            shown = [c for c in columns if c.key in own[0]]
            found.append(Section(title, note, shown, own))
    return found


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--quick", action="store_true", help="small networks, fewer rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="by default 15, with --quick 5")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; they are {', '.join(SECTIONS)}")
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (5 if arguments.quick else 15)
    rows: list[dict[str, Any]] = []
    for name in arguments.sections or SECTIONS:
        found = SECTIONS[name](SMALL if arguments.quick else LARGE, rounds)
        rows += [row | environment(CPU) for row in found]
        if not arguments.json:
            show(Console(width=160), tables(found))
    if arguments.write:
        command = shlex.join(["python", "-m", "benchmarks.training", *sys.argv[1:]])
        write(arguments.write, command, rows)
    if arguments.json:
        print(json.dumps({"rows": rows}))


def write(path: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as Markdown."""
    where = ", ".join(f"{key} {rows[0][key]}" for key in environment(CPU))
    path.write_text(markdown(TITLE, command, where, tables(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
