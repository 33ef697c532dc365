"""Rows of a long benchmark, one a case, so that it goes on where it was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.runner import environment

Row = dict[str, Any]


class Log:
    """A file of rows, each under the case that it is of."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self.rows = read(path)

    def find(self, case: Mapping[str, Any]) -> Row | None:
        """Return the row of a case, if it was run."""
        return next((row for row in self.rows if row["case"] == case), None)

    def add(self, case: Row, row: Row) -> Row:
        """Write a row, with where it was made."""
        row = {"case": case, **row, **environment(torch.device("cpu"))}
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        numbers = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
        print(json.dumps(case), numbers, flush=True)
        return row


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none where there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
