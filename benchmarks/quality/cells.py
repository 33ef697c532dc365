"""How the values of the quality suite are written."""

from collections.abc import Callable

from benchmarks.tables import Format


def points(value: float) -> str:
    """Write a share of 1 in percent points."""
    return f"{100 * value:.2f}"


def signed(value: float) -> str:
    """Write a difference in percent points."""
    return f"{100 * value:+.2f}"


def spread(write: Format) -> Callable[[tuple[float, float | None]], str]:
    """Return what writes a number and what stands behind its ±, where there is that."""

    def text(pair: tuple[float, float | None]) -> str:
        value, half = pair
        return write(value) if half is None else f"{write(value)} ± {points(half)}"

    return text


def yes(value: bool) -> str:
    """Write whether something holds."""
    return "yes" if value else "no"


def p_value(value: float) -> str:
    """Write a probability."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def family(name: str) -> str:
    """Return what stands before the slash of an experiment's name."""
    return name.partition("/")[0]


def part(name: str) -> str:
    """Return what stands after the slash of an experiment's name."""
    return name.partition("/")[2] or name
