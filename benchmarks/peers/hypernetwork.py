"""HyperNetworks: one small network makes the 3x3 convolutions of another.

Source: Ha, Dai and Le, "HyperNetworks", 2016 (arXiv 1609.09106), the static hypernetwork of its
convolutional networks. A unit kernel of ``u`` input and output channels is made from an embedding
``z`` [N_z] in two linear layers without a nonlinearity between them::

    a_i = W_i z + B_i              for each input channel i of the unit: [d]
    K_i = <W_out, a_i> + B_out     [u, 3, 3]

``W_i``, ``B_i``, ``W_out`` and ``B_out`` are shared by all units of all layers. A larger kernel is
tiled from units with an embedding each. The paper has u = 16 and d = N_z = 64.

Published counts (Ha et al.; the npas paper repeats them in Table 11): WRN-40-1 563k dense and 97k
made by a hypernetwork, WRN-40-2 2.236M and 148k. With `benchmarks.networks.wrn` they are 563,930
and 97,770, 2,243,546 and 155,626. The first pair agrees where thousands are cut off. In the second
both are 7 to 8 thousand above, so the difference lies in what is not generated (norms,
shortcuts, first and last layer), and not in the hypernetwork; which of them the authors had
smaller, their text does not tell.

The npas paper (section 2) says that generation adds 108.5M operations to the 26.7M of a forward
pass. Those 26.7M are WRN-16-1's, whose 74 units of the equations above take 15.8M
multiply-accumulates. How 108.5M was counted its text does not tell, and it is not matched here.
"""

import math
from collections.abc import Collection

import torch
from torch import nn

from benchmarks.peers.base import (
    Built,
    Network,
    Peer,
    PeerError,
    generate,
    label,
    largest,
    n_params,
    named,
    too_small,
)

_TAPS = 9
#: Of the paper.
UNIT, EMBEDDING = 16, 64
# A unit of fewer channels than this would have more parameters in embeddings than it makes.
_LEAST_UNIT = 4


