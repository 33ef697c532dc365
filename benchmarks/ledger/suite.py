"""What the ledger is made of: suites of cases, each of which returns rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables import Row, Section

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        name: unique within its suite.
        run: returns its rows; it asserts that what it measures is right before it measures.
    """

    name: str
    run: Callable[[], Rows]


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of rows.

    Attributes:
        name: of its file, without the ending.
        title: what it shows, also read out to those who do not see it.
        draw: makes the figure (matplotlib) from the suite's rows.
    """

    name: str
    title: str
    draw: Callable[[Sequence[Row]], Any]


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases whose rows stand in the same tables.

    Attributes:
        name: as the command line takes it.
        title: what it measures.
        cases: makes them, so that listing one suite does not load the libraries of another.
        sections: tables of rows.
        plots: pictures of rows.
        environ: variables that its cases' processes need from their start.
    """

    name: str
    title: str
    cases: Callable[[], Sequence[Case]]
    sections: Callable[[Sequence[Row]], list[Section]]
    plots: tuple[Plot, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def committed(self) -> Path:
        """Where its summary is."""
        return Path("benchmarks/results") / f"{self.name}.json"
