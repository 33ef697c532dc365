"""Emoji are read from their archives, and refused where those are not what they should be."""

import hashlib
import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import data
from benchmarks.data import DataError
from benchmarks.emoji import ARCHIVES, VERSION, Archive, Emoji, emoji
from benchmarks.quality.tasks.pairs import pairs
from benchmarks.sources import Sources

pytestmark = pytest.mark.pure

DESIGNS = ("google", "twitter")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")


def row(name: str, image: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "short_names": [name.lower()],
        "category": "Symbols",
        "subcategory": "geometric",
    }


ROWS = [row("DOT", "a.png"), row("RING", "b.png")]


def png(alpha: int = 255, side: int = 64) -> bytes:
    content = io.BytesIO()
    Image.new("RGBA", (side, side), (200, 100, 0, alpha)).save(content, "PNG")
    return content.getvalue()


def package(folder: Path, design: str, files: dict[str, bytes]) -> Archive:
    """Write an archive of a design and return what is known of it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, inside in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(inside)
            archive.addfile(info, io.BytesIO(inside))
    return written(folder, design, content.getvalue())


def written(folder: Path, design: str, content: bytes, n: int = 2) -> Archive:
    known = Archive(design, len(content), hashlib.sha256(content).hexdigest(), n)
    (folder / known.file).write_bytes(content)
    return known


def content_of(design: str, rows: list[dict[str, Any]] = ROWS) -> dict[str, bytes]:
    images = {f"img/{design}/64/{row['image']}": png(255 - 155 * i) for i, row in enumerate(rows)}
    return {"emoji.json": json.dumps(rows).encode(), "README.md": b"not read", **images}


def both(folder: Path) -> tuple[Archive, ...]:
    return tuple(package(folder, design, content_of(design)) for design in DESIGNS)


def test_emoji_are_read_on_white_and_kept(tmp_path: Path, cached: None) -> None:
    archives = both(tmp_path)
    found = emoji(Sources((tmp_path,)), archives)
    assert found.names == ("DOT", "RING") and found.short_names == (("dot",), ("ring",))
    assert found.categories == ("Symbols",) * 2 and found.subcategories == ("geometric",) * 2
    assert list(found.images) == list(DESIGNS)
    for images in found.images.values():
        assert images.shape == (2, 3, 64, 64) and images.dtype == torch.uint8
        assert images[0, :, 5, 7].tolist() == [200, 100, 0]
        # 100 parts of 255 of the colour, and the rest white
        assert images[1, :, 5, 7].tolist() == [233, 194, 155]
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == 2
    again = emoji(Sources((tmp_path,)), archives)
    assert again.names == found.names
    assert kept == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_an_archive_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    command = "npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0"
    with pytest.raises(DataError, match=command) as raised:
        emoji(Sources((tmp_path,)))
    assert "build/downloads" in str(raised.value)
    assert "emoji-datasource-google-16.0.0.tgz is not there" in str(raised.value)


def test_half_an_archive_is_refused(tmp_path: Path, cached: None) -> None:
    archives = both(tmp_path)
    path = tmp_path / archives[1].file
    path.write_bytes(path.read_bytes()[: archives[1].size // 2])
    with pytest.raises(DataError, match=r"it is not whole; .*npm pack"):
        emoji(Sources((tmp_path,)), archives)


@pytest.mark.parametrize("longer", [0, 1])
def test_another_version_is_refused(tmp_path: Path, cached: None, longer: int) -> None:
    archives = both(tmp_path)
    path = tmp_path / archives[0].file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content) + b"\0" * longer)
    with pytest.raises(DataError, match=f"is not version {VERSION} as npm has it .*npm pack"):
        emoji(Sources((tmp_path,)), archives)


def test_what_is_missing_inside_is_told(tmp_path: Path, cached: None) -> None:
    files = content_of("google")
    del files["img/google/64/b.png"]
    archives = (package(tmp_path, "google", files),)
    with pytest.raises(DataError, match="has 2 base emoji, 1 of them without an image"):
        emoji(Sources((tmp_path,)), archives)
    archives = (package(tmp_path, "google", content_of("google", ROWS[:1])),)
    with pytest.raises(DataError, match=r"has 1 base emoji.* must have 2"):
        emoji(Sources((tmp_path,)), archives)
    files = content_of("google") | {"img/google/64/b.png": png(side=32)}
    archives = (package(tmp_path, "google", files),)
    with pytest.raises(DataError, match=r"b\.png is 32x32, not 64x64"):
        emoji(Sources((tmp_path,)), archives)


def test_what_is_no_archive_is_refused(tmp_path: Path, cached: None) -> None:
    archives = (written(tmp_path, "google", b"no archive" * 100),)
    with pytest.raises(DataError, match="npm pack"):
        emoji(Sources((tmp_path,)), archives)


def test_archives_must_say_the_same(tmp_path: Path, cached: None) -> None:
    other = content_of("twitter", [ROWS[0], row("CROSS", "b.png")])
    archives = (
        package(tmp_path, "google", content_of("google")),
        package(tmp_path, "twitter", other),
    )
    with pytest.raises(DataError, match="do not say the same"):
        emoji(Sources((tmp_path,)), archives)


@pytest.fixture(scope="module")
def real() -> Emoji:
    """Return the data themselves."""
    sources = Sources.of(())
    missing = [archive.file for archive in ARCHIVES if sources.find(archive.file) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not there")
    return emoji(sources)


def test_the_emoji(real: Emoji) -> None:
    assert len(real.names) == 1_911 and real.label == "emoji 16.0.0 (google, twitter)"
    place = real.names.index("FATHER CHRISTMAS")
    assert real.short_names[place] == ("santa",)
    assert real.subcategories[place] == "person-fantasy"
    for images in real.images.values():
        assert images.shape == (1_911, 3, 64, 64)
        assert images[place, :, 0, 0].tolist() == [255, 255, 255]


def test_the_emoji_that_are_used(real: Emoji) -> None:
    found = pairs(real)
    assert {name: len(places) for name, places in found.parts.items()} == {
        "train": 953,
        "validation": 245,
        "test": 446,
    }
    said = [{found.texts[i] for i in places} for places in found.parts.values()]
    assert not any(a & b for a, b in itertools.combinations(said, 2))
