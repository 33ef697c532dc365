"""Image sets, as tensors: CIFAR-10, Fashion-MNIST and scikit-learn's digits.

Nothing is downloaded: CIFAR-10 is read from where ``--data`` says, Fashion-MNIST from Debian's
package. What took long to decode is kept under build/data.
"""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CACHE = Path("build/data")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DATA_HELP = (
    "--data takes CIFAR-10 as a folder or zip of train/<class>/*.jpg and test/<class>/*.jpg, or as "
    "the python archive cifar-10-python.tar.gz"
)


class DataError(Exception):
    """A data set is not there, or not what it should be; says how to get it."""


@dataclass(frozen=True, slots=True)
class Images:
    """A data set.

    Attributes:
        label: what results on it are called.
        train_x: [n, channels, height, width] uint8.
        train_y: [n] int64 classes from 0.
        test_x: as train_x.
        test_y: as train_y.
    """

    label: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


_Arrays = dict[str, np.ndarray]


def cifar10(source: Path | None, sizes: tuple[int, int] = (50_000, 10_000)) -> Images:
    """Read CIFAR-10, [n, 3, 32, 32].

    Args:
        source: a folder or zip of JPEG files, or the python archive.
        sizes: images of training and of test that must be there, as many of each class.

    Raises:
        DataError: if there is nothing, or not what should be there.
    """
    if source is None or not source.exists():
        raise DataError(f"CIFAR-10 is not at {source}; {DATA_HELP}")
    if source.is_file() and tarfile.is_tarfile(source):
        label, read = "CIFAR-10", _python_archive
    elif source.is_dir() or zipfile.is_zipfile(source):
        # JPEG loses a little: these images are not bit for bit the published ones.
        label, read = "CIFAR-10 (JPEG copy)", _jpeg_files
    else:
        raise DataError(f"{source} is no folder, zip or tar; {DATA_HELP}")
    return _images(label, cached("cifar10", source, read), sizes)


def fashion_mnist(source: Path | None = None, sizes: tuple[int, int] = (60_000, 10_000)) -> Images:
    """Read Fashion-MNIST, [n, 1, 28, 28].

    Args:
        source: folder of the four gz files; by default Debian's.
        sizes: images of training and of test that must be there, as many of each class.

    Raises:
        DataError: if there is nothing, or not what should be there.
    """
    source = FASHION_MNIST if source is None else source
    arrays: _Arrays = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for key, kind, offset in (("x", "images-idx3", 16), ("y", "labels-idx1", 8)):
            path = source / f"{prefix}-{kind}-ubyte.gz"
            if not path.exists():
                raise DataError(
                    f"Fashion-MNIST: {path} is not there; install it with "
                    "`apt-get install -y dataset-fashion-mnist`"
                )
            try:
                content = gzip.decompress(path.read_bytes())
            except (OSError, EOFError) as error:
                raise DataError(f"{path}: {error}") from error
            values = np.frombuffer(content, np.uint8, offset=min(offset, len(content)))
            if key == "x" and len(values) % 784:
                raise DataError(f"{path}: {len(values)} bytes are not images of 28x28")
            arrays[f"{part}_{key}"] = values.reshape(-1, 1, 28, 28) if key == "x" else values
    return _images("Fashion-MNIST", arrays, sizes)


def digits(source: Path | None = None) -> Images:
    """Read scikit-learn's 1,797 handwritten digits, [n, 1, 8, 8]; every fifth is for testing."""
    from sklearn.datasets import load_digits

    del source
    loaded: Any = load_digits()
    x = (loaded.images * (255 / 16)).round().astype(np.uint8)[:, None]
    y, test = loaded.target.astype(np.int64), np.arange(len(x)) % 5 == 4
    split = (x[~test], y[~test], x[test], y[test])
    return Images("scikit-learn's digits", *(torch.from_numpy(part.copy()) for part in split))


IMAGES: dict[str, Callable[[Path | None], Images]] = {
    "cifar10": cifar10,
    "fashion-mnist": fashion_mnist,
    "digits": digits,
}


def load(name: str, source: Path | None = None) -> Images:
    """Read a data set by its name in `IMAGES`.

    Raises:
        DataError: as the loader does, or if there is no such set.
    """
    if name not in IMAGES:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(IMAGES)}")
    return IMAGES[name](source)


