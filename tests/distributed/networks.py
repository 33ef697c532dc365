"""Small networks that are trained on several ranks, and their batches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import npas

SIZE = 32


def dense() -> nn.Module:
    """A network of layers that repeat, with a norm that has buffers."""
    torch.manual_seed(0)
    steps = (nn.Sequential(nn.Linear(24, 24), nn.GELU()) for _ in range(6))
    return nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), *steps, nn.Linear(24, 4))


def smooth() -> nn.Module:
    """The same without what depends on how a batch is split."""
    torch.manual_seed(0)
    steps = (nn.Sequential(nn.Linear(24, 24), nn.GELU()) for _ in range(6))
    return nn.Sequential(nn.Linear(8, 24), *steps, nn.Linear(24, 4))


def compiled(model: nn.Module, **how: object) -> nn.Module:
    """Return it at half of its parameters, the same on every rank."""
    torch.manual_seed(1)
    return npas.compile(model, "50%", **how)  # type: ignore[arg-type]


def batch(step: int, rank: int = 0, n: int = 1) -> tuple[Tensor, Tensor]:
    """Return a rank's part of a batch."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(SIZE, 8, generator=generator)
    y = torch.randint(0, 4, (SIZE,), generator=generator)
    return x[rank::n], y[rank::n]


def loss(module: nn.Module, step: int, rank: int = 0, n: int = 1) -> Tensor:
    """Return the mean loss of a rank's part of a batch."""
    x, y = batch(step, rank, n)
    return F.cross_entropy(module(x), y)


def train(module: nn.Module, steps: int, rank: int = 0, n: int = 1) -> None:
    """Train with SGD: small differences stay small."""
    optimizer = torch.optim.SGD(npas.param_groups(module, 1e-3), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        loss(module, step, rank, n).backward()
        optimizer.step()


def numbers(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters, as they are now."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}
