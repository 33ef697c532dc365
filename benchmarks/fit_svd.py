"""Truncated SVD of every matrix of a network at a parameter count: what a fit is compared with.

A layer of rank r costs r (rows + columns) parameters, or stays dense where that is no less. Which
components are kept is decided in three ways, of which the best on calibration batches is taken:
the same share of every layer, the largest singular values of the whole network for their cost, and
those relative to their layer's norm.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

CRITERIA = ("uniform", "energy", "relative energy")


@dataclass(frozen=True)
class Matrix:
    """A weight as the product of its singular vectors, in the metric of the moments."""

    name: str
    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    n: int

    @property
    def cost(self) -> int:
        """Parameters of one component."""
        return len(self.left) + self.right.shape[1]

    @property
    def ranks(self) -> int:
        """Components from which the dense weight costs no more."""
        return -(-self.n // self.cost)


def decompose(model: nn.Module, moments: Mapping[str, torch.Tensor]) -> list[Matrix]:
    """Decompose linear layers, pointwise convolutions and embeddings, weighted by moments."""
    found = []
    for path, module in model.named_modules():
        if not is_matrix(module):
            continue
        name = f"{path}.weight"
        weight = model.get_parameter(name).detach().flatten(1)
        scale = moments.get(name)
        if scale is None:
            scale = torch.ones(())
        else:
            scale = (scale[None] if scale.dim() == 1 else scale).flatten(1).sqrt()
        left, values, right = torch.linalg.svd(weight * scale, full_matrices=False)
        if scale.dim() and scale.shape[1] == 1:
            left = left / scale
        elif scale.dim():
            right = right / scale
        found.append(Matrix(name, left, values, right, weight.numel()))
    return found


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module multiplies by one matrix."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1 and module.stride == (1, 1)
    return isinstance(module, nn.Linear | nn.Embedding)


def choose(matrices: list[Matrix], available: int, criterion: str) -> dict[str, int]:
    """Return the rank of each matrix, where all together cost at most ``available``."""

    def ranks(threshold: float) -> dict[str, int]:
        chosen = {}
        for matrix in matrices:
            if criterion == "uniform":
                rank = int((1 - threshold) * matrix.n / matrix.cost)
            else:
                gains = matrix.values.double().square() / matrix.cost
                if criterion == "relative energy":
                    gains = gains / matrix.values.double().square().sum()
                rank = int((gains > threshold).sum())
            chosen[matrix.name] = max(1, min(rank, matrix.ranks))
        return chosen

    def cost(chosen: Mapping[str, int]) -> int:
        return sum(
            matrix.n if chosen[matrix.name] >= matrix.ranks else chosen[matrix.name] * matrix.cost
            for matrix in matrices
        )

    top = 1.0
    if criterion == "energy":
        top = max(float(m.values[0].double().square()) / m.cost for m in matrices)
    # In the logarithm, where the values of layers of every scale lie.
    low, high = (0.0, 1.0) if criterion == "uniform" else (1e-14, top)
    if cost(ranks(low)) <= available:
        return ranks(low)
    for _ in range(60):
        middle = (low + high) / 2 if criterion == "uniform" else (low * high) ** 0.5
        low, high = (low, middle) if cost(ranks(middle)) <= available else (middle, high)
    return ranks(high)


def factorised(model: nn.Module, matrices: list[Matrix], ranks: Mapping[str, int]) -> nn.Module:
    """Return a copy in which each layer is two, where that is fewer parameters."""
    made = copy.deepcopy(model)
    for matrix in matrices:
        rank, path = ranks[matrix.name], matrix.name.rpartition(".")[0]
        if rank >= matrix.ranks:
            continue
        parent, _, last = path.rpartition(".")
        roots = matrix.values[:rank].sqrt()
        second, first = matrix.left[:, :rank] * roots, roots[:, None] * matrix.right[:rank]
        setattr(made.get_submodule(parent), last, _pair(made.get_submodule(path), first, second))
    return made


def _pair(module: nn.Module, first: torch.Tensor, second: torch.Tensor) -> nn.Module:
    """Return two layers that multiply by ``second @ first``."""
    rank, columns = first.shape
    if isinstance(module, nn.Embedding):
        rows = nn.Embedding.from_pretrained(second.clone(), freeze=False)
        after = nn.Linear(rank, columns, bias=False)
        after.weight = nn.Parameter(first.t().contiguous())
        return nn.Sequential(rows, after)
    bias = module.bias
    has_bias = isinstance(bias, nn.Parameter)
    if isinstance(module, nn.Linear):
        pair = nn.Linear(columns, rank, bias=False), nn.Linear(rank, len(second), bias=has_bias)
    else:
        pair = (
            nn.Conv2d(columns, rank, 1, bias=False),
            nn.Conv2d(rank, len(second), 1, bias=has_bias),
        )
    for layer, weight in zip(pair, (first, second), strict=True):
        layer.weight = nn.Parameter(weight.reshape(layer.weight.shape).contiguous())
    if has_bias:
        pair[1].bias = nn.Parameter(bias.detach().clone())  # pyright: ignore
    return nn.Sequential(*pair)


def best(
    model: nn.Module,
    matrices: list[Matrix],
    budget: int,
    distance: Callable[[nn.Module], float],
) -> tuple[nn.Module, str]:
    """Return the network of ``budget`` parameters that is nearest by ``distance``, and how."""
    total = sum(p.numel() for p in model.parameters())
    available = budget - (total - sum(matrix.n for matrix in matrices))
    tried = []
    for criterion in CRITERIA:
        made = factorised(model, matrices, choose(matrices, available, criterion)).eval()
        assert sum(p.numel() for p in made.parameters()) <= budget
        tried.append((distance(made), criterion, made))
    _, criterion, made = min(tried, key=lambda each: each[0])
    return made, criterion