def _images(label: str, arrays: _Arrays, sizes: tuple[int, int]) -> Images:
    tensors: list[Tensor] = []
    for part, size in zip(("train", "test"), sizes, strict=True):
        x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
        counts = np.bincount(y, minlength=10)
        if len(x) != size or len(counts) != 10 or (counts != size // 10).any():
            raise DataError(
                f"{label}: {part} has {len(x)} images and labels {counts.tolist()}; it must have "
                f"{size}, as many of each of 10 classes"
            )
        tensors += [torch.from_numpy(x.copy()), torch.from_numpy(y.astype(np.int64))]
    return Images(label, *tensors)


def cached(name: str, source: Path, read: Callable[[Path], _Arrays]) -> _Arrays:
    """Return what a reader makes of a source, decoded once for each state of its files."""
    files = sorted(source.rglob("*.jpg")) if source.is_dir() else [source]
    state = [(p.name, (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    digest = hashlib.sha256(repr((str(source.resolve()), state)).encode()).hexdigest()[:16]
    kept = CACHE / f"{name}-{digest}.npz"
    if not kept.exists():
        arrays = read(source)
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: another process may be looking for it.
        part = kept.with_suffix(f".{id(arrays)}.part.npz")
        np.savez(part, **arrays)  # type: ignore[arg-type]
        part.replace(kept)
    with np.load(kept, allow_pickle=False) as loaded:
        return dict(loaded)


def _jpeg_files(source: Path) -> _Arrays:
    """Decode ``<part>/<class>/*.jpg``, in the order of their names."""
    from PIL import Image

    found: dict[str, list[Any]] = {
        f"{part}_{key}": [] for part in ("train", "test") for key in "xy"
    }
    for name, content in _files(source):
        part, kind, _ = Path(name).parts[-3:]
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape != (32, 32, 3):
            raise DataError(f"{source}: {name} is {pixels.shape[1]}x{pixels.shape[0]}, not 32x32")
        found[f"{part}_x"].append(pixels.transpose(2, 0, 1))
        found[f"{part}_y"].append(CIFAR10_CLASSES.index(kind))
    return {
        key: np.stack(values) if key.endswith("x") and values else np.array(values, np.int64)
        for key, values in found.items()
    }


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the JPEG files that are images of the set."""

    def belongs(name: str) -> bool:
        parts = Path(name).parts[-3:]
        if len(parts) < 3 or not name.endswith(".jpg"):
            return False
        return parts[0] in ("train", "test") and parts[1] in CIFAR10_CLASSES

    if source.is_dir():
        for path in sorted(source.rglob("*.jpg")):
            if belongs(str(path.relative_to(source))):
                yield str(path.relative_to(source)), path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(filter(belongs, archive.namelist())):
            yield name, archive.read(name)


class _Arrays2(pickle.Unpickler):
    """Reads the python archive's batches, which are pickles, and nothing else that a pickle can."""

    def find_class(self, module: str, name: str) -> Any:
        base = module.replace("numpy._core", "numpy.core")
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
        if (base, name) not in allowed:
            raise DataError(f"the archive asks for {module}.{name}, which CIFAR-10's does not")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _python_archive(source: Path) -> _Arrays:
    """Read data_batch_1 to 5 and test_batch of cifar-10-python.tar.gz."""
    batches: dict[str, dict[bytes, Any]] = {}
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            name = Path(member.name).name
            if name.startswith("data_batch_") or name == "test_batch":
                content = archive.extractfile(member)
                assert content is not None
                batches[name] = _Arrays2(content, encoding="bytes").load()
    train = [batches[name] for name in sorted(batches) if name != "test_batch"]
    if not train or "test_batch" not in batches:
        raise DataError(f"{source} lacks data_batch_* or test_batch; {DATA_HELP}")
    found: _Arrays = {}
    for part, chosen in (("train", train), ("test", [batches["test_batch"]])):
        pixels = np.concatenate([batch[b"data"] for batch in chosen])
        found[f"{part}_x"] = pixels.reshape(-1, 3, 32, 32)
        found[f"{part}_y"] = np.concatenate([np.asarray(batch[b"labels"]) for batch in chosen])
    return found
