"""Image classification, at a size that many runs can be afforded at."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import data
from benchmarks.data import DataError, Images
from benchmarks.images import augmented, choose, pooled
from benchmarks.quality.tasks.base import Classification, Labelled
from benchmarks.sources import Sources


@dataclass(frozen=True, slots=True)
class Pictures:
    """An image task.

    Attributes:
        images: a data set of `benchmarks.data.IMAGES`.
        size: height and width of the images after average pooling.
        n_train: training images, as many of each class, always the same ones.
        n_validation: of the training images that are left.
        augment: whether images are shifted and flipped at random.
    """

    images: str
    size: int
    n_train: int
    n_validation: int
    augment: bool = True

    def __call__(self, sources: Sources) -> Classification:
        """Read the images; those of the test set are used whole.

        Raises:
            DataError: if the data set is not there, or has too few images.
        """
        found = load(self.images, sources)
        try:
            chosen = choose(found.train_y, self.n_train + self.n_validation)
        except ValueError as error:
            raise DataError(f"{found.label}: {error}") from error
        n_classes = len(found.train_y.unique())
        by_class = chosen.view(n_classes, -1)
        n = self.n_train // n_classes
        train, validation = by_class[:, :n].flatten(), by_class[:, n:].flatten()
        x = pooled(found.train_x[train], self.size)
        mean, std = (f(x, (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))

        def ready(images: Tensor, classes: Tensor) -> Labelled:
            small = (pooled(images, self.size) - mean) / std
            return Labelled(small.contiguous(memory_format=torch.channels_last), classes)

        parts = {
            "train": ready(found.train_x[train], found.train_y[train]),
            "validation": ready(found.train_x[validation], found.train_y[validation]),
            "test": ready(found.test_x, found.test_y),
        }
        return Classification(found.label, parts, n_classes, augmented if self.augment else None)


def load(name: str, sources: Sources) -> Images:
    """Read a data set by its name, from where ``--data`` says.

    Raises:
        DataError: as the loader does.
    """
    if name != "cifar10":
        return data.load(name)
    found = sources.find("cifar10-jpeg.zip", "cifar-10-python.tar.gz")
    folders = (path for path in sources.paths if (path / "train" / "airplane").is_dir())
    files = (path for path in sources.paths if path.is_file() and _is_cifar10(path.name))
    found = found or next(folders, None) or next(files, None)
    if found is None:
        looked = ", ".join(map(str, sources.paths))
        raise DataError(f"CIFAR-10 is not at {looked or 'any place'}; {data.DATA_HELP}")
    return data.cifar10(found)


def _is_cifar10(name: str) -> bool:
    return "cifar" in name.lower() and "100" not in name


TASKS = {
    "cifar10": Pictures("cifar10", 16, 10_000, 5_000),
    "cifar10-20k": Pictures("cifar10", 16, 20_000, 5_000),
    "cifar10-all": Pictures("cifar10", 16, 45_000, 5_000),
    "fashion-mnist": Pictures("fashion-mnist", 14, 10_000, 5_000),
    "digits": Pictures("digits", 8, 160, 100, augment=False),
}
