"""What the NPAS paper prints, to be put beside what is measured here.

benchmarks/paper.toml has the numbers of Plummer et al., "Neural Parameter Allocation Search" (ICLR
2022): Tables 1 to 16, and what the text says about cost. It also says what each word stands for.
This reads it.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("paper.toml")
#: Tables of budgets that `budgets` lists; the others ablate or add other work to an SSN.
BUDGET_TABLES = ("1", "2", "5", "6", "7", "8", "10", "11", "14", "15", "16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One printed number, and where it stands.

    Attributes:
        table: ``"1"`` to ``"16"``; the parts of 14 are ``"14(a)"`` to ``"14(c)"``.
        label: name of its row, as printed.
        column: name of its column, as printed; the budget where columns are budgets.
        network: name in this repository.
        task: data set; empty if the number is of the network alone.
        method: a word of paper.toml.
        budget: as printed, ``"4M"`` or ``"11.3%"`` of the original's parameters; or ``"4x"`` it.
        groups: parameter groups, 0 if none are printed.
        templates: templates, 0 if none are printed.
        measure: what is measured.
        unit: of ``value`` and ``std``.
        better: ``"lower"``, ``"higher"`` or, where neither is better, empty.
        value: the number.
        std: what stands behind its ±.
        printed: the number as printed, its ± included.
    """

    table: str
    label: str
    column: str
    network: str
    task: str = ""
    method: str
    budget: str
    groups: int = 0
    templates: int = 0
    measure: str
    unit: str
    better: str
    value: float
    std: float | None
    printed: str


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget at which the paper trains an SSN.

    Attributes:
        network: name in this repository.
        budget: as printed.
        tables: where it occurs, in the paper's order.
    """

    network: str
    budget: str
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A number of the running text.

    Attributes:
        key: its name in paper.toml.
        value: the number, the lower one of a range.
        unit: of ``value`` and ``high``.
        section: where it is said.
        high: the upper one of a range.
        said: how it is put, where that matters.
    """

    key: str
    value: float
    unit: str
    section: str
    high: float | None = None
    said: str = ""


def rows(
    table: str | None = None,
    *,
    network: str | None = None,
    task: str | None = None,
    method: str | None = None,
    budget: str | None = None,
    measure: str | None = None,
) -> list[Row]:
    """Return the printed numbers that have what is asked for, in the paper's order.

    Args:
        table: its number; ``"14"`` is all parts of 14.
        network: as in `Row`, and so on; None is any.
        task: a data set.
        method: a word of paper.toml.
        budget: as printed.
        measure: what is measured.
    """
    wanted = {
        "network": network,
        "task": task,
        "method": method,
        "budget": budget,
        "measure": measure,
    }
    wanted = {name: value for name, value in wanted.items() if value is not None}
    return [
        row
        for row in _rows()
        if table in (None, row.table, _number(row))
        and all(getattr(row, name) == value for name, value in wanted.items())
    ]


def budgets() -> list[Budget]:
    """Return each network and budget at which an SSN is trained in `BUDGET_TABLES`.

    They are as printed, so rounded: ``"4M"`` of WRN-28-10 is 11.3% in Table 14(b) and 10.3% in
    14(c). Table 14 has more digits as measure ``params``, in percent.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in _rows():
        if row.method.startswith("ssn") and _number(row) in BUDGET_TABLES:
            found.setdefault((row.network, row.budget), {})[row.table] = None
    return [Budget(network, budget, tuple(tables)) for (network, budget), tables in found.items()]


def n_params(budget: str, n_original: int) -> int:
    """Return how many parameters a printed budget stands for, to the digits printed.

    Args:
        budget: ``"4M"``, ``"11.3%"`` or ``"4x"``.
        n_original: parameters of the original network.

    Raises:
        ValueError: ``budget`` is none of these.
    """
    scales = {"M": 1e6, "%": n_original / 100, "x": n_original}
    number, unit = budget[:-1], budget[-1:]
    if unit not in scales:
        raise ValueError(f"{budget!r} is no budget: it ends in one of {', '.join(scales)}")
    return round(float(number) * scales[unit])


def claims() -> dict[str, Claim]:
    """Return the numbers of the running text by key."""
    return {key: Claim(key, **fields) for key, fields in _read(float)["claims"].items()}


def _number(row: Row) -> str:
    """Return ``"14"`` for a row of ``"14(a)"``."""
    return row.table.partition("(")[0]


def _read(parse_float: Callable[[str], float | str]) -> dict[str, Any]:
    with FILE.open("rb") as file:
        return tomllib.load(file, parse_float=parse_float)


@cache
def _rows() -> tuple[Row, ...]:
    # As text, since a float forgets that 4.00 was printed with two decimals.
    content = _read(str)
    found = []
    for table in content["tables"]:
        shared = {name: value for name, value in table.items() if name != "rows"}
        for line in table["rows"]:
            for cell in _cells(shared | line):
                printed = str(cell.pop("value"))
                value, _, std = printed.partition(" ± ")
                found.append(
                    Row(
                        **{"column": cell["budget"]} | cell | content["measures"][cell["measure"]],
                        value=float(value),
                        std=float(std) if std else None,
                        printed=printed,
                    )
                )
    return tuple(found)


def _cells(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a printed row into its numbers: a list has one entry for each, all else is shared."""
    n = len(line["value"])
    spread = [value if isinstance(value, list) else [value] * n for value in line.values()]
    return [dict(zip(line, cell, strict=True)) for cell in zip(*spread, strict=True)]
