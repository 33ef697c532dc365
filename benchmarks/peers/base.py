"""What every peer shares: the interface, its errors, and how weights are replaced."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import parametrize


class PeerError(Exception):
    """A peer cannot do what was asked: says which, of which network, and the way out."""


class TooSmall(PeerError):
    """The budget is below what the peer can do with this network.

    Attributes:
        minimum: the fewest parameters it can do with.
    """

    def __init__(self, message: str, minimum: int) -> None:
        """Keep the minimum beside the message that names it."""
        super().__init__(message)
        self.minimum = minimum


class Network(Protocol):
    """What a peer needs to know of a network."""

    @property
    def make(self) -> Callable[[], nn.Module]:
        """Build the network; under ``torch.device("meta")`` it allocates nothing."""
        ...

    @property
    def scaled(self) -> Callable[[float], nn.Module] | None:
        """Build it with inner widths times a factor; the parameters rise with the factor."""
        ...

    @property
    def shallower(self) -> tuple[Callable[[], nn.Module], ...]:
        """Build it with fewer blocks, the fewest first."""
        ...

    @property
    def inputs(self) -> Callable[[int], tuple[Any, ...]]:
        """Return positional inputs of forward for a batch of this size."""
        ...


@dataclass(frozen=True, slots=True)
class Built:
    """A network as a peer would have it.

    Attributes:
        module: trains with an ordinary loop; its trainable parameters are what is counted.
        generation_macs: multiply-accumulates that generate every weight once, from the equations;
            0 where nothing is generated.
        note: what was done, in a line.
    """

    module: nn.Module
    generation_macs: int
    note: str = ""

    @property
    def n_params(self) -> int:
        """Trainable parameters."""
        return n_params(self.module)


@dataclass(frozen=True, slots=True)
class Peer:
    """A method that npas is compared with.

    Attributes:
        name: as in `benchmarks.peers.PEERS`.
        title: the method's own name.
        source: its paper.
        build: network and budget in parameters -> the largest it can do with at most the budget.
            Raises `PeerError` where the method does not apply, `TooSmall` below its minimum.
    """

    name: str
    title: str
    source: str
    build: Callable[[Network, int], Built]


def n_params(module: nn.Module) -> int:
    """Return the trainable parameters of a module, each counted once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def label(network: Network) -> str:
    """Return what a message calls a network: its name, or else the class of what it makes."""
    name = getattr(network, "name", None)
    if name is None:
        with torch.device("meta"):
            name = type(network.make()).__name__
    return str(name)


def too_small(peer: str, network: Network, budget: int, minimum: int, why: str) -> TooSmall:
    """Return the error for a budget below a peer's minimum.

    Args:
        peer: its name.
        network: that was asked for.
        budget: in parameters.
        minimum: of this peer, in parameters.
        why: it cannot do with fewer.
    """
    return TooSmall(
        f"{peer} cannot train {label(network)} with {budget:,} parameters: its minimum is "
        f"{minimum:,}, {why}; raise the budget to that or leave this peer out",
        minimum,
    )


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from ``low`` to ``high`` that fits, by bisection.

    Args:
        low: fits.
        high: is tried too.
        fits: true up to some number, false from there on.
    """
    high += 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter or child, and what it is called there."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last


def generate(module: nn.Module, name: str, numbers: torch.Tensor, how: nn.Module) -> None:
    """Let a weight be made from a layer's own numbers whenever it is read.

    Args:
        module: the whole network.
        name: of the weight, as in ``named_parameters``.
        numbers: what the layer keeps in place of the weight; a `nn.Parameter`, or a buffer.
        how: makes the weight from the numbers; what it shares with other layers is inside it.
    """
    owner, last = owner_of(module, name)
    delattr(owner, last)
    if isinstance(numbers, nn.Parameter):
        owner.register_parameter(last, numbers)
    else:
        owner.register_buffer(last, numbers)
    # Not checked for equal shapes: the numbers are not shaped as the weight.
    parametrize.register_parametrization(owner, last, how, unsafe=True)


def replace(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module in the place of a child, which is not the network itself."""
    owner, last = owner_of(module, name)
    owner.add_module(last, new)


def named(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    """Return the children of exactly one type, at any depth, by name.

    Subclasses are left alone: some are read by their parent and never called. So are children that
    stand in several places, or whose weight is tied to another: it would be no longer.
    """
    every = module.named_parameters(remove_duplicate=False)
    places = Counter(id(parameter) for _, parameter in every)
    return {
        name: m
        for name, m in module.named_modules()
        if name and type(m) is kind and places[id(m.weight)] == 1
    }
