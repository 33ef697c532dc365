"""The table that drives `combine`: five integers for each weight."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROW = 5
# Weights start at multiples of 16 elements in the output: 128-bit stores in every dtype.
ALIGN = 16
#: ``coef_offset`` of a row whose coefficients are not learned: each is 1 / k.
AVERAGE = -1


class Row(NamedTuple):
    """One weight: ``k`` windows of ``n`` elements of the bank, ``stride`` apart.

    Attributes:
        base: element of the bank at which the first template starts.
        stride: distance between the starts of two templates.
        k: number of templates.
        n: elements of the weight, and of each template.
        offset: index of the weight's first coefficient, or `AVERAGE`.
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


def starts(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return where each weight starts in the flat output, and how long the output is.

    Args:
        sizes: elements of each weight.
    """
    found: list[int] = []
    end = 0
    for size in sizes:
        start = -(-end // ALIGN) * ALIGN
        found.append(start)
        end = start + size
    return tuple(found), end


def output_size(table: Sequence[int]) -> int:
    """Return the length of the flat output: the weights' sizes and what aligns their starts."""
    return starts(table[3::ROW])[1]


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
    bank_needed, coefficients_needed = _needs(op, tuple(table))
    if bank_needed <= bank_size and coefficients_needed <= n_coefficients:
        return
    for index, row in enumerate(rows_of(table)):
        if _end(row) > bank_size:
            raise ValueError(
                f"{op}: row {index} of the table ends at element {_end(row)} of a bank of "
                f"{bank_size}: {row}"
            )
        if row.offset != AVERAGE and row.offset + row.k > n_coefficients:
            raise ValueError(
                f"{op}: row {index} of the table reads coefficient {row.offset + row.k - 1} of "
                f"{n_coefficients}: {row}"
            )


def _end(row: Row) -> int:
    return row.base + (row.k - 1) * row.stride + row.n


# Called at every launch with the same few tables: 2,000 rows take 1.5 ms to check.
@functools.lru_cache(maxsize=4096)
def _needs(op: str, table: tuple[int, ...]) -> tuple[int, int]:
    """Check the rows by themselves; return how large bank and coefficients must be."""
    if not table or len(table) % ROW:
        raise ValueError(
            f"{op}: table must hold rows of {ROW} integers (base, stride, k, n, coef_offset), "
            f"found {len(table)} integers"
        )
    for index, row in enumerate(rows_of(table)):
        # With one template the stride is never used, and may be anything.
        stride = row.stride if row.k > 1 else 1
        if min(row.base, row.offset - AVERAGE, row.k - 1, row.n - 1, stride - 1) < 0:
            raise ValueError(
                f"{op}: row {index} of the table must have base >= 0, stride, k and n >= 1, and "
                f"coef_offset >= 0 (or {AVERAGE} to average), found {row}"
            )
    coefficients = (row.offset + row.k for row in rows_of(table) if row.offset != AVERAGE)
    return max(map(_end, rows_of(table))), max(coefficients, default=0)
