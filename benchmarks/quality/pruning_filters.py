"""Residual networks without some of their filters: smaller convolutions, the same shortcuts."""

import copy
from collections.abc import Collection, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import resnet, wrn
from benchmarks.peers.base import n_params

#: Block -> the norms behind its first and its second convolution.
NORMS: dict[type[nn.Module], tuple[str, str | None]] = {
    resnet.Basic: ("norm1", "norm2"),
    wrn.Block: ("norm2", None),
}
#: Name of a convolution -> the filters that stay, in rising order.
Kept = Mapping[str, Tensor]


def blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks that can lose filters, by name."""
    return ((name, m) for name, m in network.named_modules() if type(m) in NORMS)


class Spread(nn.Module):
    """Puts channels where they were before pruning, and zeros where there are none.

    Args:
        places: of the channels, in rising order.
        n: channels of the result.
    """

    source: Tensor

    def __init__(self, places: Tensor, n: int) -> None:
        super().__init__()
        source = torch.full((n,), len(places))
        source[places] = torch.arange(len(places))
        self.register_buffer("source", source)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)


def without(network: nn.Module, left: Kept) -> nn.Module:
    """Return a network of smaller layers that computes what it does with the other filters at zero.

    Args:
        network: is not changed.
        left: the filters that stay.
    """
    made = copy.deepcopy(network)
    for name, block in list(blocks(made)):
        first, second = left[f"{name}.conv1"], left[f"{name}.conv2"]
        norm1, norm2 = NORMS[type(block)]
        conv1, conv2 = block.get_submodule("conv1"), block.get_submodule("conv2")
        assert isinstance(conv1, nn.Conv2d) and isinstance(conv2, nn.Conv2d)
        spread = Spread(second, conv2.out_channels)
        smaller = _convolution(conv2, second, first)
        block.add_module("conv1", _convolution(conv1, first, torch.arange(conv1.in_channels)))
        block.add_module(norm1, _norm(block.get_submodule(norm1), first))
        if norm2 is None:
            block.add_module("conv2", nn.Sequential(smaller, spread))
        else:
            norm = _norm(block.get_submodule(norm2), second)
            block.add_module("conv2", smaller)
            block.add_module(norm2, nn.Sequential(norm, spread))
    return made


def _convolution(old: nn.Conv2d, filters: Tensor, inputs: Tensor) -> nn.Conv2d:
    assert old.bias is None and old.groups == 1
    made = copy.deepcopy(old)
    made.in_channels, made.out_channels = len(inputs), len(filters)
    made.weight = nn.Parameter(old.weight.detach()[filters][:, inputs])
    return made


def _norm(old: nn.Module, channels: Tensor) -> nn.BatchNorm2d:
    assert isinstance(old, nn.BatchNorm2d)
    made = nn.BatchNorm2d(len(channels), old.eps, old.momentum, dtype=old.weight.dtype)
    state = {n: v if v.dim() == 0 else v[channels] for n, v in old.state_dict().items()}
    made.load_state_dict(state)
    return made


def macs(network: nn.Module, image: Tensor) -> int:
    """Return the multiply-accumulates of an image, [1, channels, height, width]."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() // 2


def n_left(network: nn.Module, left: Mapping[str, Collection[int]]) -> int:
    """Return the parameters of a network with only these filters."""
    total = n_params(network)
    for name, block in blocks(network):
        first, second = block.get_submodule("conv1"), block.get_submodule("conv2")
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        n1, n2 = len(left[f"{name}.conv1"]), len(left[f"{name}.conv2"])
        size = second.weight[0, 0].numel()
        total -= first.weight[0].numel() * (first.out_channels - n1)
        total -= size * (second.out_channels * second.in_channels - n1 * n2)
        gone = (first.out_channels - n1, second.out_channels - n2)
        norms = NORMS[type(block)]
        total -= 2 * sum(n for n, norm in zip(gone, norms, strict=True) if norm is not None)
    return total
