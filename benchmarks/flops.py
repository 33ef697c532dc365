"""Multiply-accumulates with npas and with its peers: ``python -m benchmarks.flops``.

For each network, at each budget of the paper: parameters, multiply-accumulates of the network and
of generation, and the overhead at each batch size, in training (``train``: a forward pass;
``step``: forward and backward) and in evaluation. One multiply-accumulate counts once, and all are
of one sample. ``--json`` prints ``{"rows": [...]}``; a peer that cannot do with a budget has a row
whose ``params`` are null and whose ``note`` says why.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.ledger import flops
from benchmarks.tables import show
from npas.errors import NpasError
from npas.naming import nearest


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.flops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print rows as JSON")
    made.add_argument("--network", nargs="+", metavar="NAME", help="by default all of the paper's")
    made.add_argument("--method", nargs="+", metavar="NAME", help=", ".join(flops.METHODS))
    made.add_argument("--batch", default="1,64", help="batch sizes, with commas")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    try:
        batches = _batches(options.batch)
        chosen = _known("network", options.network, flops.names())
        methods = _known("method", options.method, flops.METHODS)
    except NpasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for name in chosen:
        rows += flops.rows_of(name, batches, methods)
    if options.json:
        print(json.dumps({"rows": rows}))
    else:
        show(Console(width=170), flops.sections(rows))
    return 0


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise NpasError(f"--batch {text!r} must be whole numbers of at least 1, with commas")
    return list(dict.fromkeys(found))


def _known(what: str, names: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    for name in names or ():
        if name not in known:
            raise NpasError(f"no {what} {name!r}{nearest(name, known)}; use {', '.join(known)}")
    return list(names or known)


if __name__ == "__main__":
    sys.exit(main())
