"""Factors of layers that are embedded (3.1.1) in fewer dimensions than they have templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from npas.fitting.layer import FitLayer, solve
from npas.passes.demand import EMBEDDING

# Steps of conjugate gradients for the shared rows in a round.
_STEPS = 20
# Of one layer: curvature and residual in the factors, and its embedding.
_System = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class SharedRows:
    """What ties factors together: ``factors_i = rows[:k_i] point_i``.

    Up to E templates any factors have an embedding, so nothing is tied. Beyond, embeddings and
    rows are solved for in turn, within the same alternation.

    Attributes:
        rows: [K, E] float64: W_j.
        points: layer -> [E] float64: phi_i times the layer's gain.
    """

    rows: torch.Tensor
    points: Mapping[str, torch.Tensor]

    @staticmethod
    def of(layers: Sequence[FitLayer]) -> "SharedRows":
        """Tie the factors of layers: start from the best rows of this rank for them."""
        k = max(layer.layer.k for layer in layers)
        table = torch.zeros(len(layers), k, dtype=torch.float64)
        for row, layer in zip(table, layers, strict=True):
            row[: layer.layer.k] = layer.factors.double().cpu()
        left, values, right = torch.linalg.svd(table, full_matrices=False)
        rank = min(EMBEDDING, len(values))
        # Rows that no factor needs yet are orthogonal to the others: an embedding may use them.
        basis = torch.linalg.qr(torch.cat([right[:rank].t(), torch.eye(k).double()], 1)).Q
        rows = basis[:, :EMBEDDING]
        points = table @ rows
        del left
        found = SharedRows(
            rows, {x.layer.name: p for x, p in zip(layers, points.unbind(), strict=True)}
        )
        found.write(layers)
        return found

    def write(self, layers: Sequence[FitLayer]) -> None:
        """Set the factors of layers to what rows and embeddings give."""
        for layer in layers:
            factors = self.rows[: layer.layer.k] @ self.points[layer.layer.name]
            layer.factors = factors.to(layer.factors)

    def step(self, layers: Sequence[FitLayer], theta: torch.Tensor, mask: torch.Tensor) -> None:
        """Solve for the embeddings, each by itself, and then for the rows."""
        systems: list[_System] = []
        for layer in layers:
            square, residual = (part.cpu() for part in layer.system(theta, mask))
            rows = self.rows[: layer.layer.k]
            move = solve(rows.t() @ square @ rows, rows.t() @ residual)
            point = self.points[layer.layer.name].add_(move)
            systems.append((square, residual - square @ (rows @ move), point))
        self.rows = self.rows + _best_move(systems, self.rows.shape)
        self.write(layers)


def _best_move(systems: Sequence[_System], shape: torch.Size) -> torch.Tensor:
    """Return the change of the rows that lowers the error most, by conjugate gradients."""

    def curved(rows: torch.Tensor) -> torch.Tensor:
        found = torch.zeros_like(rows)
        for square, _, point in systems:
            found[: len(square)] += torch.outer(square @ (rows[: len(square)] @ point), point)
        return found

    residual = torch.zeros(shape, dtype=torch.float64)
    for square, left, point in systems:
        residual[: len(square)] += torch.outer(left, point)
    move, direction = torch.zeros_like(residual), residual.clone()
    size = first = float(residual.square().sum())
    for _ in range(_STEPS):
        bent = curved(direction)
        curvature = float((direction * bent).sum())
        if size <= 1e-12 * first or curvature <= 0:
            break
        move += size / curvature * direction
        residual -= size / curvature * bent
        new = float(residual.square().sum())
        direction = residual + new / size * direction
        size = new
    return move
