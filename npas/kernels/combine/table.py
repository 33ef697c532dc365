"""The table that drives `combine`: five integers for each weight."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROW = 5


class Row(NamedTuple):
    """One weight: ``k`` windows of ``n`` elements of the bank, ``stride`` apart.

    Attributes:
        base: element of the bank at which the first template starts.
        stride: distance between the starts of two templates.
        k: number of templates.
        n: elements of the weight, and of each template.
        offset: index of the weight's first coefficient.
    """

    base: int
    stride: int
    k: int
    n: int
    offset: int


def rows_of(table: Sequence[int]) -> Iterator[Row]:
    """Yield the rows of a flat table."""
    for start in range(0, len(table), ROW):
        yield Row(*table[start : start + ROW])


def output_size(table: Sequence[int]) -> int:
    """Return the sum of the weights' sizes."""
    return sum(table[3::ROW])


def check_table(op: str, table: Sequence[int], bank_size: int, n_coefficients: int) -> None:
    """Check that every window and coefficient of a table is in bounds.

    Args:
        op: name for the message.
        table: flat rows of five.
        bank_size: N, elements of the bank.
        n_coefficients: C, coefficients there are.

    Raises:
        ValueError: naming the first row that is not, and the bound.
    """
    if not table or len(table) % ROW:
        raise ValueError(
            f"{op}: table must hold rows of {ROW} integers (base, stride, k, n, coef_offset), "
            f"found {len(table)} integers"
        )
    for index, row in enumerate(rows_of(table)):
        # With one template the stride is never used, and may be anything.
        smallest_stride = 1 if row.k > 1 else row.stride
        if row.base < 0 or row.offset < 0 or row.k < 1 or row.n < 1 or row.stride < smallest_stride:
            raise ValueError(
                f"{op}: row {index} of the table must have base and offset >= 0, and stride, k "
                f"and n >= 1, found {row}"
            )
        end = row.base + (row.k - 1) * row.stride + row.n
        if end > bank_size:
            raise ValueError(
                f"{op}: row {index} of the table ends at element {end} of a bank of "
                f"{bank_size}: {row}"
            )
        if row.offset + row.k > n_coefficients:
            raise ValueError(
                f"{op}: row {index} of the table reads coefficient {row.offset + row.k - 1} of "
                f"{n_coefficients}: {row}"
            )
