"""Parameters and multiply-accumulates of every network, beside what is published."""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.ledger.flops import counted, names
from benchmarks.ledger.suite import Case, Rows, Suite
from benchmarks.networks import example_inputs, network
from benchmarks.networks.published import matches
from benchmarks.tables import Column, Row, Section, count


def rows_of(name: str) -> Rows:
    """Count one network."""
    spec = network(name)
    with torch.device("meta"):
        model = spec.make()
    n_params = sum(p.numel() for p in model.parameters())
    macs = counted(model.eval(), example_inputs(name, 1, "meta"))
    met = None if spec.published is None else matches(n_params, spec.published)
    return [
        {
            "network": name,
            "kind": spec.kind,
            "params": n_params,
            "published": spec.published,
            "met": met,
            "macs": macs,
            "source": spec.source,
        }
    ]


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one table."""
    note = (
        "Parameters, what is published, whether ours round to it, and multiply-accumulates of one "
        "sample (an image, a pair, a sequence) in evaluation, as `benchmarks.networks` gives it."
    )
    columns = [
        Column("network", "network"),
        Column("kind", "kind"),
        Column("parameters", "params", count),
        Column("published", "published"),
        Column("equal", "met", lambda met: "yes" if met else "no"),
        Column("MACs", "macs", count),
        Column("source", "source"),
    ]
    return [Section("Networks", note, columns, rows)]


SUITE = Suite(
    "networks",
    "Networks",
    lambda: [Case(name, partial(rows_of, name)) for name in names()],
    sections,
)
