"""What layers ask of a bank, where their templates lie in it, and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass

EMBEDDING = 24  # E of the paper
WINDOW = 9  # elements of a mask


@dataclass(frozen=True, slots=True)
class Demand:
    """What one layer asks of its bank.

    Attributes:
        n: elements of the weight.
        bank: index of the bank it is mapped to; indices run from 0 without gaps.
        downsample: ``wavg``, ``emb``, ``avg`` or ``rr``.
        upsample: ``mask``, ``inter`` or ``repeat``.
        k: most templates it may get; ``rr`` always has one.
        scale: whether it wants a learnable scalar where it has no learnable coefficient.
    """

    n: int
    bank: int
    downsample: str
    upsample: str
    k: int
    scale: bool

    @property
    def learns(self) -> bool:
        """Whether its templates are combined with coefficients that are learned."""
        return self.downsample in ("wavg", "emb")


@dataclass(frozen=True, slots=True)
class Block:
    """Where a layer's templates lie in its bank.

    Attributes:
        base: first element of the first template.
        stride: elements from one template to the next, 0 where it has at most one.
        k: templates; 0 where the layer is upsampled from the whole bank.
    """

    base: int
    stride: int
    k: int


@dataclass(frozen=True, slots=True)
class BankCost:
    """Trainable parameters of a bank, by what they are."""

    elements: int
    coefficients: int
    embeddings: int
    projection: int
    masks: int
    scales: int

    @property
    def total(self) -> int:
        """All of them."""
        return (
            self.elements
            + self.coefficients
            + self.embeddings
            + self.projection
            + self.masks
            + self.scales
        )


def mask_elements(n: int, n_bank: int) -> int:
    """Return the mask elements that a layer of ``n`` elements uses in a bank of ``n_bank``.

    Tile ``t >= 1`` multiplies by elements ``w * (t - 1) + position % w`` with
    ``w = min(9, n_bank)``; the last tile, of ``r`` elements, reads only ``min(w, r)`` (3.1.2).
    """
    if n <= n_bank:
        return 0
    tiles = -(-n // n_bank)
    window = min(WINDOW, n_bank)
    return window * (tiles - 2) + min(window, n - (tiles - 1) * n_bank)


def is_ordinary(sizes: Sequence[int], n_bank: int) -> bool:
    """Tell whether one layer fills the bank exactly: an ordinary parameter, no generation."""
    return len(sizes) == 1 and sizes[0] == n_bank


def bank_cost(demands: Sequence[Demand], blocks: Sequence[Block], n_bank: int) -> BankCost:
    """Return what a bank costs, exactly.

    Args:
        demands: its layers.
        blocks: their blocks, in the same order.
        n_bank: its elements.
    """
    ordinary = is_ordinary([d.n for d in demands], n_bank)
    coefficients = embeddings = most = masked = scales = 0
    for demand, block in zip(demands, blocks, strict=True):
        combined = block.k >= 2 and demand.learns
        if combined and demand.downsample == "wavg":
            coefficients += block.k
        elif combined:
            embeddings += EMBEDDING
            most = max(most, block.k)
        elif demand.scale and not ordinary:
            scales += 1
        if block.k == 0 and demand.upsample == "mask":
            masked = max(masked, demand.n)
    return BankCost(
        elements=n_bank,
        coefficients=coefficients,
        embeddings=embeddings,
        projection=(EMBEDDING + 1) * most,
        masks=mask_elements(masked, n_bank),
        scales=scales,
    )


def covered(blocks: Sequence[Block], sizes: Sequence[int], n_bank: int) -> bool:
    """Tell whether every element of a bank is used, and no window leaves it.

    This sweeps over the blocks and knows nothing of how they were placed. Blocks whose own
    templates leave gaps (a stride above the layer's size) are never made, and are refused.

    Args:
        blocks: one a layer.
        sizes: elements of each layer's weight.
        n_bank: elements of the bank.
    """
    spans: list[tuple[int, int]] = []
    for block, n in zip(blocks, sizes, strict=True):
        end = block.base + max(0, block.k - 1) * block.stride + n
        if block.k == 0:
            spans.append((0, n_bank))
        elif block.base < 0 or end > n_bank or not 0 <= block.stride <= n:
            return False
        else:
            spans.append((block.base, end))
    reached = 0
    for start, end in sorted(spans):
        if start > reached:
            return False
        reached = max(reached, end)
    return reached == n_bank
