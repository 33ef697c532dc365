"""Rows of finished runs: one line of JSON each, kept so that a killed command goes on."""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any


def key_of(spec: Any) -> str:
    """Return a digest of what a run is, JSON values."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return key -> row. A last line without its end, of a run that was killed, is left out."""
    if not path.exists():
        return {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["key"]: row for row in rows}


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row with one write, so that it is there whole or not at all.

    What a killed command left of a line is cut off first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row) + "\n").encode()
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget(path: Path, keys: Collection[str]) -> None:
    """Take the rows of these keys out of a file, which is replaced as a whole."""
    if not path.exists():
        return
    left = [row for key, row in read_rows(path).items() if key not in keys]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in left), encoding="utf-8")
    part.replace(path)
