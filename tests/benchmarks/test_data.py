"""The loaders read what they should, on tiny sets of the same form, and refuse what is not."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import data
from benchmarks.data import CIFAR10_CLASSES, DataError

pytestmark = pytest.mark.pure

SIZES = (20, 10)
RNG = np.random.default_rng(0)
# Flat images, which JPEG keeps nearly as they are.
SHADES = {
    part: RNG.integers(0, 256, (size, 3))
    for part, size in zip(("train", "test"), SIZES, strict=True)
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def jpeg(shade: np.ndarray, size: int = 32) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(np.broadcast_to(shade.astype(np.uint8), (size, size, 3)).copy())
    image.save(content, "JPEG", quality=95)
    return content.getvalue()


def jpeg_files() -> dict[str, bytes]:
    return {
        f"{part}/{CIFAR10_CLASSES[i % 10]}/{i // 10:04}.jpg": jpeg(shade)
        for part, shades in SHADES.items()
        for i, shade in enumerate(shades)
    }


def folder_of(root: Path) -> Path:
    for name, content in jpeg_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zip_of(path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "not an image")
        for name, content in jpeg_files().items():
            archive.writestr(inside + name, content)
    return path


def python_archive(path: Path, **extra: object) -> Path:
    def batch(part: str, chosen: slice) -> bytes:
        shades = SHADES[part][chosen].astype(np.uint8)
        pixels = np.repeat(shades, 1024, axis=1)
        labels = [int(i) % 10 for i in range(len(SHADES[part]))[chosen]]
        return pickle.dumps({b"data": pixels, b"labels": labels, **extra}, protocol=2)

    members = {
        "data_batch_1": batch("train", slice(0, 10)),
        "data_batch_2": batch("train", slice(10, 20)),
        "test_batch": batch("test", slice(None)),
        "batches.meta": b"not read",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def idx_files(root: Path, sizes: tuple[int, int] = SIZES) -> Path:
    for prefix, size in zip(("train", "t10k"), sizes, strict=True):
        images = np.arange(size, dtype=np.uint8)[:, None] * np.ones((1, 784), np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for kind, head, values in (
            ("images-idx3", 16, images),
            ("labels-idx1", 8, labels),
        ):
            content = bytes(head) + values.tobytes()
            (root / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return root


def check(images: data.Images) -> None:
    assert images.train_x.shape == (20, 3, 32, 32) and images.train_x.dtype == torch.uint8
    assert images.test_x.shape == (10, 3, 32, 32) and images.train_y.dtype == torch.int64
    for part, x, y in (
        ("train", images.train_x, images.train_y),
        ("test", images.test_x, images.test_y),
    ):
        for index, shade in enumerate(SHADES[part]):
            # Whatever the order, each image has its own class.
            near = (x.float() - torch.tensor(shade)[:, None, None]).abs().amax((1, 2, 3)) < 12
            assert index % 10 in y[near].tolist()


@pytest.mark.parametrize("inside", ["", "cifar10/"])
def test_cifar10_of_a_zip(tmp_path: Path, inside: str) -> None:
    images = data.cifar10(zip_of(tmp_path / "c.zip", inside), SIZES)
    assert images.label == "CIFAR-10 (JPEG copy)"
    check(images)


def test_cifar10_of_a_folder_is_that_of_the_zip(tmp_path: Path) -> None:
    folder = data.cifar10(folder_of(tmp_path / "c"), SIZES)
    check(folder)
    assert torch.equal(folder.train_x, data.cifar10(zip_of(tmp_path / "c.zip"), SIZES).train_x)


def test_cifar10_of_the_python_archive(tmp_path: Path) -> None:
    images = data.cifar10(python_archive(tmp_path / "cifar-10-python.tar.gz"), SIZES)
    assert images.label == "CIFAR-10"
    check(images)
    assert images.train_y.tolist() == [i % 10 for i in range(20)]
    assert images.train_x[3, :, 5, 7].tolist() == SHADES["train"][3].tolist()


def test_a_pickle_cannot_call_what_it_likes(tmp_path: Path) -> None:
    path = python_archive(tmp_path / "c.tar.gz", call=Path("x"))
    with pytest.raises(DataError, match="the archive asks for pathlib"):
        data.cifar10(path, SIZES)


def test_what_was_decoded_is_kept_until_the_files_change(tmp_path: Path, cache: Path) -> None:
    folder = folder_of(tmp_path / "c")
    first = data.cifar10(folder, SIZES)
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert torch.equal(data.cifar10(folder, SIZES).train_x, first.train_x)
    assert [p.stat().st_mtime_ns for p in cache.iterdir()] == [stamp]
    (folder / "train" / "cat" / "0000.jpg").write_bytes(jpeg(np.array([1, 2, 3])))
    assert not torch.equal(data.cifar10(folder, SIZES).train_x, first.train_x)
    assert len(list(cache.iterdir())) == 2


def test_cifar10_that_is_not_there_says_what_data_takes(tmp_path: Path) -> None:
    for source in (None, tmp_path / "none"):
        with pytest.raises(DataError, match=r"--data takes CIFAR-10 as a folder or zip"):
            data.cifar10(source)
    (tmp_path / "text").write_text("x")
    with pytest.raises(DataError, match="no folder, zip or tar"):
        data.cifar10(tmp_path / "text")


def test_too_few_or_uneven_images_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "c")
    with pytest.raises(DataError, match=r"train has 20 images .* it must have 50000"):
        data.cifar10(folder)
    (folder / "test" / "cat" / "0000.jpg").rename(folder / "test" / "dog" / "0009.jpg")
    with pytest.raises(DataError, match="test has 10 images and labels"):
        data.cifar10(folder, SIZES)
    (folder / "train" / "cat" / "0000.jpg").write_bytes(jpeg(np.array([1, 2, 3]), size=8))
    with pytest.raises(DataError, match=r"0000\.jpg is 8x8, not 32x32"):
        data.cifar10(folder, SIZES)


def test_fashion_mnist(tmp_path: Path) -> None:
    images = data.fashion_mnist(idx_files(tmp_path), SIZES)
    assert images.train_x.shape == (20, 1, 28, 28) and images.test_y.tolist() == list(range(10))
    assert images.train_x[:, 0, 9, 9].tolist() == list(range(20))


def test_fashion_mnist_that_is_not_there_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install -y dataset-fashion-mnist"):
        data.fashion_mnist(tmp_path)
    idx_files(tmp_path)
    with pytest.raises(DataError, match="it must have 60000"):
        data.fashion_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="train-images"):
        data.fashion_mnist(tmp_path, SIZES)


def test_the_installed_fashion_mnist() -> None:
    if not data.FASHION_MNIST.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    images = data.load("fashion-mnist")
    assert len(images.train_x) == 60_000 and len(images.test_x) == 10_000
    assert 72 < images.train_x.float().mean() < 74


def test_digits() -> None:
    images = data.load("digits")
    assert images.train_x.shape == (1438, 1, 8, 8) and images.test_x.shape == (359, 1, 8, 8)
    assert images.train_x.max() == 255 and images.train_y.unique().tolist() == list(range(10))


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(DataError, match="there are cifar10, fashion-mnist, digits"):
        data.load("imagenet")
