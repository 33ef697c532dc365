"""Clean installs: python -m benchmarks.installs [NAME ...].

    NAME ...      rows (benchmarks/installs/rows.py); all of them by default
    --write       write benchmarks/results/installs.json and the table of docs/installing.md
    --page        write the table from the committed rows, install nothing
    --list        print the names

Builds the wheel and the source distribution of this checkout, and for each row makes an environment
in a temporary folder, installs npas with pip, tries it, and throws the environment away. Needs a
package index, up to 6 GB of disk for a CUDA build of PyTorch, and an interpreter of each version:
``python3.12`` on the path, or one that pyenv has. A row replaces the row of its name.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.installs.environment import build, measure
from benchmarks.installs.page import PAGE, write
from benchmarks.installs.rows import ROOT, ROWS
from benchmarks.runner import revision

RESULTS = ROOT / "benchmarks" / "results" / "installs.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a row does not work."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.installs", description=str(__doc__).partition("\n")[0]
    )
    names = [row.name for row in ROWS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help="write the rows and the page")
    parser.add_argument("--page", action="store_true", help="write the page from committed rows")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(names):
        parser.error(f"no row is named {', '.join(sorted(unknown))}; --list prints the names")
    if options.list:
        print(*names, sep="\n")
        return 0
    if options.page:
        write(merged([]), PAGE)
        return 0
    rows = []
    for row in run(options.names or names):
        rows.append(row)
        if options.write:
            RESULTS.write_text(json.dumps(merged([row]), indent=1) + "\n", encoding="utf-8")
            write(merged([]), PAGE)
    if not options.write:
        print(json.dumps(rows, indent=1))
    return 0 if all(row["works"] for row in rows) else 1


def run(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each name, measured now."""
    with tempfile.TemporaryDirectory(prefix="npas-built-") as scratch:
        built = build(Path(scratch))
        sizes = {
            "wheel_kb": round(built.wheel.stat().st_size / 1e3),
            "sdist_kb": round(built.sdist.stat().st_size / 1e3),
        }
        for row in (row for row in ROWS if row.name in names):
            print(f"{row.name}: {row.note}", file=sys.stderr)
            found = measure(row, built, interpreter(row.python))
            print(f"  {'works' if found['works'] else found}", file=sys.stderr)
            yield found | sizes | {"revision": revision()}


def interpreter(version: str) -> str:
    """Return the path of a Python of this version: on the path, or pyenv's newest."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"python{version}"
    if version == ours:
        return str(Path(sys.base_prefix, "bin", name))
    places = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))
    found = shutil.which(name)
    # What pyenv puts on the path refuses to run unless that version is chosen.
    if found is not None and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    return str(places[-1]) if places else name


def merged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the committed rows in the order of `ROWS`, these in place of those of their names."""
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    by_name = {row["name"]: row for row in [*old, *rows]}
    return [by_name[row.name] for row in ROWS if row.name in by_name]


if __name__ == "__main__":
    raise SystemExit(main())
