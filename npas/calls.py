"""How weights are made from a bank: each call of an op as an object, with its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from npas.kernels import (
    combine,
    combine_linear,
    gather_combine,
    gather_tile_mask,
    interpolate,
    tile_mask,
)
from npas.kernels.accumulate import sum_dtype
from npas.kernels.combine.op import combine_accumulate
from npas.kernels.combine.table import AVERAGE
from npas.kernels.combine_linear.op import combine_linear_accumulate
from npas.kernels.gather_combine.op import gather_combine_accumulate
from npas.kernels.gather_tile_mask.op import gather_tile_mask_accumulate
from npas.kernels.interpolate.op import interpolate_accumulate
from npas.kernels.tile_mask.op import tile_mask_accumulate


class Sources(NamedTuple):
    """What a bank's weights are made from, or the buffers of their gradients.

    Attributes:
        theta: [N] the bank.
        coef: [C] coefficients of all its layers, of no elements where none is learned.
        mask: [M] masks, of no elements where there are none.
    """

    theta: torch.Tensor
    coef: torch.Tensor
    mask: torch.Tensor


class Call(Protocol):
    """One call of an op: makes a flat tensor from `Sources`."""

    def make(self, sources: Sources) -> torch.Tensor:
        """Return what the op makes; differentiable."""
        ...

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add the gradients to buffers, of no elements where not wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """One template as it is: a view of the bank."""

    base: int
    n: int

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the view: [n]."""
        return sources.theta[self.base : self.base + self.n]

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the bank's gradient."""
        del sources
        if buffers.theta.numel():
            buffers.theta[self.base : self.base + self.n] += grad


@dataclass(frozen=True, slots=True)
class Combine:
    """Weights as sums of templates: see `npas.kernels.combine`."""

    table: Sequence[int]
    gain: torch.Tensor | None
    dtype: torch.dtype
    backend: str

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the weights, one after the other."""
        return combine(sources.theta, sources.coef, self.gain, self.table, self.dtype, self.backend)

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the gradients of bank and coefficients."""
        combine_accumulate(
            grad,
            sources.theta,
            sources.coef,
            self.gain,
            self.table,
            buffers.theta,
            buffers.coef,
            self.backend,
        )


