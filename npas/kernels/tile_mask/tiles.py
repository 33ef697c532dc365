"""How a weight larger than its bank is cut into tiles, and the sizes that follow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from npas.kernels.checks import check_vectors

WINDOW = 9


@dataclass(frozen=True, slots=True)
class Run:
    """``tiles`` tiles of ``width`` elements from the ``first``-th tile on."""

    first: int
    tiles: int
    width: int


def window_of(bank_size: int) -> int:
    """Return w, the mask's window: 9 (3.1.2), or the bank's size where that is less."""
    return min(WINDOW, bank_size)


def mask_size(bank_size: int, n: int) -> int:
    """Return how many mask elements a weight of ``n`` reads: a window a tile, the last cut off."""
    tiles = -(-n // bank_size)
    window = window_of(bank_size)
    return window * (tiles - 2) + min(window, n - (tiles - 1) * bank_size)


def runs(bank_size: int, n: int) -> Iterator[Run]:
    """Yield the first tile, the other full tiles, and the ragged last one, where there is one."""
    full, rest = divmod(n, bank_size)
    yield Run(0, 1, bank_size)
    if full > 1:
        yield Run(1, full - 1, bank_size)
    if rest:
        yield Run(full, 1, rest)


def check_tiles(
    op: str, theta: torch.Tensor, mask: torch.Tensor, coef: torch.Tensor, sizes: Sequence[int]
) -> None:
    """Check the arguments that `tile_mask` and `gather_tile_mask` share.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, a weight is not larger than
            the bank, or the mask is shorter than a weight needs.
    """
    check_vectors(op, theta=theta, mask=mask, coef=coef)
    if not sizes or coef.numel() != len(sizes):
        raise ValueError(
            f"{op}: coef must have one element for each of the {len(sizes)} weights (at least "
            f"one), found shape {tuple(coef.shape)}"
        )
    bank_size = theta.numel()
    for n in sizes:
        if not 0 < bank_size < n:
            raise ValueError(
                f"{op}: n must be larger than the bank, found n = {n} and a bank of {bank_size}; "
                "a smaller weight is a template (combine)"
            )
        if mask.numel() and mask.numel() < mask_size(bank_size, n):
            raise ValueError(
                f"{op}: a weight of {n} on a bank of {bank_size} needs a mask of at least "
                f"{mask_size(bank_size, n)} elements (or of none, to repeat), found {mask.numel()}"
            )
