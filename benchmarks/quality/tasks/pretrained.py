"""The tasks of pretrained networks: few samples, in the form that a network was trained on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import text
from benchmarks.data import DataError
from benchmarks.images import choose
from benchmarks.quality.pretrained_models import LENGTH, MODELS, PIXELS, minilm_folder
from benchmarks.quality.tasks.base import Classification, Labelled
from benchmarks.quality.tasks.vision import load
from benchmarks.sources import Sources


@dataclass(frozen=True, slots=True)
class Reviews:
    """Sentences of film reviews as MiniLM's token ids, and whether people rate them above neutral.

    The parts are drawn as those of the task ``"vader-movie"``, and cut to the numbers here.

    Attributes:
        n_train: sentences to train on.
        n_validation: others.
        n_test: others still.
    """

    n_train: int
    n_validation: int
    n_test: int

    def __call__(self, sources: Sources) -> Classification:
        """Read and tokenise the sentences: [n, 32] int64, padded with 0.

        Raises:
            DataError: if VADER's archive or MiniLM's package is not there, or another version.
        """
        from benchmarks import fit_models  # needs Pillow, which not every task does

        folder = minilm_folder(sources)
        found = text.vader(Sources((*sources.paths, MODELS)).find(text.VADER), ("movie",))
        n = len(found.texts)
        sizes = (n * 7 // 10, n // 10, n - n * 7 // 10 - n // 10)
        wanted = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        parts: dict[str, Labelled] = {}
        for (name, own), places in zip(
            wanted.items(), text.split(found.groups, sizes), strict=True
        ):
            if own > len(places):
                raise DataError(f"{found.label}: {own} sentences of {name} are asked for")
            texts = [found.texts[place] for place in places[:own].tolist()]
            ids = fit_models.tokens(folder, texts, own)[0]["input_ids"]
            parts[name] = Labelled(
                F.pad(ids, (0, LENGTH - ids.shape[1])), found.classes[places[:own]]
            )
        return Classification(f"{found.label}, {self.n_train:,} to train on", parts, 2)


@dataclass(frozen=True, slots=True)
class Enlarged:
    """Images of CIFAR-10, enlarged, with the values that EfficientNet-Lite was trained on.

    As many of each class, always the same ones.

    Attributes:
        n_train: images to train on.
        n_validation: of the training images that are left.
        n_test: of the test images.
    """

    n_train: int
    n_validation: int
    n_test: int

    def __call__(self, sources: Sources) -> Classification:
        """Read the images: [n, 3, 64, 64], from about -1 to 1.

        Raises:
            DataError: if CIFAR-10 is not there, or has too few images.
        """
        found = load("cifar10", sources)
        try:
            chosen = choose(found.train_y, self.n_train + self.n_validation).view(10, -1)
            tested = choose(found.test_y, self.n_test)
        except ValueError as error:
            raise DataError(f"{found.label}: {error}") from error
        n = self.n_train // 10

        def ready(images: Tensor, classes: Tensor, places: Tensor) -> Labelled:
            x = F.interpolate(images[places].float(), size=PIXELS, mode="bicubic")
            x = (x.clamp(0, 255) - 127) / 128
            return Labelled(x.contiguous(memory_format=torch.channels_last), classes[places])

        parts = {
            "train": ready(found.train_x, found.train_y, chosen[:, :n].flatten()),
            "validation": ready(found.train_x, found.train_y, chosen[:, n:].flatten()),
            "test": ready(found.test_x, found.test_y, tested),
        }
        return Classification(f"{found.label}, {self.n_train:,} to train on", parts, 10)


TASKS = {
    "vader-movie-minilm": Reviews(1_280, 1_000, 2_000),
    "cifar10-64": Enlarged(4_000, 1_000, 2_000),
}
