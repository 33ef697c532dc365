"""Tables of a summary, on the terminal and in docs/learning.md."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.stats import Difference, holm, mean_std, paired_difference
from benchmarks.tables import Column, Section, count, table_lines

PAGE = Path("docs/learning.md")
_MARK = "<!-- {} -->"
_END = "<!-- end -->"


def sections(summary: Mapping[str, Any]) -> dict[str, Section]:
    """Return a table for each experiment, by its name."""
    return {name: _section(made) for name, made in summary["experiments"].items()}


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_COLUMNS = (
    Column("", "arm"),
    Column("learning rate", "lr", lambda value: f"{value:g}"),
    Column("banks", "n_banks", count),
    Column("parameters", "n_params", count),
    Column("upsampled layers", "upsampled", lambda value: f"{value:.1f}"),
    Column("seeds", "seeds"),
    Column("accuracy, %", "mean", _points),
    Column("std", "std", _points),
    Column("difference", "difference", _signed),
    Column("± (95%)", "half", _points),
    Column("resolved", "resolved", _yes),
    Column("p (Holm)", "p", lambda value: f"{value:.3f}"),
    Column("to {also}", "also_difference", _signed),
    Column("± (95%)", "also_half", _points),
    Column("search time", "search", lambda value: f"{value:.1%}"),
    Column("agreement", "agreement", lambda value: f"{value:.2f}"),
)


def _section(experiment: Mapping[str, Any]) -> Section:
    arms = {arm: best(cases) for arm, cases in experiment["arms"].items() if cases}
    references = [arms.get(experiment[key]) for key in ("baseline", "also")]
    rows = [_row(arm, case, *references) for arm, case in arms.items()]
    adjusted = holm({row["arm"]: row["p"] for row in rows if row["p"] is not None})
    for row in rows:
        row["p"] = adjusted.get(row["arm"])
    grid = any(len(cases) > 1 for cases in experiment["arms"].values())
    hidden = {key for key in ("agreement", "upsampled") if len({row[key] for row in rows}) == 1}
    hidden |= set() if grid else {"lr"}
    shown = [
        replace(column, head=column.head.format(also=experiment["also"]))
        for column in _COLUMNS
        if column.key not in hidden and any(row[column.key] is not None for row in rows)
    ]
    note = f"{experiment['note']} Differences are to `{experiment['baseline']}`."
    return Section(experiment["title"], note, shown, rows)


def best(cases: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the case with the best mean accuracy, of those with the most seeds."""
    return max(cases, key=lambda c: (len(c["accuracy"]), mean_std(_by_seed(c))[0]))


def _by_seed(case: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): value for seed, value in case["accuracy"].items()}


def _row(
    arm: str,
    case: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    also: Mapping[str, Any] | None,
) -> dict[str, Any]:
    mean, std = mean_std(_by_seed(case))
    found, other = _difference(case, baseline), _difference(case, also)
    return {
        "arm": arm,
        "lr": case["recipe"]["lr"],
        "n_banks": case["n_banks"] or None,
        "n_params": case["n_params"],
        "upsampled": case["upsampled"],
        "seeds": len(case["accuracy"]),
        "mean": mean,
        "std": std,
        "difference": found and found.mean,
        "half": found and found.half,
        "resolved": found and found.resolved,
        "p": found and found.p,
        "also_difference": other and other.mean,
        "also_half": other and other.half,
        "search": case["search_cpu_s"] / case["train_cpu_s"] if case["search_steps"] else None,
        "agreement": case["agreement"],
    }


def _difference(case: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Difference | None:
    """Return the difference to a reference; None for itself, and for fewer than two pairs."""
    if reference is None or case is reference:
        return None
    found = paired_difference(_by_seed(case), _by_seed(reference))
    return found if found is not None and found.n > 1 else None


def where(summary: Mapping[str, Any]) -> str:
    """Return what the runs were made with, in a sentence."""
    found = {key: ", ".join(values) for key, values in summary["made with"].items()}
    return (
        f"Made by `{summary['command']}` on {found['data']}, with PyTorch {found['torch']} and "
        f"Python {found['python']}, on {found['threads']} thread a run."
    )


def fill(page: str, summary: Mapping[str, Any]) -> str:
    """Return the page with its tables written anew: what stands between an experiment's marks.

    Raises:
        ValueError: if an experiment of the summary has no mark on the page.
    """
    parts = {"made": [where(summary)]}
    for name, section in sections(summary).items():
        parts[name] = [section.note, "", *table_lines(section)]
    for name, lines in parts.items():
        head, mark, rest = page.partition(_MARK.format(name))
        _, end, tail = rest.partition(_END)
        if not mark or not end:
            raise ValueError(f"the page has no {_MARK.format(name)} with {_END} after it")
        page = "\n".join([head + mark, *lines, end + tail])
    return page
