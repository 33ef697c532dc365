"""Scenes of emoji, and boxes in them.

A scene is a grid of emoji of one design, each at a place and of a size drawn at random. Boxes are
proposed around them as a detector would: near what is there, not exactly at it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.emoji import SIDE
from benchmarks.quality.tasks.pair_images import Described, cells, crop, describe, jittered

GRID = 3
N_OBJECTS = GRID**2
N_BOXES = 2 * N_OBJECTS
_CROP = 32  # a box is resized to as many pixels before it is described


@dataclass(frozen=True, slots=True)
class Drawn:
    """Scenes before they are described.

    Attributes:
        emoji: [scenes, objects].
        images: [scenes, boxes, 3, 32, 32] from 0 to 1: what is in each box.
        overlap: [scenes, objects, boxes].
    """

    emoji: Tensor
    images: Tensor
    overlap: Tensor


def draw(images: Tensor, places: Tensor, n: int, generator: torch.Generator) -> Drawn:
    """Draw scenes.

    Args:
        images: [designs, emoji, 3, 64, 64] uint8; each scene is of one design.
        places: the emoji that scenes are of, at least nine.
        n: scenes.
        generator: draws which emoji, where they are, and the boxes.
    """
    each = len(places) // N_OBJECTS  # scenes of a round: no emoji is in a scene twice
    orders = [torch.randperm(len(places), generator=generator) for _ in range(-(-n // each))]
    which = places[torch.cat([order[: each * N_OBJECTS] for order in orders])[: n * N_OBJECTS]]
    design = torch.arange(n).repeat_interleave(N_OBJECTS) % len(images)

    side = SIDE * (0.6 + 0.4 * torch.rand(n * N_OBJECTS, 1, generator=generator))
    corner = (SIDE - side) * torch.rand(n * N_OBJECTS, 2, generator=generator)
    here = torch.cat([corner, corner + side], 1)
    # The cell as the emoji sees it: an emoji's own box is 64 wide in its own pixels.
    seen = torch.cat([-corner, SIDE - corner], 1) * (SIDE / side)
    tiles = crop(images[design, which] / 255, seen.unsqueeze(1), SIDE)
    canvases = tiles.view(n, GRID, GRID, 3, SIDE, SIDE).permute(0, 3, 1, 4, 2, 5)
    canvases = canvases.reshape(n, 3, GRID * SIDE, GRID * SIDE)

    row, column = torch.arange(N_OBJECTS) // GRID * SIDE, torch.arange(N_OBJECTS) % GRID * SIDE
    objects = here.view(n, N_OBJECTS, 4) + torch.stack([column, row, column, row], 1)
    boxes = jittered(objects.repeat_interleave(2, 1), 0.2, 1.3, generator)
    return Drawn(which.view(n, N_OBJECTS), crop(canvases, boxes, _CROP), overlaps(objects, boxes))


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes [n, a, 4] with boxes [n, b, 4], [n, a, b]."""
    a, b = a.unsqueeze(2), b.unsqueeze(1)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def boxed(images: Tensor) -> Described:
    """Return the descriptors of boxes [scenes, boxes, 3, 32, 32]."""
    return describe(cells(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