@dataclass(frozen=True, slots=True)
class CombineRows:
    """Rows of a weight that is a sum of templates: see `npas.kernels.gather_combine`."""

    row: Sequence[int]
    gain: torch.Tensor | None
    columns: int
    ids: torch.Tensor
    dtype: torch.dtype
    backend: str

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the rows: [*ids.shape, columns]."""
        return gather_combine(
            sources.theta,
            sources.coef,
            self.gain,
            self.row,
            self.columns,
            self.ids,
            self.dtype,
            self.backend,
        )

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the gradients of bank and coefficients."""
        gather_combine_accumulate(
            grad,
            sources.theta,
            sources.coef,
            self.gain,
            self.row,
            self.columns,
            self.ids,
            buffers.theta,
            buffers.coef,
            self.backend,
        )


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of weights that are larger than their bank.

    Attributes:
        gain: [weights] fixed.
        offsets: of each weight's learned scalar in ``coef``, or `AVERAGE` where it has none.
    """

    gain: torch.Tensor
    offsets: tuple[int, ...]

    @property
    def learned(self) -> bool:
        """Whether any is."""
        return any(offset != AVERAGE for offset in self.offsets)

    def of(self, coef: torch.Tensor) -> torch.Tensor:
        """Return the factors: [weights]."""
        if not self.learned:
            return self.gain
        ones = coef.new_ones(())
        scales = [ones if offset == AVERAGE else coef[offset] for offset in self.offsets]
        return self.gain * torch.stack(scales)

    def buffer(self, d_coef: torch.Tensor) -> torch.Tensor:
        """Return a buffer for the gradient of the factors."""
        return d_coef.new_zeros(len(self.offsets) if self.learned and d_coef.numel() else 0)

    def spread(self, found: torch.Tensor, d_coef: torch.Tensor) -> None:
        """Add the gradient of the factors to that of the scalars."""
        for index, offset in enumerate(self.offsets):
            if found.numel() and offset != AVERAGE:
                d_coef[offset] += found[index] * self.gain[index]


@dataclass(frozen=True, slots=True)
class TileMask:
    """Weights larger than their bank: see `npas.kernels.tile_mask`."""

    sizes: Sequence[int]
    factors: Factors
    masked: bool
    dtype: torch.dtype
    backend: str

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the weights, one after the other."""
        coef = self.factors.of(sources.coef)
        return tile_mask(
            sources.theta,
            _masks(sources, self.masked),
            coef,
            self.sizes,
            self.dtype,
            self.backend,
        )

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the gradients of bank, masks and learned scalars."""
        found = self.factors.buffer(buffers.coef)
        tile_mask_accumulate(
            grad,
            sources.theta,
            _masks(sources, self.masked),
            self.factors.of(sources.coef),
            self.sizes,
            buffers.theta,
            _masks(buffers, self.masked),
            found,
            self.backend,
        )
        self.factors.spread(found, buffers.coef)


@dataclass(frozen=True, slots=True)
class TileMaskRows:
    """Rows of a weight larger than its bank: see `npas.kernels.gather_tile_mask`."""

    n: int
    factors: Factors
    masked: bool
    columns: int
    ids: torch.Tensor
    dtype: torch.dtype
    backend: str

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the rows: [*ids.shape, columns]."""
        coef = self.factors.of(sources.coef)
        return gather_tile_mask(
            sources.theta,
            _masks(sources, self.masked),
            coef,
            self.n,
            self.columns,
            self.ids,
            self.dtype,
            self.backend,
        )

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the gradients of bank, masks and the learned scalar."""
        found = self.factors.buffer(buffers.coef)
        gather_tile_mask_accumulate(
            grad,
            sources.theta,
            _masks(sources, self.masked),
            self.factors.of(sources.coef),
            self.n,
            self.columns,
            self.ids,
            buffers.theta,
            _masks(buffers, self.masked),
            found,
            self.backend,
        )
        self.factors.spread(found, buffers.coef)


@dataclass(frozen=True, slots=True)
class Interpolate:
    """A weight resized from its bank: see `npas.kernels.interpolate`."""

    rows: int
    columns: int
    factors: Factors
    dtype: torch.dtype
    backend: str

    def make(self, sources: Sources) -> torch.Tensor:
        """Return the weight: [rows * columns]."""
        coef = self.factors.of(sources.coef)
        return interpolate(sources.theta, coef, self.rows, self.columns, self.dtype, self.backend)

    def accumulate(self, grad: torch.Tensor, sources: Sources, buffers: Sources) -> None:
        """Add to the gradients of bank and learned scalar."""
        found = self.factors.buffer(buffers.coef)
        coef = self.factors.of(sources.coef)
        interpolate_accumulate(
            grad, sources.theta, coef, self.rows, self.columns, buffers.theta, found, self.backend
        )
        self.factors.spread(found, buffers.coef)


@dataclass(frozen=True, slots=True)
class Product:
    """A product with a weight that is never written: see `npas.kernels.combine_linear`.

    Attributes:
        row: of the weight.
        gain: [1] or None.
        out_features: rows of the weight.
        stride: of a convolution along each spatial axis, empty for a linear layer.
        dtype: of input, weight and product.
        backend: one of `npas.kernels.backends.BACKENDS`.
    """

    row: Sequence[int]
    gain: torch.Tensor | None
    out_features: int
    stride: Sequence[int]
    dtype: torch.dtype
    backend: str

    def rows(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input with what is summed over last: of a convolution, its pixels."""
        if not self.stride:
            return input
        steps = (slice(None, None, step) for step in self.stride)
        return input[:, :, *steps].movedim(1, -1)

    def multiply(self, sources: Sources, rows: torch.Tensor) -> torch.Tensor:
        """Return rows times the weight; differentiable."""
        return combine_linear(
            sources.theta,
            sources.coef,
            rows,
            self.gain,
            self.row,
            self.out_features,
            self.dtype,
            self.backend,
        )

    def output(self, made: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return a product in the layer's shape, and the memory format that its input had."""
        if not self.stride:
            return made
        images = made.movedim(-1, 1)
        return images if rows.is_contiguous() else images.contiguous()

    def accumulate(
        self, grad: torch.Tensor, sources: Sources, rows: torch.Tensor, buffers: Sources, want: bool
    ) -> torch.Tensor | None:
        """Add to the gradients of bank and coefficients; return that of the rows where wanted."""
        flat = rows.reshape(-1)
        kept = sum_dtype(rows, *sources)
        found = flat.new_zeros(flat.numel() if want else 0, dtype=kept)
        combine_linear_accumulate(
            grad.reshape(-1, self.out_features),
            sources.theta,
            sources.coef,
            flat,
            self.gain,
            self.row,
            self.out_features,
            buffers.theta,
            buffers.coef,
            found,
            self.backend,
        )
        return found.to(rows.dtype).view(rows.shape) if want else None


def _masks(sources: Sources, masked: bool) -> torch.Tensor:
    return sources.mask if masked else sources.mask[:0]
