"""Low rank: every weight is a product of two thin ones.

Sources: Sainath et al., "Low-rank matrix factorization for deep neural network training with
high-dimensional output targets", ICASSP 2013, for matrices; Zhang et al., "Accelerating very deep
convolutional networks for classification and detection", 2015 (arXiv 1505.06798), for convolutions:
r filters of the same kernel, and a 1x1 convolution from them to the outputs.

A weight [out, in, *kernel] is read as a matrix [out, in * taps] and written ``U V`` with U [out, r]
and V [r, in * taps]. All layers have the same fraction of their full rank. A layer for which the
product would have no fewer parameters keeps its weight.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.base import (
    Built,
    Network,
    Peer,
    PeerError,
    label,
    largest,
    n_params,
    named,
    replace,
    too_small,
)


class LowRank(nn.Module):
    """A convolution or linear layer as two products.

    Attributes:
        v: [r, in, *kernel].
        u: [out, r].
        bias: [out] or None.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        """Take a layer's place; its weight is drawn anew at the scale it had."""
        super().__init__()
        weight = layer.weight.detach()
        out, *rest = weight.shape
        self.v = nn.Parameter(torch.randn_like(weight.new_empty(rank, *rest)) * weight.std())
        self.u = nn.Parameter(torch.randn_like(weight.new_empty(out, rank)) / rank**0.5)
        self.bias = layer.bias
        self.stride = self.padding = self.dilation = ()
        if isinstance(layer, nn.Conv2d):
            self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        if not self.stride:
            return F.linear(F.linear(x, self.v), self.u, self.bias)
        inner = F.conv2d(x, self.v, None, self.stride, self.padding, self.dilation)
        return F.conv2d(inner, self.u[:, :, None, None], self.bias)


def low_rank(module: nn.Module, share: float) -> Built:
    """Factorise convolutions and linear layers, in place.

    Args:
        module: the network, which is changed.
        share: of the full rank; every layer has at least rank 1.
    """
    layers = _layers(module)
    chosen = {name: _rank(layer, share) for name, layer in layers.items()}
    thin = {name: rank for name, rank in chosen.items() if _pays(layers[name], rank)}
    for name, rank in thin.items():
        replace(module, name, LowRank(layers[name], rank))
    note = f"{len(thin)} of {len(layers)} layers have {share:.4g} of their full rank"
    return Built(module, 0, note)


def build(network: Network, budget: int) -> Built:
    """Factorise with the largest ranks that the budget allows, of one share for all layers.

    Raises:
        PeerError: for a network without convolutions and linear layers.
        TooSmall: below rank 1.
    """
    module = network.make()
    layers = _layers(module)
    if not layers:
        raise PeerError(
            f"low_rank: {label(network)} has no Conv2d or Linear child to factorise; leave it out"
        )
    kept = n_params(module) - sum(layer.weight.numel() for layer in layers.values())
    full = {_full(layer) for layer in layers.values()}
    shares = sorted({rank / most for most in full for rank in range(1, most + 1)})

    def total(i: int) -> int:
        return kept + sum(_cost(layer, shares[i]) for layer in layers.values())

    if budget < total(0):
        raise too_small("low_rank", network, budget, total(0), "where every layer has rank 1")
    best = largest(0, len(shares) - 1, lambda i: total(i) <= budget)
    return low_rank(module, shares[best])


def _layers(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    convs = named(module, nn.Conv2d)
    found = {n: c for n, c in convs.items() if c.groups == 1 and c.padding_mode == "zeros"}
    return found | named(module, nn.Linear)


def _full(layer: nn.Conv2d | nn.Linear) -> int:
    out, *rest = layer.weight.shape
    return min(out, prod(rest))


def _rank(layer: nn.Conv2d | nn.Linear, share: float) -> int:
    # The share of one layer is a fraction r / full, and its product with full must be r again.
    return max(1, int(share * _full(layer) + 1e-9))


def _pays(layer: nn.Conv2d | nn.Linear, rank: int) -> bool:
    out, *rest = layer.weight.shape
    return rank * (out + prod(rest)) < layer.weight.numel()


def _cost(layer: nn.Conv2d | nn.Linear, share: float) -> int:
    out, *rest = layer.weight.shape
    return min(_rank(layer, share) * (out + prod(rest)), layer.weight.numel())


PEER = Peer("low_rank", "Low rank", "Sainath et al., 2013; Zhang et al., 2015", build)
