"""How the kernels of `tile_mask` share the tiles of all weights among programs."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from npas.kernels.combine.table import starts


@dataclass(frozen=True, slots=True)
class Chunks:
    """The tiles of all weights, one weight after the other, cut into chunks of one length.

    A segment is what a chunk holds of one weight.

    Attributes:
        segments: [segments, 6] int64: weight, its start in the output, its elements, first tile,
            end of the tiles, end of what is written (the zeros up to the next weight included; 0
            where the weight's last tile is not in the segment).
        first: [chunks + 1] int32: a chunk's segments are ``first[i]`` to ``first[i + 1]``.
        weights: [weights + 1, 2] int64: the weight's first tile among all, its first segment; last
            of all how many there are.
        n_tiles: tiles of all weights.
    """

    segments: torch.Tensor
    first: torch.Tensor
    weights: torch.Tensor
    n_tiles: int

    @property
    def n_chunks(self) -> int:
        """Chunks there are."""
        return len(self.first) - 1


# A list of sizes is a constant of the graph: its table is copied to its device once.
@functools.lru_cache(maxsize=1024)
def cut(sizes: tuple[int, ...], bank_size: int, length: int, device: torch.device) -> Chunks:
    """Cut the tiles of all weights into chunks.

    Args:
        sizes: elements of each weight.
        bank_size: N, elements of a tile.
        length: tiles of a chunk.
        device: where the kernels run.
    """
    places, size = starts(sizes)
    tiles = -(-np.array(sizes, dtype=np.int64) // bank_size)
    ends = np.cumsum(tiles)
    n_tiles = int(ends[-1])
    low = np.unique(np.concatenate([ends - tiles, np.arange(0, n_tiles, length)]))
    high = np.append(low[1:], n_tiles)
    weight = np.searchsorted(ends, low, side="right")
    before = (ends - tiles)[weight]
    written = np.array([*places[1:], size], dtype=np.int64) - np.array(places, dtype=np.int64)
    segments = np.stack(
        [
            weight,
            np.array(places, dtype=np.int64)[weight],
            np.array(sizes, dtype=np.int64)[weight],
            low - before,
            high - before,
            np.where(high == ends[weight], written[weight], 0),
        ],
        axis=1,
    )
    first = np.searchsorted(low, np.arange(0, n_tiles, length))
    of_weights = np.stack(
        [np.append(ends - tiles, n_tiles), np.searchsorted(weight, np.arange(len(sizes) + 1))],
        axis=1,
    )
    return Chunks(
        torch.from_numpy(segments).to(device),
        torch.from_numpy(np.append(first, len(low)).astype(np.int32)).to(device),
        torch.from_numpy(of_weights).to(device),
        n_tiles,
    )
