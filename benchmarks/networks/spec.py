"""What the registry says of a reference network, and the inputs that its task has."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: batch size -> example inputs on the CPU, with the same values at every call.
Inputs = Callable[[int], tuple[Tensor, ...]]
#: In place of a source: a network that no paper has.
OUR_OWN = "our own"


@dataclass(frozen=True, slots=True)
class Network:
    """A reference network, and what is known of it.

    Attributes:
        make: builds the network. Under `torch.device("meta")` it allocates nothing.
        inputs: batch size -> example inputs on the CPU, with the same values at every call. The
            first dimension of each is the batch.
        family: the module of `benchmarks.networks` that it is in.
        kind: ``"conv"``, ``"linear"``, ``"recurrent"`` or ``"transformer"``.
        published: its number of parameters as printed, such as ``"36.5M"``; the string carries
            its rounding.
        source: where ``published`` is printed, or why there is none; `OUR_OWN` for our own.
        scaled: factor -> the same network with all its inner widths times the factor, rounded,
            at least 1, and growing with the factor. A factor of 1 gives the shapes of ``make()``.
        shallower: the same network with fewer blocks, from the fewest to one less than full.
    """

    make: Callable[[], nn.Module]
    inputs: Inputs
    family: str
    kind: str
    published: str | None = None
    source: str = ""
    scaled: Callable[[float], nn.Module] | None = None
    shallower: tuple[Callable[[], nn.Module], ...] = ()


def scale(width: int, factor: float) -> int:
    """Return ``width * factor`` rounded half up, and at least 1: it grows with the factor."""
    return max(1, int(width * factor + 0.5))


def images(pixels: int) -> Inputs:
    """Return inputs of ``[batch, 3, pixels, pixels]``, normal."""
    return features((3, pixels, pixels))


def features(*shapes: tuple[int, ...]) -> Inputs:
    """Return one normal input of ``[batch, *shape]`` for each shape."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in shapes)

    return inputs


def tokens(vocab: int, length: int = 16) -> Inputs:
    """Return token ids of ``[batch, length]``, below ``vocab``."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        return (torch.randint(vocab, (batch, length), generator=generator),)

    return inputs
