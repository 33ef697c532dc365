"""How a flat bank is read as the image that is resized to a weight."""

import math

import torch

from npas.kernels.checks import check_scalar, check_vectors


def grid_of(bank_size: int, rows: int, cols: int) -> tuple[int, int]:
    """Return the grid (r, c) as which a bank is read to be resized to [rows, cols].

    The grid has about the weight's proportions, and neither more rows nor more columns than the
    weight, so that every grid point has a weight above zero in some element. It has room for the
    bank; element (i, j) is ``theta[(i * c + j) % N]``, so the few points beyond the bank's end
    repeat its beginning.

    Args:
        bank_size: N, at most ``rows * cols``.
        rows: of the weight.
        cols: of the weight.
    """
    r = min(max(round(math.sqrt(bank_size * rows / cols)), 1), rows)
    c = -(-bank_size // r)
    if c > cols:
        r = -(-bank_size // cols)
        c = -(-bank_size // r)
    return r, c


def as_grid(theta: torch.Tensor, r: int, c: int) -> torch.Tensor:
    """Return the bank [N] as [r, c], its beginning repeated at the end where points are left."""
    copies = -(-r * c // theta.numel())
    return theta.repeat(copies)[: r * c].view(r, c)


def check_grid(op: str, theta: torch.Tensor, coef: torch.Tensor, rows: int, cols: int) -> None:
    """Check the arguments of `interpolate`.

    Raises:
        ValueError: if a tensor has the wrong shape, device or dtype, or the weight is smaller than
            the bank, so that not every element would be used.
    """
    check_vectors(op, theta=theta, coef=coef)
    check_scalar(op, coef)
    if rows < 1 or cols < 1 or not 0 < theta.numel() <= rows * cols:
        raise ValueError(
            f"{op}: rows * cols must be at least the bank's size, found {rows} * {cols} and a "
            f"bank of {theta.numel()}"
        )
