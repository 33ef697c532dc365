"""Fit one bank by alternating least squares: bank, factors and masks in turn, each best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from npas.fitting.layer import FitLayer, solve
from npas.fitting.shared import SharedRows

# A round that lowers the squared error by less than this share of it is the last.
TOLERANCE = 3e-3
ROUNDS = 100
# Below this share of the weights' energy an error is rounding in float32.
EXACT = 1e-13
# Conjugate gradients in a round: until the residual is a tenth, which further rounds go on from.
_STEPS, _STEP_TOLERANCE = 6, 0.1
# A gain stays above this share of what gives the weight its original scale, or it hardly learns.
LEAST_GAIN = 0.1


@dataclass(slots=True)
class BankFit:
    """A bank, and the layers that are fitted to their targets.

    Attributes:
        layers: the bank's layers that have a target.
        theta: [N] the bank, in the dtype of the fit.
        mask: [M] masks, of no elements where there are none.
        shared: what ties the factors of the layers together, where K exceeds an embedding.
        errors: squared error at the start and after each round.
    """

    layers: Sequence[FitLayer]
    theta: torch.Tensor
    mask: torch.Tensor
    shared: SharedRows | None = None
    errors: list[float] = field(default_factory=list)

    def error(self) -> float:
        """Return the squared error now."""
        return sum(layer.residual(self.theta, self.mask)[1] for layer in self.layers)

    def run(self, rounds: int, tick: Callable[[], None] = lambda: None) -> None:
        """Alternate until the error falls by less than `TOLERANCE`, or for so many rounds."""
        energy = sum(layer.energy() for layer in self.layers)
        for _ in range(rounds):
            before = self.step_bank()
            self.step_factors()
            self.step_masks()
            tick()
            if not self.errors:
                self.errors.append(before)
            self.errors.append(self.error())
            if self.settled(energy):
                break

    def settled(self, energy: float) -> bool:
        """Tell whether another round is not worth it."""
        last = self.errors[-1]
        return last <= EXACT * energy or self.errors[-2] - last < TOLERANCE * self.errors[-2]

    def step_bank(self) -> float:
        """Solve for the bank by conjugate gradients on the normal equations, without a matrix.

        Where each element of a weight is made of one element of the bank (one template a layer,
        tiles), the equations are diagonal, and the first step, which divides by the diagonal,
        solves them.

        Returns:
            The squared error before.
        """
        residual, diagonal = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        error = 0.0
        for layer in self.layers:
            difference, own = layer.residual(self.theta, self.mask)
            layer.add_to_bank(difference, residual, self.mask)
            layer.add_curvature(diagonal, self.mask)
            error += own
        # Elements that nothing reads keep their values.
        inverse = diagonal.masked_fill_(diagonal <= 0, torch.inf).reciprocal_()
        move = torch.zeros_like(self.theta)
        scaled = residual * inverse
        direction = scaled.clone()
        size = first = _product(residual, scaled)
        for _ in range(_STEPS):
            if size <= _STEP_TOLERANCE**2 * first or size <= 0:
                break
            curved = self._curved(direction)
            curvature = _product(direction, curved)
            if curvature <= 0:
                break
            length = size / curvature
            move.add_(direction, alpha=length)
            residual.sub_(curved, alpha=length)
            torch.mul(residual, inverse, out=scaled)
            new = _product(residual, scaled)
            direction.mul_(new / size).add_(scaled)
            size = new
        self.theta.add_(move)
        return error

    def step_factors(self) -> None:
        """Solve for each layer's factors: a system of its own, of as many as it has templates."""
        if self.shared is not None:
            tied = [layer for layer in self.layers if self.is_tied(layer)]
            self.shared.step(tied, self.theta, self.mask)
        for layer in self.layers:
            if self.is_tied(layer):
                continue
            square, residual = layer.system(self.theta, self.mask)
            now = layer.factors.double()
            best = now + solve(square, residual)
            if layer.only_gain:
                best = _not_near_zero(best, now, self._least(layer, float(square)))
            layer.factors = best.to(layer.kept)

    def step_masks(self) -> None:
        """Solve for each mask element: the layers that share it, and nothing else, depend on it."""
        if not self.mask.numel():
            return
        above, below = torch.zeros_like(self.mask), torch.zeros_like(self.mask)
        for layer in self.layers:
            if not layer.layer.k and layer.layer.upsample == "mask":
                layer.add_masks(self.theta, self.mask, above, below)
        self.mask = torch.where(below > 0, above / below.clamp_min(1e-30), self.mask)

    def is_tied(self, layer: FitLayer) -> bool:
        """Tell whether a layer's factors are solved for together with others'."""
        return self.shared is not None and layer.layer.name in self.shared.points

    def _least(self, layer: FitLayer, square: float) -> float:
        """Return the least gain of a layer."""
        return LEAST_GAIN * (layer.energy() / square) ** 0.5 if square > 0 else 0.0

    def _curved(self, direction: torch.Tensor) -> torch.Tensor:
        """Return the normal equations' product with a vector: [N]."""
        found = torch.zeros_like(direction)
        for layer in self.layers:
            made = layer.weigh(layer.make(direction, self.mask))
            layer.add_to_bank(made, found, self.mask)
        return found


def _not_near_zero(best: torch.Tensor, now: torch.Tensor, least: float) -> torch.Tensor:
    """Return what is nearest to the best gain of those of at least this size, or the one of now.

    The squared error grows with the distance from the best, so that it only falls.
    """
    if float(best.abs()) >= least:
        return best
    smallest = torch.where(best < 0, -least, least)
    return smallest if float((smallest - best).abs()) <= float((now - best).abs()) else now


def _product(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a, b))
