"""Which architectures npas compiles, and how: python -m benchmarks.coverage.

    --only PATTERN    architectures whose name the expression is found in
    --json            print {"rows": [...]} instead of tables
    --write           write docs/compatibility.md from every row that is kept
    --fresh           forget the rows of earlier runs; without it a run goes on where one stopped

A row is one tiny model of a real architecture: the front end that captured its root, what share of
the allocated weights its graph generates, compile time against the front end's own tracing time,
whether it compiles at 10% and 100%, whether 100% with own banks is the original bit for bit,
whether the loss falls in 20 steps at 10%, and whether `generate` works after `compile_`. Rows are
kept in build/coverage.jsonl as they end, so that a run can be stopped.
"""

import argparse
import contextlib
import copy
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import npas
from benchmarks.architectures import architectures
from benchmarks.networks import NETWORKS, REFERENCE, example_inputs
from benchmarks.runner import environment, revision
from benchmarks.tables import Column, Row, Section, markdown, percent, show
from npas.passes.export import export
from npas.passes.trace import trace
from npas.structures import flatten

KEPT = Path("build/coverage.jsonl")
PAGE = Path("docs/compatibility.md")
STEPS = 20
# AdamW's learning rate; the second where the loss does not fall with the first.
RATES = (3e-3, 3e-4)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to compile, and what to call it with."""

    name: str
    family: str
    make: Callable[[], nn.Module]
    kwargs: Callable[[], dict[str, Any]]
    args: Callable[[], tuple[Any, ...]]
    loss: Callable[[Any], Tensor]
    generates: bool


def subjects(pattern: str | None) -> list[Subject]:
    """Return the reference networks and the architectures of transformers."""
    found = [
        Subject(
            f"reference:{name}",
            "reference network",
            NETWORKS[name].make,
            dict,
            lambda name=name: example_inputs(name),
            lambda out: flatten(out)[0][0].float().square().mean(),
            False,
        )
        for name in REFERENCE
        if name != "wrn-28-10"  # wrn-16-2 in large: a gigabyte and a minute for the same row
    ]
    found += [
        Subject(a.name, a.family, a.make, lambda a=a: a.inputs(2), tuple, a.loss, a.generates)
        for a in architectures()
    ]
    return _in_turns([s for s in found if pattern is None or re.search(pattern, s.name)])


def _in_turns(found: Sequence[Subject]) -> list[Subject]:
    """Take one of each family after the other, so that what a stopped run has is balanced."""
    place: dict[str, int] = {}
    keys: list[int] = []
    for subject in found:
        keys.append(place.get(subject.family, 0))
        place[subject.family] = keys[-1] + 1
    return [subject for _, subject in sorted(zip(keys, found, strict=True), key=lambda k: k[0])]


def measure(subject: Subject) -> Row:
    """Compile one model in every way, and return its row; errors become notes."""
    row: dict[str, Any] = {"name": subject.name, "family": subject.family, "notes": []}
    row["revision"] = revision()
    model = subject.make()
    args, kwargs = subject.args(), subject.kwargs()
    examples = {"example_inputs": args, "example_kwargs": kwargs}
    row["params"] = sum(p.numel() for p in model.parameters())
    with _noted(row, "100%"):
        start = time.perf_counter()
        ssn = npas.compile(model, "100%", groups="own", **examples)
        row["compile_s"] = time.perf_counter() - start
        report = npas.report(ssn)
        row["front_end"], row["visible"] = report.front_end, report.visible
        row["tried"] = list(report.tried)
        row["own"] = True
        row["identical"] = _identical(model, ssn, args, kwargs)
        if npas.report(ssn).fallbacks:
            row["notes"].append(f"without the graph: {'; '.join(npas.report(ssn).fallbacks)}")
    if "front_end" in row:
        row["tracing_s"] = _tracing_s(row["front_end"], model, args, kwargs)
        row["ratio"] = row["compile_s"] / row["tracing_s"]
        row["slow"] = row["compile_s"] > 3 * row["tracing_s"] + 0.5
    with _noted(row, "10%"):
        plan, budget = _smallest_plan(model, examples)
        row["budget"] = budget
        for rate in RATES:
            ssn = npas.compile(model, plan=plan, **examples)
            row["first_loss"], row["last_loss"] = _train(subject, ssn, args, kwargs, rate)
            row["falls"], row["rate"] = row["last_loss"] < row["first_loss"], rate
            if row["falls"]:
                break
    if subject.generates and "budget" in row:
        row["generates"] = False
        with _noted(row, "generate"):
            changed = npas.compile_(copy.deepcopy(model), plan=plan)
            row["generates"] = _generates(changed, kwargs)
            if not row["generates"] and not _generates(copy.deepcopy(model), kwargs):
                row["generates"] = None
                row["notes"].append("generate: the original cannot with these inputs either")
    return row


def _smallest_plan(model: nn.Module, examples: dict[str, Any]) -> tuple[npas.Plan, str]:
    """Return a plan for 10%, or for the smallest budget where fixed parameters need more."""
    try:
        return npas.plan(model, "10%", **examples), "10%"
    except npas.BudgetError as error:
        if error.smallest is None:
            raise
        plan = npas.plan(model, error.smallest, **examples)
        return plan, f"{plan.n_params / plan.n_dense:.0%}"


def _identical(model: nn.Module, ssn: nn.Module, args: Any, kwargs: Any) -> bool:
    """Compare outputs and buffers bit for bit in both modes."""
    same = True
    original = copy.deepcopy(model)
    for mode in (True, False):
        found: list[list[Tensor]] = []
        for module in (original, ssn):
            torch.manual_seed(0)
            with torch.no_grad():
                outputs, _ = flatten(module.train(mode)(*args, **kwargs), objects=True)
            found.append([*outputs, *(b for _, b in _buffers(module))])
        same &= len(found[0]) == len(found[1])
        same &= all(torch.equal(a, b) for a, b in zip(*found, strict=False))
    ssn.train()
    return same


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, b) for n, b in module.named_buffers() if not n.startswith("npas.")]


def _tracing_s(front_end: str, model: nn.Module, args: Any, kwargs: Any) -> float:
    """Time what the front end takes to capture both modes, warm; for opaque, what was tried."""
    start = time.perf_counter()
    if front_end in ("fx", "opaque"):
        with contextlib.suppress(npas.TraceError):
            trace(model, args, kwargs)
    if front_end in ("export", "opaque"):
        with contextlib.suppress(npas.TraceError):
            export(model, args, kwargs)
    return time.perf_counter() - start


def _train(
    subject: Subject, ssn: nn.Module, args: Any, kwargs: Any, rate: float
) -> tuple[float, float]:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(npas.param_groups(ssn), lr=rate)
    losses: list[float] = []
    for _ in range(STEPS):
        loss = subject.loss(ssn(*args, **kwargs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3


def _generates(model: Any, kwargs: dict[str, Any]) -> bool:
    """Generate three tokens, with a cache or, where the model has none, without."""
    given = {n: v for n, v in kwargs.items() if n not in ("labels", "decoder_input_ids")}
    for use_cache in (True, False):
        torch.manual_seed(0)
        with contextlib.suppress(Exception), torch.no_grad():
            model.eval().generate(**given, max_new_tokens=3, do_sample=False, use_cache=use_cache)
            return True
    return False


@contextlib.contextmanager
def _noted(row: dict[str, Any], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        row["notes"].append(f"{what}: {type(error).__name__}: {first[:160]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.fresh:
        KEPT.unlink(missing_ok=True)
    console = Console(stderr=True)
    rows = {row["name"]: row for row in _kept()}
    wanted = subjects(arguments.only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, subject in enumerate(wanted):
            if subject.name in rows:
                continue
            row = measure(subject)
            rows[subject.name] = row
            KEPT.parent.mkdir(exist_ok=True)
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            front = row.get("front_end", "-")
            console.print(
                f"{number + 1}/{len(wanted)} {subject.name}: {front} {row['notes'] or ''}"
            )
    chosen = [rows[subject.name] for subject in wanted if subject.name in rows]
    if arguments.json:
        print(json.dumps({"environment": environment(torch.device("cpu")), "rows": chosen}))
    elif not arguments.write:
        show(Console(), sections(chosen))
    if arguments.write:
        command = "python -m benchmarks.coverage --write"
        where = ", ".join(f"{k} {v}" for k, v in environment(torch.device("cpu")).items())
        text = markdown("Compatibility", command, where, sections(list(rows.values())))
        PAGE.write_text(text, encoding="utf-8")


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return the tables: a summary of each family, and every architecture."""
    families = dict.fromkeys(row["family"] for row in rows)
    summary = [_summary(name, [r for r in rows if r["family"] == name]) for name in families]
    summary.append(_summary("all", rows))
    shown = [
        {
            **row,
            "budget": row.get("budget"),
            "losses": _losses(row),
            "says": "; ".join(row["notes"]) or "",
        }
        for row in rows
    ]
    return [
        Section(
            "Families",
            "Architectures with their root in a graph (fx or export), compiled at 10% (or at the "
            "smallest usable budget, where the parameters that are kept are more) and at 100%, "
            "equal to the original bit for bit at 100% with own banks, with a loss that falls in "
            f"{STEPS} steps of AdamW at 10%, and that generate after compile_ of those that can.",
            [
                Column("family", "family"),
                Column("architectures", "count"),
                Column("fx", "fx"),
                Column("export", "export"),
                Column("opaque", "opaque"),
                Column("root visible", "root", percent),
                Column("weights visible", "visible", percent),
                Column("at 10%", "at_10"),
                Column("at 100%", "at_100"),
                Column("bit-equal", "identical"),
                Column("loss falls", "falls"),
                Column("generate", "generates"),
                Column("compile / tracing, median", "ratio", "{:.2f}".format),
                Column("over 3x + 0.5 s", "slow"),
            ],
            summary,
        ),
        Section(
            "Architectures",
            "Tiny models, made by rule from the configuration's own defaults. Visible: share of "
            "the allocated weights that the graph generates; the others are made by their modules. "
            "Ratio: time of compile at 100%, planning and comparison included, to the front end's "
            "own time to trace both modes.",
            [
                Column("architecture", "name"),
                Column("family", "family"),
                Column("front end", "front_end"),
                Column("visible", "visible", percent),
                Column("compile s", "compile_s", "{:.2f}".format),
                Column("tracing s", "tracing_s", "{:.2f}".format),
                Column("ratio", "ratio", "{:.2f}".format),
                Column("bit-equal", "identical", _yes),
                Column("low budget", "budget"),
                Column("loss", "losses"),
                Column("generate", "generates", _yes),
                Column("notes", "says"),
            ],
            shown,
        ),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _losses(row: Row) -> str | None:
    if "last_loss" not in row:
        return None
    rate = "" if row.get("rate", RATES[0]) == RATES[0] else f" (rate {row['rate']:g})"
    return f"{row['first_loss']:.3f} to {row['last_loss']:.3f}{rate}"


def _summary(family: str, rows: Sequence[Row]) -> Row:
    fronts = [row.get("front_end") for row in rows]
    roots = sum(front in ("fx", "export") for front in fronts)
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    can = [row for row in rows if row.get("generates") is not None]
    return {
        "family": family,
        "count": len(rows),
        **{front: fronts.count(front) for front in ("fx", "export", "opaque")},
        "root": roots / len(rows),
        "visible": sum(row.get("visible", 0.0) for row in rows) / len(rows),
        "at_10": sum("last_loss" in row for row in rows),
        "at_100": sum("front_end" in row for row in rows),
        "identical": sum(bool(row.get("identical")) for row in rows),
        "falls": sum(bool(row.get("falls")) for row in rows),
        "generates": f"{sum(bool(r.get('generates')) for r in can)} of {len(can)}",
        "ratio": statistics.median(ratios) if ratios else None,
        "slow": sum(bool(row.get("slow")) for row in rows),
    }


def _kept() -> list[Row]:
    if not KEPT.exists():
        return []
    return [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
