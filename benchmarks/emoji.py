"""Emoji: small drawings in two designs, each with a name; from two npm packages.

The packages are those of github.com/iamcal/emoji-data: its data are under the MIT licence, the
drawings of "google" (Noto) under Apache 2.0 and those of "twitter" (Twemoji) under CC BY 4.0.
Nothing is downloaded, and what was decoded is kept under build/data.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import DataError, cached
from benchmarks.sources import DOWNLOADS, Sources

VERSION = "16.0.0"
SIDE = 64


@dataclass(frozen=True, slots=True)
class Archive:
    """A package as npm has it.

    Attributes:
        design: whose drawings are in it.
        size: in bytes.
        sha256: of the file.
        n: base emoji in it: those without a skin tone of their own.
    """

    design: str
    size: int
    sha256: str
    n: int = 1_911

    @property
    def package(self) -> str:
        """Its name at npm."""
        return f"emoji-datasource-{self.design}"

    @property
    def file(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.package}-{VERSION}.tgz"


ARCHIVES = (
    Archive(
        "google", 74_344_091, "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
    Archive(
        "twitter", 61_683_754, "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
)
INSTALL = (
    f"in {DOWNLOADS}, or in a folder that --data names, run "
    f"`npm pack {' '.join(f'{archive.package}@{VERSION}' for archive in ARCHIVES)}`"
)


@dataclass(frozen=True, slots=True)
class Emoji:
    """The base emoji, in the order of the packages' emoji.json.

    Attributes:
        label: what results on them are called.
        names: such as ``"GRINNING FACE"``.
        short_names: of each, such as ``("santa",)``.
        categories: such as ``"Food & Drink"``.
        subcategories: such as ``"food-fruit"``.
        images: design -> [n, 3, 64, 64] uint8, on white.
    """

    label: str
    names: tuple[str, ...]
    short_names: tuple[tuple[str, ...], ...]
    categories: tuple[str, ...]
    subcategories: tuple[str, ...]
    images: Mapping[str, Tensor]


def emoji(sources: Sources, archives: tuple[Archive, ...] = ARCHIVES) -> Emoji:
    """Read the base emoji that are drawn in every design.

    Args:
        sources: where the archives are looked for.
        archives: one for each design; they say the same of the emoji.

    Raises:
        DataError: if an archive is not there, or not what it should be.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for archive in archives:
        path = sources.find(archive.file)
        if path is None or not path.is_file():
            raise DataError(f"emoji: {archive.file} is not there; {INSTALL}")
        name = f"emoji-{archive.design}-{SIDE}"
        found[archive.design] = cached(name, path, partial(_read, archive=archive))
    tables = [json.loads(str(arrays["table"])) for arrays in found.values()]
    if any(table != tables[0] for table in tables):
        raise DataError(f"emoji: the archives do not say the same of the emoji; {INSTALL}")
    table = tables[0]
    return Emoji(
        f"emoji {VERSION} ({', '.join(found)})",
        tuple(table["name"]),
        tuple(map(tuple, table["short_names"])),
        tuple(table["category"]),
        tuple(table["subcategory"]),
        {design: torch.from_numpy(arrays["images"]) for design, arrays in found.items()},
    )


def _read(path: Path, archive: Archive) -> dict[str, np.ndarray]:
    """Return ``images`` and, as one JSON text, the ``table`` of what is said of them."""
    _check(path, archive)
    rows, files = _unpacked(path, f"package/img/{archive.design}/{SIDE}/")
    missing = [row["image"] for row in rows if row["image"] not in files]
    if missing or len(rows) != archive.n:
        raise DataError(
            f"{path} has {len(rows):,} base emoji, {len(missing):,} of them without an image; "
            f"it must have {archive.n:,} with one; {INSTALL}"
        )
    keys = ("name", "short_names", "category", "subcategory")
    table = {key: [row[key] for row in rows] for key in keys}
    images = np.stack([_on_white(path, row["image"], files[row["image"]]) for row in rows])
    return {"images": images, "table": np.array(json.dumps(table))}


def _check(path: Path, archive: Archive) -> None:
    size = path.stat().st_size
    if size < archive.size:
        raise DataError(
            f"{path} has {size:,} bytes of {archive.size:,}: it is not whole; {INSTALL}"
        )
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if size > archive.size or digest != archive.sha256:
        raise DataError(
            f"{path} is not version {VERSION} as npm has it ({size:,} bytes, sha256 {digest[:16]}; "
            f"it must have {archive.size:,} and {archive.sha256[:16]}); {INSTALL}"
        )


def _unpacked(path: Path, folder: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the rows of emoji.json, and the files of a folder by their names."""
    rows: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                if member.name == "package/emoji.json":
                    rows = json.load(content)
                elif member.name.startswith(folder):
                    files[member.name.removeprefix(folder)] = content.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: {error}; {INSTALL}") from error
    return rows, files


def _on_white(path: Path, name: str, content: bytes) -> np.ndarray:
    """Return an image [3, 64, 64] uint8; whole numbers, so that it is the same everywhere."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(np.int32)
    if pixels.shape != (SIDE, SIDE, 4):
        raise DataError(f"{path}: {name} is {pixels.shape[1]}x{pixels.shape[0]}, not {SIDE}x{SIDE}")
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    blended = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return blended.astype(np.uint8).transpose(2, 0, 1)
