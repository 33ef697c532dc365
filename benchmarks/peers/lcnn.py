"""LCNN: filters as sums of few vectors that are looked up in a dictionary.

Source: Bagherinezhad, Rastegari and Farhadi, "LCNN: Lookup-based Convolutional Neural Network",
CVPR 2017 (arXiv 1611.06473). Every layer has a dictionary D [k, m] over its m input channels, and
its filters are, for lookups I and coefficients C [n, s, kh, kw]::

    W[n, :, r, c] = sum_t C[n, t, r, c] * D[I[n, t, r, c], :]

so its output is that of a 1x1 convolution with D followed by few lookups. It is trained through a
sparse tensor P [n, k, kh, kw], which holds C at the places I and zeros elsewhere: an output is
``(X * D) * P``. Elements of P near zero count as zero in the forward pass and get their gradient
all the same; an L1 penalty (`penalty`, to be added to the loss) makes more of them so.

While it trains, P has an element for every entry of the dictionary, and that is what is counted.
Once trained, `lookup` extracts D, I and C. Convolutions and linear layers are replaced, a linear
layer being a 1x1 convolution of one pixel; those of groups, and such as their parent reads without
calling, are kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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

#: Elements of P below this are zero; a public reimplementation (ildoonet/tf-lcnn) has this value.
THRESHOLD = 0.01


class Lookup(nn.Module):
    """A convolution or linear layer through a dictionary.

    Attributes:
        dictionary: [k, m] D.
        sparse: [n, k, *kernel] P; of a linear layer the kernel has no axes.
        bias: [n] or None.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, k: int, threshold: float = THRESHOLD) -> None:
        """Take a layer's place; its weight is drawn anew at the scale it had.

        Args:
            layer: whose place it takes.
            k: entries of the dictionary.
            threshold: elements of P below it are zero.
        """
        super().__init__()
        weight = layer.weight.detach()
        n, m, *kernel = weight.shape
        drawn = torch.randn_like(weight.new_empty(n, k, *kernel)) / k**0.5
        self.dictionary = nn.Parameter(torch.randn_like(weight.new_empty(k, m)) * weight.std())
        self.sparse = nn.Parameter(drawn)
        self.bias = layer.bias
        self.threshold = threshold
        self.stride = self.padding = self.dilation = ()
        if isinstance(layer, nn.Conv2d):
            self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def sparsified(self) -> torch.Tensor:
        """Return P with what is near zero at zero; its gradient is that of P."""
        kept = self.sparse * (self.sparse.abs() >= self.threshold)
        return self.sparse + (kept - self.sparse).detach()

    def weight_of(self) -> torch.Tensor:
        """Return the weight [n, m, *kernel] that the layer amounts to."""
        return torch.einsum("nk...,km->nm...", self.sparsified(), self.dictionary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(X * D) * P``."""
        if not self.stride:
            return F.linear(F.linear(x, self.dictionary), self.sparsified(), self.bias)
        looked_up = F.conv2d(x, self.dictionary[:, :, None, None])
        sparse, bias = self.sparsified(), self.bias
        return F.conv2d(looked_up, sparse, bias, self.stride, self.padding, self.dilation)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a trained layer is at inference.

    Attributes:
        dictionary: [k, m] D.
        index: [n, s, *kernel] int64 I; 0 where a filter has fewer than s lookups there.
        coefficient: [n, s, *kernel] C; 0 there.
    """

    dictionary: torch.Tensor
    index: torch.Tensor
    coefficient: torch.Tensor

    @property
    def n_lookups(self) -> int:
        """Lookups for one output pixel."""
        return int((self.coefficient != 0).sum())

    def weight(self) -> torch.Tensor:
        """Return the weight [n, m, *kernel]."""
        rows = self.dictionary[self.index] * self.coefficient[..., None]
        return rows.sum(dim=1).movedim(-1, 1)


@torch.no_grad()
def lookup(layer: Lookup) -> Extracted:
    """Extract D, I and C, with s the most lookups that any filter has at a position."""
    sparse = layer.sparsified()
    s = max(1, int((sparse != 0).sum(dim=1).max()))
    index = sparse.abs().topk(s, dim=1).indices
    coefficient = sparse.gather(1, index)
    return Extracted(layer.dictionary.clone(), index * (coefficient != 0), coefficient)


def penalty(module: nn.Module) -> torch.Tensor:
    """Return the L1 norm of every P; the paper adds it to the loss with a factor lambda."""
    norms = [m.sparse.abs().sum() for m in module.modules() if isinstance(m, Lookup)]
    return torch.stack(norms).sum()


def training_macs(layer: Lookup, image: Sequence[int] = (), output: Sequence[int] = ()) -> int:
    """Return the multiply-accumulates of a sample with P dense, as it is trained.

    Args:
        layer: a layer.
        image: its input's height and width; nothing for a linear layer.
        output: of its output.
    """
    return layer.dictionary.numel() * prod(image) + layer.sparse.numel() * prod(output)


def inference_macs(found: Extracted, image: Sequence[int] = (), output: Sequence[int] = ()) -> int:
    """Return the multiply-accumulates of a sample with lookups; arguments as `training_macs`."""
    return found.dictionary.numel() * prod(image) + found.n_lookups * prod(output)


def lcnn(module: nn.Module, share: float, threshold: float = THRESHOLD) -> Built:
    """Replace convolutions and linear layers, in place.

    Args:
        module: the network, which is changed.
        share: entries of a dictionary over the layer's input channels; at least one entry.
        threshold: elements of P below it are zero.

    Raises:
        PeerError: if there is no convolution to replace.
    """
    layers = _layers(module)
    sizes = {name: _entries(layer, share) for name, layer in layers.items()}
    for name, k in sizes.items():
        replace(module, name, Lookup(layers[name], k, threshold))
    note = f"{len(sizes)} layers, dictionaries of {share:.4g} of their input channels"
    return Built(module, 0, note)


def build(network: Network, budget: int) -> Built:
    """Replace layers with the largest dictionaries that the budget allows, of one share for all.

    Raises:
        PeerError: for a network without convolutions.
        TooSmall: below dictionaries of one entry.
    """
    module = network.make()
    try:
        layers = _layers(module)
    except PeerError as error:
        raise PeerError(f"{error}: {label(network)}; leave this peer out") from None
    kept = n_params(module) - sum(layer.weight.numel() for layer in layers.values())
    shares = sorted({k / m for m in _channels(layers) for k in range(1, 2 * m + 1)})

    def total(i: int) -> int:
        return kept + sum(_cost(x, _entries(x, shares[i])) for x in layers.values())

    if budget < total(0):
        why = "with dictionaries of one entry"
        raise too_small("lcnn", network, budget, total(0), why)
    best = largest(0, len(shares) - 1, lambda i: total(i) <= budget)
    return lcnn(module, shares[best])


def _layers(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    convs = named(module, nn.Conv2d)
    found = {n: c for n, c in convs.items() if c.groups == 1 and c.padding_mode == "zeros"}
    if not found:
        raise PeerError("lcnn is for convolutional networks, and found no Conv2d of one group")
    return found | named(module, nn.Linear)


def _channels(layers: Mapping[str, nn.Conv2d | nn.Linear]) -> Iterable[int]:
    return {layer.weight.shape[1] for layer in layers.values()}


def _entries(layer: nn.Conv2d | nn.Linear, share: float) -> int:
    # The share of one layer is a fraction k / m, and its product with m must be k again.
    return max(1, int(share * layer.weight.shape[1] + 1e-9))


def _cost(layer: nn.Conv2d | nn.Linear, k: int) -> int:
    n, m, *kernel = layer.weight.shape
    return k * m + n * k * prod(kernel)


PEER = Peer("lcnn", "LCNN", "Bagherinezhad, Rastegari and Farhadi, CVPR 2017", build)
