"""Networks to test the peers on, and what is counted of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks.wrn import wrn


@dataclass(frozen=True, slots=True)
class Spec:
    """A network as the peers see it."""

    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...] = (3, 32, 32)
    scaled: Callable[[float], nn.Module] | None = None
    shallower: tuple[Callable[[], nn.Module], ...] = ()

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return (torch.randn(batch, *self.size),)


def wide(depth: int, width: int, num_classes: int = 10) -> Spec:
    return Spec(f"wrn-{depth}-{width}", lambda: wrn(depth, width, num_classes))


def mlp() -> Spec:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))

    return Spec("mlp", make, (12,))


def macs(module: nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


@contextmanager
def doubles() -> Iterator[None]:
    """Make every new tensor float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensor(module: nn.Module, name: str) -> torch.Tensor:
    """Return a parameter or a weight that is made, by name."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def losses(module: nn.Module, *inputs: torch.Tensor, steps: int = 12) -> list[float]:
    """Train on one batch with an ordinary loop."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    goal = torch.arange(len(inputs[0])) % 3
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(*inputs), goal)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found
