"""Coefficients at the start: unit vectors, as orthogonal across layers as templates allow."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from npas.plan import LayerPlan

# How many vectors are spread together, over how many templates, and of how many a template. Above
# the last, a union of orthonormal bases is even enough: of 128 lines in 4 dimensions some two are
# 0.92 coherent at the best that was found.
_ROWS, _COLUMNS, _CROWD = 128, 1024, 16
# Of the potential that is descended: higher powers see the closest pairs alone.
_POWERS, _STEPS, _LEVEL_STEPS = (4, 8, 16, 32), 25, 40


@dataclass(frozen=True, slots=True)
class _Vector:
    """One layer's alpha: over the templates from ``first`` on, which others may read too."""

    layer: str
    first: int
    alpha: Tensor

    @property
    def end(self) -> int:
        return self.first + len(self.alpha)


def draw_coefficients(layers: Sequence[LayerPlan]) -> dict[str, Tensor]:
    """Draw the alphas of a bank's layers with torch's global generator.

    What matters is where two layers read the same templates: windows of one size at the same place
    of the bank. There alphas are orthogonal, exactly, as long as no more layers meet than there are
    templates. Where more meet, they are spread evenly as lines (alpha and -alpha make the same
    weight but for its sign): first K at a time orthogonally, and then by descending the p-frame
    potential sum |<alpha_i, alpha_j>|^p (Ehler and Okoudjou, 2012) for growing p, at last p = 2,
    whose minima are tight frames: every template has the same share of the layers.

    Args:
        layers: of one bank; those without coefficients are passed over.

    Returns:
        layer -> [K_i] of unit norm, float32 on the CPU.
    """
    grids: dict[tuple[int, int, int], list[LayerPlan]] = defaultdict(list)
    for layer in layers:
        if layer.has_coefficients:
            grids[layer.n, layer.stride, layer.base % layer.stride].append(layer)
    found: dict[str, Tensor] = {}
    for members in grids.values():
        reach = max(layer.k for layer in members)
        vectors: list[_Vector] = []
        for layer in sorted(members, key=lambda layer: (layer.base, layer.k)):
            first = layer.base // layer.stride
            meets = bisect_right(vectors, first - reach, key=lambda vector: vector.first)
            # Of many the latest, from where a basis was begun: older ones are in whole bases.
            n_met = len(vectors) - meets
            n_kept = n_met if n_met <= 2 * layer.k else layer.k + n_met % layer.k
            alpha = _draw(first, layer.k, vectors[len(vectors) - n_kept :])
            vectors.append(_Vector(layer.name, first, alpha))
        for share in _shares(vectors):
            for vector in _spread(share):
                found[vector.layer] = vector.alpha.float()
    return found


def _draw(first: int, k: int, met: Sequence[_Vector]) -> Tensor:
    """Draw a direction in which the vectors that it meets lie least: none of them if there is one.

    K that meet in the same templates become an orthonormal basis, and then the next K do.
    """
    rows = []
    for other in met:
        low, high = max(first, other.first), min(first + k, other.end)
        if low < high:
            row = torch.zeros(k, dtype=torch.float64)
            row[low - first : high - first] = other.alpha[low - other.first : high - other.first]
            rows.append(row)
    direction = torch.randn(k, dtype=torch.float64)
    if rows:
        _, values, axes = torch.linalg.svd(torch.stack(rows), full_matrices=False)
        least = float(values[-1]) if len(values) == k else 0.0
        taken = axes[values**2 > least**2 + 1e-9]
        direction = direction - (taken @ direction) @ taken
    return direction / direction.norm()


def _shares(vectors: Sequence[_Vector]) -> Iterator[list[_Vector]]:
    """Cut vectors, which stand in the order of their templates, into shares to spread."""
    share: list[_Vector] = []
    for vector in vectors:
        if share and (len(share) == _ROWS or vector.end - share[0].first > _COLUMNS):
            yield share
            share = []
        share.append(vector)
    if share:
        yield share


def _spread(share: list[_Vector]) -> list[_Vector]:
    """Spread those vectors of a share that are not orthogonal to all others."""
    start = share[0].first
    table = torch.zeros(len(share), max(v.end for v in share) - start, dtype=torch.float64)
    reads = torch.zeros_like(table)
    for row, marks, vector in zip(table, reads, share, strict=True):
        row[vector.first - start : vector.end - start] = vector.alpha
        marks[vector.first - start : vector.end - start] = 1
    crowded = (_products(table).abs() > 1e-6).any(dim=1)
    n_read = int(reads[crowded].any(dim=0).sum())
    if not 0 < int(crowded.sum()) <= _CROWD * n_read:
        return share
    table[crowded] = _descend(table[crowded], reads[crowded])
    return [
        replace(vector, alpha=row[vector.first - start : vector.end - start])
        for vector, row in zip(share, table, strict=True)
    ]


def _descend(table: Tensor, reads: Tensor) -> Tensor:
    """Descend the p-frame potential of unit vectors, each within the templates that it reads."""
    for power in _POWERS:
        for step in range(_STEPS):
            products = _products(table)
            pull = (products.abs() / products.abs().max()).pow(power - 1) * products.sign()
            slope = pull @ table * reads
            slope = slope - (slope * table).sum(dim=1, keepdim=True) * table
            rate = 1.2 / power * (1 - step / _STEPS) / slope.norm(dim=1).max().clamp_min(1e-12)
            table = torch.nn.functional.normalize(table - rate * slope, dim=1)
    for _ in range(_LEVEL_STEPS):
        frame = table.T @ table
        slope = table @ frame * reads / torch.linalg.matrix_norm(frame, 2)
        table = torch.nn.functional.normalize(table - 0.5 * slope, dim=1)
    return table


def _products(table: Tensor) -> Tensor:
    return (table @ table.T).fill_diagonal_(0)
