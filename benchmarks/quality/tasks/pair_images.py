"""Features of pictures that need no pretrained network: edges, colours, and where they are.

Histograms of oriented gradients (Dalal and Triggs, CVPR 2005), mean colours and shares of colours,
projected on their principal components. They stand in for the ResNet features of the npas paper:
a picture, a window of it and a box in a scene are described alike.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
_ORIENTATIONS = 9
_LEVELS = 4  # of each colour: 64 colours
_FEW = 64  # images at a time: what is between must stay in the cache


def cells(images: Tensor) -> Tensor:
    """Return what is in each cell of 8 x 8 pixels.

    Args:
        images: [n, 3, height, width] from 0 to 1, whose sides are whole cells.

    Returns:
        [n, 76, height / 8, width / 8]: mean strength of the edges of 9 orientations, mean red,
        green and blue, and the share of each of 64 colours.
    """
    return torch.cat([_cells(few) for few in images.split(_FEW)])


def _cells(images: Tensor) -> Tensor:
    n, _, height, width = images.shape
    grey = images.mean(1, keepdim=True)
    down = F.pad(grey[:, :, 2:] - grey[:, :, :-2], (0, 0, 1, 1))
    right = F.pad(grey[:, :, :, 2:] - grey[:, :, :, :-2], (1, 1))
    strength = (down.square() + right.square()).sqrt()
    # Edges have no sign: half a turn is shared among the orientations, between the nearest two.
    angle = torch.atan2(down, right) / torch.pi % 1 * _ORIENTATIONS
    lower = angle.floor()
    near = lower.long() % _ORIENTATIONS
    far = (near + 1) % _ORIENTATIONS
    edges = images.new_zeros(n, _ORIENTATIONS, height, width)
    edges.scatter_add_(1, near, strength * (1 - angle + lower))
    edges.scatter_add_(1, far, strength * (angle - lower))

    level = (images * _LEVELS).long().clamp(max=_LEVELS - 1)
    colour = (level[:, 0] * _LEVELS + level[:, 1]) * _LEVELS + level[:, 2]
    rows, columns = height // CELL, width // CELL
    cell = torch.arange(height)[:, None] // CELL * columns + torch.arange(width) // CELL
    shares = images.new_zeros(n, _LEVELS**3 * rows * columns)
    place = colour * (rows * columns) + cell
    shares.scatter_add_(1, place.flatten(1), torch.full((n, height * width), 1 / CELL**2))
    means = F.avg_pool2d(torch.cat([edges, images], 1), CELL)
    return torch.cat([means, shares.view(n, -1, rows, columns)], 1)


@dataclass(frozen=True, slots=True)
class Described:
    """Descriptors of pictures, in three kinds that have different units.

    Attributes:
        edges: [..., 9 * cells].
        colours: [..., 3 * cells].
        shares: [..., 64]: of the whole picture.
    """

    edges: Tensor
    colours: Tensor
    shares: Tensor


def describe(found: Tensor) -> Described:
    """Return the descriptors of windows.

    Args:
        found: [..., 76, rows, columns] of `cells`.
    """
    edges, colours, shares = found.split((_ORIENTATIONS, 3, _LEVELS**3), dim=-3)
    energy = edges.square().sum(-3, keepdim=True)
    around = F.avg_pool2d(energy.flatten(0, -4), 3, 1, 1, count_include_pad=False)
    # Blank cells have no edges to normalise; the constant is a tenth of a clear edge's strength.
    edges = edges / (around.view_as(energy).sqrt() + 0.02)
    return Described(edges.flatten(-3), colours.flatten(-3), shares.mean((-2, -1)).sqrt())


def windows(found: Tensor) -> Tensor:
    """Return an image's regions: the whole, and 3 x 3 windows of half its side.

    Args:
        found: [n, 76, 8, 8] of `cells`.

    Returns:
        [n, 10, 76, 4, 4]; the whole is averaged to as many cells as a window has.
    """
    parts = found.unfold(2, 4, 2).unfold(3, 4, 2).flatten(2, 3).transpose(1, 2)
    return torch.cat([F.avg_pool2d(found, 2).unsqueeze(1), parts], 1)


@dataclass(frozen=True, slots=True)
class Features:
    """Principal components of descriptors, with a mean of 0 and a mean variance of 1.

    Attributes:
        scales: of the three kinds.
        mean: [descriptors].
        basis: [descriptors, features].
    """

    scales: tuple[float, ...]
    mean: Tensor
    basis: Tensor

    @classmethod
    def of(cls, described: Described, n: int) -> "Features":
        """Return the first n components of training data, in which the kinds weigh the same."""
        kinds = (described.edges, described.colours, described.shares)
        scales = tuple(float(kind.flatten(0, -2).var(0).sum().rsqrt()) for kind in kinds)
        x = _joined(described, scales).flatten(0, -2)
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean).T.double() @ (x - mean).double())
        basis = vectors[:, -n:].flip(1) / (values[-n:].sum() / (len(x) * n)).sqrt()
        return cls(scales, mean, basis.float())

    def __call__(self, described: Described) -> Tensor:
        """Return the features, [..., features]."""
        return (_joined(described, self.scales) - self.mean) @ self.basis


def _joined(described: Described, scales: tuple[float, ...]) -> Tensor:
    kinds = (described.edges, described.colours, described.shares)
    return torch.cat([kind * scale for kind, scale in zip(kinds, scales, strict=True)], -1)


def crop(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Return what is in boxes, resized to squares; what is outside of an image is white.

    Args:
        images: [n, 3, height, width] from 0 to 1.
        boxes: [n, boxes, 4]: left, top, right and bottom, in pixels.
        side: of the result, [n, boxes, 3, side, side].
    """
    n, k, _ = boxes.shape
    size = torch.tensor([images.shape[3], images.shape[2]], dtype=torch.float32)
    centre = (boxes[..., :2] + boxes[..., 2:]) / size - 1
    turn = torch.diag_embed((boxes[..., 2:] - boxes[..., :2]) / size)
    theta = torch.cat([turn, centre.unsqueeze(-1)], -1).flatten(0, 1)
    grid = F.affine_grid(theta, [n * k, 3, side, side], align_corners=False)
    below = grid.view(n, k * side, side, 2)  # one box below the other: an image is read once
    found = 1 - F.grid_sample(1 - images, below, align_corners=False)
    return found.view(n, 3, k, side, side).transpose(1, 2)


def jittered(boxes: Tensor, shift: float, zoom: float, generator: torch.Generator) -> Tensor:
    """Return boxes moved and resized at random.

    Args:
        boxes: [..., 4]: left, top, right and bottom.
        shift: at most, as a share of a side.
        zoom: at most, as a factor of either side or its inverse.
        generator: draws them.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    moved = torch.rand(size.shape, generator=generator) * 2 - 1
    factor = zoom ** (torch.rand(size.shape[:-1], generator=generator) * 2 - 1).unsqueeze(-1)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + moved * shift * size
    half = size * factor / 2
    return torch.cat([centre - half, centre + half], -1)
