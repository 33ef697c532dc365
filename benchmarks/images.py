"""What training on images needs: a fair choice of them, smaller ones, and shifted ones."""

import torch
import torch.nn.functional as F
from torch import Tensor


def choose(classes: Tensor, n: int) -> Tensor:
    """Return the places of n images, as many of each class as of any other, always the same.

    Raises:
        ValueError: if a class has too few.
    """
    kinds = classes.unique()
    each = n // len(kinds)
    generator = torch.Generator().manual_seed(0)
    chosen: list[Tensor] = []
    for kind in kinds:
        places = (classes == kind).nonzero()[:, 0]
        if len(places) < each:
            raise ValueError(
                f"{each} images of class {kind} are asked for, there are {len(places)}"
            )
        chosen.append(places[torch.randperm(len(places), generator=generator)[:each]])
    return torch.cat(chosen)


def pooled(x: Tensor, size: int) -> Tensor:
    """Return images [n, channels, height, width] averaged to size x size, float32."""
    return F.adaptive_avg_pool2d(x.float(), size)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images shifted by up to an eighth of their size, and half of them flipped.

    Args:
        x: [batch, channels, size, size].
        generator: draws a shift and a side for each image.
    """
    n, _, height, width = x.shape
    most = max(1, height // 8)
    shift = torch.randint(-most, most + 1, (2, n, 1), generator=generator)
    flip = torch.randint(0, 2, (n, 1), generator=generator)
    rows = torch.arange(height) + shift[0]
    columns = torch.arange(width) + shift[1]
    columns = torch.where(flip == 1, width - 1 - columns, columns)
    padded = F.pad(x, (most,) * 4)
    image = torch.arange(n)[:, None, None]
    moved = padded[image, :, rows[:, :, None] + most, columns[:, None, :] + most]
    return moved.permute(0, 3, 1, 2)  # the indices come first: channels last, as it was
