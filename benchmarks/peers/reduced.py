"""The same kind of network, made small: fewer channels or fewer blocks, and no sharing.

Source: the "Reduced Baseline" of the npas paper (Figure 3, Tables 6 and 10): "adjusts the number
and/or size of filters", without parameter sharing.
"""

import torch
from torch import nn

from benchmarks.peers.base import (
    Built,
    Network,
    Peer,
    PeerError,
    label,
    largest,
    n_params,
    too_small,
)

# Widths are whole numbers, so a factor is searched to a fraction of one in 8,192 channels.
_STEPS = 1 << 13


def reduced_width(network: Network, budget: int) -> Built:
    """Return the widest that the budget allows, at most the network itself.

    Raises:
        PeerError: for a network that has no width.
        TooSmall: below the narrowest.
    """
    scaled = network.scaled
    if scaled is None:
        raise PeerError(f"reduced_width: {label(network)} has no width to reduce; leave it out")

    def count(step: int) -> int:
        with torch.device("meta"):
            return n_params(scaled(step / _STEPS))

    if budget < count(1):
        raise too_small("reduced_width", network, budget, count(1), "at the narrowest")
    step = largest(1, _STEPS, lambda step: count(step) <= budget)
    return _built(scaled(step / _STEPS), f"inner widths times {step / _STEPS:.4f}")


def reduced_depth(network: Network, budget: int) -> Built:
    """Return the network with most blocks that the budget allows, at most itself.

    Raises:
        PeerError: for a network that has no depth.
        TooSmall: below the shallowest.
    """
    if not network.shallower:
        raise PeerError(f"reduced_depth: {label(network)} has no depth to reduce; leave it out")
    choices = (*network.shallower, network.make)
    with torch.device("meta"):
        counts = [n_params(make()) for make in choices]
    if budget < min(counts):
        raise too_small("reduced_depth", network, budget, min(counts), "at the shallowest")
    best = max((i for i, n in enumerate(counts) if n <= budget), key=lambda i: (counts[i], i))
    return _built(choices[best](), f"depth {best + 1} of {len(choices)}")


def _built(module: nn.Module, note: str) -> Built:
    return Built(module, 0, f"{note}: {n_params(module):,} parameters")


WIDTH = Peer("reduced_width", "Reduced width", "npas paper, Figure 3 and Table 10", reduced_width)
DEPTH = Peer("reduced_depth", "Reduced depth", "npas paper, Figure 3 and Table 10", reduced_depth)
