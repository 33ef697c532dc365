"""One layer in a fit: how it is generated, what it should become, and what each element counts."""

from dataclasses import dataclass, replace

import torch

from npas.calls import Call, Combine, Factors, Interpolate, Sources, TileMask
from npas.kernels.accumulate import sum_dtype
from npas.kernels.combine.table import AVERAGE
from npas.plan import LayerPlan

# Columns of a layer's templates that are multiplied at a time: [k, columns] is all that is copied.
_COLUMNS = 1 << 18
# What generates during the fit, whatever the module was compiled with.
_BACKEND = "auto"


@dataclass(slots=True)
class FitLayer:
    """A generated weight, linear in the bank, in its factors and in its masks.

    Attributes:
        layer: where its templates lie.
        target: [n] what it should become, flat, in the original's dtype.
        importance: what the squared error of each element is multiplied with, of a shape that
            broadcasts to the weight's, or None for 1.
        factors: [k] what its templates are multiplied with, gain included; [1] where one number
            multiplies all of it.
    """

    layer: LayerPlan
    target: torch.Tensor
    importance: torch.Tensor | None
    factors: torch.Tensor

    @property
    def kept(self) -> torch.dtype:
        """The dtype of the fit: float32, or float64 where the bank has it."""
        return sum_dtype(self.target)

    @property
    def free(self) -> bool:
        """Whether each template has a factor of its own."""
        return self.layer.has_coefficients

    @property
    def only_gain(self) -> bool:
        """Whether its one factor is its gain, which is not learned and must not be near 0."""
        return not self.free and not self.layer.scale

    def copy(self) -> "FitLayer":
        """Return the same with factors of its own."""
        return replace(self, factors=self.factors.clone())

    def wanted(self) -> torch.Tensor:
        """Return the target in the dtype of the fit: [n]."""
        return self.target.to(self.kept)

    def make(self, theta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the weight: [n], new memory."""
        return self._made(self.factors, theta, mask)

    def weigh(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply [n] values by what their elements count, in place; a padding row counts 0."""
        shaped = values.view(self.layer.shape)
        if self.importance is not None:
            shaped.mul_(self.importance)
        if self.layer.padding_idx is not None:
            shaped[self.layer.padding_idx] = 0
        return values

    def energy(self) -> float:
        """Return the squared error of a weight of zeros."""
        target = self.wanted()
        return _dot(target, self.weigh(target.clone()))

    def residual(self, theta: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the weighed difference target - weight, [n], and its squared error."""
        difference = self.make(theta, mask).neg_().add_(self.target)
        weighed = self.weigh(difference.clone())
        return weighed, _dot(difference, weighed)

    def add_to_bank(self, grad: torch.Tensor, buffer: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the adjoint of the map from the bank to the weight: buffer [N], grad [n]."""
        self._accumulate(self._vector(self.factors), grad, buffer, mask)

    def add_curvature(self, buffer: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the diagonal of the normal equations of the bank (for ``inter``, a bound of it)."""
        ones = torch.ones(self.layer.n, dtype=self.kept, device=buffer.device)
        self._accumulate(
            self._vector(self.factors).square(), self.weigh(ones), buffer, mask.square()
        )

    def add_masks(
        self, theta: torch.Tensor, mask: torch.Tensor, above: torch.Tensor, below: torch.Tensor
    ) -> None:
        """Add numerator and denominator of each mask element's best value."""
        call, none = self._call(self.factors), theta.new_empty(0)
        weighed = self.weigh(self.wanted().clone())
        call.accumulate(weighed, Sources(theta, none, mask), Sources(none, none, above))
        ones = self.weigh(torch.ones_like(weighed))
        squared = self._call(self.factors.square())
        squared.accumulate(ones, Sources(theta.square(), none, mask), Sources(none, none, below))

    def system(self, theta: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normal equations of a change of the factors: [f, f] and [f], in float64.

        The right side is made of what is left, not of the target, so that it is exact to the
        rounding of that: near an exact fit the equations are solved all the better.
        """
        left, _ = self.residual(theta, mask)
        if not self.free:
            unit = self._made(torch.ones_like(self.factors), theta, mask)
            product, square = _dot(unit, left), _dot(unit, self.weigh(unit.clone()))
            found = torch.tensor([[square]], dtype=torch.float64, device=theta.device)
            return found, found.new_tensor([product])
        layer = self.layer
        bank = theta[layer.base :]
        templates = bank.as_strided((layer.k, layer.n), (layer.stride, 1), bank.storage_offset())
        counts = None
        if self.importance is not None or layer.padding_idx is not None:
            counts = self.weigh(torch.ones(layer.n, dtype=self.kept, device=theta.device))
        square = torch.zeros(layer.k, layer.k, dtype=torch.float64, device=theta.device)
        product = square.new_zeros(layer.k)
        for first in range(0, layer.n, _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            piece = templates[:, columns].contiguous()
            product += torch.mv(piece, left[columns]).double()
            other = piece if counts is None else piece * counts[columns]
            square += torch.mm(piece, other.t()).double()
        return square, product

    def _made(self, factors: torch.Tensor, theta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        vector = self._vector(factors)
        return self._call(vector).make(self._sources(theta, vector, mask))

    def _vector(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the factor of each template: [k], or [1] of an upsampled weight."""
        k = self.layer.k
        return factors if self.free or k <= 1 else (factors / k).repeat(k)

    def _call(self, factors: torch.Tensor) -> Call:
        layer = self.layer
        if layer.k:
            table = (layer.base, layer.stride, layer.k, layer.n, 0)
            return Combine(table, None, self.kept, _BACKEND)
        whole = Factors(factors, (AVERAGE,))
        if layer.upsample == "inter":
            rows = layer.shape[0]
            return Interpolate(rows, layer.n // rows, whole, self.kept, _BACKEND)
        return TileMask([layer.n], whole, layer.upsample == "mask", self.kept, _BACKEND)

    def _sources(self, theta: torch.Tensor, vector: torch.Tensor, mask: torch.Tensor) -> Sources:
        return Sources(theta, vector if self.layer.k else theta.new_empty(0), mask)

    def _accumulate(
        self, vector: torch.Tensor, grad: torch.Tensor, buffer: torch.Tensor, mask: torch.Tensor
    ) -> None:
        none = buffer.new_empty(0)
        # The adjoint does not depend on the bank's own values, for which the buffer stands in.
        sources = self._sources(buffer, vector, mask)
        self._call(vector).accumulate(grad, sources, Sources(buffer, none, none))


def solve(square: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """Solve a small system in float64 that may be singular, leaning to no change.

    Args:
        square: [f, f] positive semi-definite.
        product: [f] the residual.

    Returns:
        [f] a step that lowers the squared error whatever the damping.
    """
    scale = float(square.diagonal().max()) if len(square) else 0.0
    if not scale > 0:
        return torch.zeros_like(product)
    damped = square + 1e-9 * scale * torch.eye(
        len(square), dtype=square.dtype, device=square.device
    )
    return torch.linalg.solve(damped, product)


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the product of two vectors, pieces of it summed in float64."""
    pieces = zip(a.split(_COLUMNS), b.split(_COLUMNS), strict=True)
    return float(sum(torch.dot(x, y).double() for x, y in pieces))