class HyperNetwork(nn.Module):
    """Makes unit kernels from embeddings.

    Attributes:
        w_in: [u, d, N_z] the W_i.
        b_in: [u, d] the B_i.
        w_out: [u * 9, d] W_out.
        b_out: [u * 9] B_out.
    """

    def __init__(self, n_z: int, d: int, unit: int, like: torch.Tensor) -> None:
        """Draw the weights so that a unit has the standard deviation that its embedding has.

        Args:
            n_z: elements of an embedding.
            d: elements of a_i.
            unit: channels of a unit.
            like: has the device and dtype.
        """
        super().__init__()
        self.w_in = nn.Parameter(torch.randn_like(like.new_empty(unit, d, n_z)) / math.sqrt(n_z))
        self.b_in = nn.Parameter(like.new_zeros(unit, d))
        self.w_out = nn.Parameter(torch.randn_like(like.new_empty(unit * _TAPS, d)) / math.sqrt(d))
        self.b_out = nn.Parameter(like.new_zeros(unit * _TAPS))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the unit kernels [units, u, u, 3, 3] of embeddings [units, N_z]."""
        unit, d, n_z = self.w_in.shape
        a = z @ self.w_in.view(-1, n_z).t() + self.b_in.flatten()
        kernels = a.view(-1, d) @ self.w_out.t() + self.b_out
        # Made an input channel at a time, and a kernel has its output channels first.
        return kernels.view(-1, unit, unit, 3, 3).transpose(1, 2)


class Tiled(nn.Module):
    """Makes one convolution's weight from its embeddings."""

    def __init__(self, hyper: HyperNetwork) -> None:
        """Keep the network that all convolutions share."""
        super().__init__()
        self.hyper = hyper

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the weight [rows * u, columns * u, 3, 3] of embeddings [rows, columns, N_z]."""
        rows, columns, _ = z.shape
        units = self.hyper(z.flatten(0, 1)).unflatten(0, (rows, columns))
        return units.transpose(1, 2).flatten(0, 1).flatten(1, 2)


def hypernetwork(
    module: nn.Module, n_z: int = EMBEDDING, d: int = EMBEDDING, unit: int = UNIT
) -> Built:
    """Generate the 3x3 convolutions whose channels are multiples of the unit, in place.

    Args:
        module: the network, which is changed.
        n_z: elements of an embedding.
        d: elements of a_i.
        unit: channels of a unit kernel.

    Raises:
        PeerError: if there is no such convolution.
    """
    found = _of_unit(_threes(module), unit)
    if not found:
        raise PeerError(f"hypernetwork: no 3x3 convolution has channels that are {unit}n; use unit")
    weights = {name: conv.weight.detach() for name, conv in found.items()}
    deviations = {name: weight.std() for name, weight in weights.items()}
    hyper = HyperNetwork(n_z, d, unit, next(iter(weights.values())))
    n_units = 0
    for name, weight in weights.items():
        rows, columns = weight.shape[0] // unit, weight.shape[1] // unit
        # The embedding's scale is the weight's: each layer starts as wide as it did.
        z = nn.Parameter(torch.randn_like(weight.new_empty(rows, columns, n_z)) * deviations[name])
        generate(module, f"{name}.weight", z, Tiled(hyper))
        n_units += rows * columns
    macs = n_units * unit * d * (n_z + unit * _TAPS)
    n_convs = sum(1 for m in module.modules() if isinstance(m, nn.Conv2d))
    note = (
        f"{len(found)} of {n_convs} convolutions generated from {n_units:,} units of "
        f"{unit}x{unit}, N_z = {n_z}, d = {d}"
    )
    return Built(module, macs, note)


def build(network: Network, budget: int) -> Built:
    """Generate a network with the largest N_z = d that the budget allows.

    The unit is 16, as in the paper, or the greatest common divisor of the channels where more
    weights are generated so.

    Raises:
        PeerError: for a network without 3x3 convolutions whose channels have a common divisor.
        TooSmall: below embeddings of one element.
    """
    module = network.make()
    convs = _threes(module)
    unit = _unit_for(convs.values())
    if not unit:
        raise PeerError(
            f"hypernetwork: {label(network)} has no 3x3 convolution whose channels share a divisor "
            f"of {_LEAST_UNIT} or more, and it makes no other weights; leave this peer out"
        )
    found = _of_unit(convs, unit).values()
    generated = sum(conv.weight.numel() for conv in found)
    kept = n_params(module) - generated
    n_units = generated // (unit * unit * _TAPS)

    def total(n: int) -> int:
        return kept + n_units * n + unit * n * (n + 1) + unit * _TAPS * (n + 1)

    if budget < total(1):
        why = "with embeddings of one element"
        raise too_small("hypernetwork", network, budget, total(1), why)
    # An embedding as large as its unit can make any unit.
    n_z = largest(1, unit * unit * _TAPS, lambda n: total(n) <= budget)
    return hypernetwork(module, n_z, n_z, unit)


def _threes(module: nn.Module) -> dict[str, nn.Conv2d]:
    convs = named(module, nn.Conv2d)
    return {n: c for n, c in convs.items() if c.kernel_size == (3, 3) and c.groups == 1}


def _of_unit(convs: dict[str, nn.Conv2d], unit: int) -> dict[str, nn.Conv2d]:
    return {
        n: c for n, c in convs.items() if c.in_channels % unit == 0 and c.out_channels % unit == 0
    }


def _unit_for(convs: Collection[nn.Conv2d]) -> int:
    """Return the unit that generates most, or 0 if none does."""
    shared = {id(c): math.gcd(c.in_channels, c.out_channels) for c in convs}
    common = math.gcd(*(g for g in shared.values() if g >= _LEAST_UNIT))

    def generated(unit: int) -> int:
        return sum(c.weight.numel() for c in convs if shared[id(c)] % unit == 0)

    units = [unit for unit in (UNIT, common) if unit >= _LEAST_UNIT and generated(unit)]
    return max(units, key=generated, default=0)


PEER = Peer("hypernetwork", "HyperNetworks", "Ha, Dai and Le, 2016 (arXiv 1609.09106)", build)
