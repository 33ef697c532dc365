"""A weight that is made, or only multiplied with, where it is used."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Multiplies(Protocol):
    """A bank."""

    def __call__(
        self,
        layer: str,
        *,
        rows: torch.Tensor | None = None,
        input: torch.Tensor | None = None,
        stride: Sequence[int] = (),
        defer: str | None = None,
    ) -> Any:
        """Return a layer's weight, rows of it, its product, or what makes it later."""
        ...

    def fuses(self, layer: str, input: torch.Tensor, rows: int, *, always: bool) -> bool:
        """Tell whether a layer's product is made without its weight."""
        ...


class Deferred:
    """Stands for a generated weight until the layer that uses it knows its input.

    Where the cost model (`npas.kernels.combine_linear.cost`) finds a product that generates the
    weight on the way cheaper, the weight is never written.

    Args:
        bank: what makes it.
        layer: name of the layer.
        always: whether to multiply without the weight wherever that is possible.
    """

    def __init__(self, bank: Multiplies, layer: str, *, always: bool) -> None:
        """Remember what to make."""
        self._bank = bank
        self._layer = layer
        self._always = always

    def make(self) -> torch.Tensor:
        """Return the weight."""
        return self._bank(self._layer)

    def linear(self, input: torch.Tensor) -> torch.Tensor | None:
        """Return ``input`` times the weight, or None where the weight is to be made.

        Args:
            input: [..., in_features].

        Returns:
            [..., out_features], without a bias.
        """
        rows = input.numel() // max(1, input.shape[-1]) if input.dim() else 0
        if not self._bank.fuses(self._layer, input, rows, always=self._always):
            return None
        return self._bank(self._layer, input=input)

    def conv1x1(self, input: torch.Tensor, stride: Sequence[int]) -> torch.Tensor | None:
        """Return the convolution of one element a channel pair, or None.

        Args:
            input: [batch, in_channels, *spatial]: no padding, one group.
            stride: along each spatial axis.

        Returns:
            [batch, out_channels, *spatial], without a bias.
        """
        if input.dim() != len(stride) + 2:
            return None
        rows = input.shape[0]
        for size, step in zip(input.shape[2:], stride, strict=True):
            rows *= -(-size // step)
        if not self._bank.fuses(self._layer, input, rows, always=self._always):
            return None
        return self._bank(self._layer, input=input, stride=stride)


def made(weights: dict[str, "torch.Tensor | Deferred"]) -> dict[str, torch.Tensor]:
    """Return weights, with those made that were not yet."""
    return {n: w.make() if isinstance(w, Deferred) else w for n, w in weights.items()}
