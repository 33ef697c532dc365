"""Bytes that ranks send, and memory that they hold, measured on processes of this machine."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

import npas
from benchmarks.ledger.cost_memory import intervals, peak_of
from benchmarks.scale.ranks import moved, on_ranks
from benchmarks.traffic import memory_changes
from npas.sharding import is_sharded

WIDTH, BLOCKS, STAGES = 256, 12, 4
#: Rows of a rank's batch.
ROWS = 4
BUDGETS = ("10%", "25%", "50%")
DENSE = "dense"
RANKS = (2, 4)


class Block(nn.Module):
    """Two linear layers behind a norm, added to their input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [rows, width] to the same shape."""
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def stack(blocks: int = BLOCKS) -> nn.Sequential:
    """Return the network that is measured: blocks that are alike."""
    return nn.Sequential(*(Block() for _ in range(blocks)))


def _ddp(budget: str) -> nn.Module:
    model = stack() if budget == DENSE else npas.compile(stack(), budget)
    return DistributedDataParallel(model)


def _fsdp(budget: str) -> nn.Module:
    """Shard the dense network block by block, the compiled one bank by bank."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if budget == DENSE:
        model: nn.Module = stack()
        for block in (*model.children(), model):
            fully_shard(block, mesh=mesh)
        return model
    model = npas.compile(stack(), budget)
    for unit in npas.fsdp_units(model):
        fully_shard(unit, mesh=mesh, reshard_after_forward=False)
    return model


def _stages(budget: str) -> nn.Module:
    """Compile stages by themselves, and shard each as the dense network's blocks are."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*(stack(BLOCKS // STAGES) for _ in range(STAGES)))
    for stage in model.children():
        npas.compile_(stage, budget)
    for unit in (*model.children(), model):
        fully_shard(unit, mesh=mesh)
    return model


#: Name -> what makes a network of a budget, on every rank.
WAYS: dict[str, Callable[[str], nn.Module]] = {
    "DDP": _ddp,
    "FSDP2": _fsdp,
    f"FSDP2, {STAGES} stages": _stages,
}


def cases() -> Iterator[tuple[str, str, int]]:
    """Yield every way, budget and number of ranks."""
    for way in WAYS:
        for budget in (DENSE, *BUDGETS):
            if budget != DENSE or way != f"FSDP2, {STAGES} stages":
                yield from ((way, budget, n) for n in RANKS)


def measure(n: int, only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the rows of all cases of so many ranks: the most that any rank sends or holds."""
    chosen = [(way, budget) for way, budget, m in cases() if m == n and (not only or way in only)]
    ranks = on_ranks(n, _on_rank, chosen)
    rows: list[dict[str, Any]] = []
    for i, (way, budget) in enumerate(chosen):
        found = [rank[i] for rank in ranks]
        assert all(one["sent"] == found[0]["sent"] for one in found), "ranks sent other bytes"
        worst = {key: max(one[key] for one in found) for key in found[0]}
        case = f"{way}, {budget}, {n} ranks"
        rows += [
            {"case": case, "measure": what, "value": value, "unit": "bytes"}
            for what, value in worst.items()
        ]
    return rows


def _on_rank(rank: int, n: int, chosen: list[tuple[str, str]]) -> list[dict[str, int]]:
    return [_one(*case) for case in chosen]


def _one(way: str, budget: str) -> dict[str, int]:
    """Train for a few steps, and return what one of them sent and held, in bytes."""
    torch.manual_seed(0)
    module = WAYS[way](budget)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    torch.manual_seed(1 + dist.get_rank())
    x = torch.randn(ROWS, WIDTH)

    def step() -> None:
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with _Gathered(module) as gathered:
        module(x).square().mean().backward()
    gradients = _bytes([p.grad for p in module.parameters()])
    optimizer.zero_grad()
    step()  # DDP makes its buckets anew behind the first one
    standing = _bytes(list(module.parameters())) + _bytes(list(optimizer.state.values()))
    whole = sum(4 * p.numel() for p in module.parameters())
    ranks = dist.get_world_size()
    # What is gathered is given in parts. Broadcasts are of buffers.
    sent = [
        4 * elements * (ranks if kind == "all-gather" else 1)
        for kind, elements in moved(step)
        if kind != "broadcast"
    ]
    assert all(not tensor.isnan().any() for tensor in map(_local, module.parameters()))
    return {
        "trainable": whole,
        "sent": sum(sent),
        "parameters": _bytes(list(module.parameters())),
        "gradients": gradients,
        "optimizer": _bytes(list(optimizer.state.values())),
        "gathered": gathered.most,
        "peak": standing + peak_of(intervals(memory_changes(step))),
    }


class _Gathered:
    """Notes the most bytes of parameters that are gathered when any module has run forward."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._sharded = any(is_sharded(p) for p in module.parameters())
        self.most = 0

    def __enter__(self) -> "_Gathered":
        self._hook = register_module_forward_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, *_: object) -> None:
        if self._sharded:
            whole = [p for p in self._module.parameters() if not is_sharded(p)]
            self.most = max(self.most, _bytes(whole))


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _bytes(values: Any) -> int:
    tensors = [_local(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
