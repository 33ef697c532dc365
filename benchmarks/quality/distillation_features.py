"""Networks that return their features beside their logits, dense or compiled."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network
from benchmarks.networks.wrn import Block, WideResNet


class Exposed(nn.Module):
    """A wide residual network that returns its logits and its features.

    Features are the activations behind each group, normalised, before the ReLU; the norm is the
    first one of the next group, as in OFD. Modules have the network's own names, so that a plan is
    the same for both.

    Raises:
        ValueError: for any other network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, WideResNet):
            raise ValueError(
                f"features are those of a WideResNet, not of a {type(network).__name__}"
            )
        self.stem = network.stem
        self.group1, self.group2, self.group3 = network.group1, network.group2, network.group3
        self.norm = network.norm
        self.head = network.head

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms that make the features."""
        return _blocks(self.group2)[0].norm1, _blocks(self.group3)[0].norm1, self.norm

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        first, h = _normed(self.group2, self.group1(self.stem(x)))
        second, h = _normed(self.group3, h)
        last = self.norm(h)
        return self.head(F.relu(last).mean((2, 3))), (first, second, last)


def _blocks(group: nn.Sequential) -> list[Block]:
    return [block for block in group if isinstance(block, Block)]


def _normed(group: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the first norm of a group makes of its input, and the group's output.

    The first block is gone through here: to call its norm once more would move its statistics
    twice.
    """
    block, *rest = _blocks(group)
    normed = block.norm1(x)
    h = F.relu(normed)
    shortcut = x if block.shortcut is None else block.shortcut(h)
    h = shortcut + block.conv2(F.relu(block.norm2(block.conv1(h))))
    for other in rest:
        h = other(h)
    return normed, h


def exposed(network: Network) -> Network:
    """Return a network, and its other sizes, whose modules return their features too."""

    def of(make: Callable[..., nn.Module] | None) -> Any:
        return make and (lambda *arguments: Exposed(make(*arguments)))

    shallower = tuple(map(of, network.shallower))
    return replace(network, make=of(network.make), scaled=of(network.scaled), shallower=shallower)
