"""Emoji retrieval, as EmbNet and as ADAPT-T2I see it, at a size that many runs can be afforded at.

Features are fixed, as the npas paper's are (appendix A.1). EmbNet takes one vector of an image and
the mean of a text's word vectors; ADAPT-T2I takes regions of an image and a sequence of words.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.emoji import SIDE, emoji
from benchmarks.quality.tasks.pair_images import (
    Described,
    Features,
    cells,
    crop,
    describe,
    jittered,
    windows,
)
from benchmarks.quality.tasks.pair_words import means, sequences, word_vectors
from benchmarks.quality.tasks.pairs import Pairs, pairs
from benchmarks.quality.tasks.retrieval import Judged, Retrieval, Similarity, crossed, inner
from benchmarks.sources import Sources

#: Features of an image, and of each of its regions.
IMAGE, WINDOW = 256, 128
N_REGIONS = 10
N_WORDS = 8


def whole(images: Tensor) -> Described:
    """Return the descriptors of images [n, 3, 64, 64] as wholes."""
    return describe(cells(images))


def regions(images: Tensor) -> Described:
    """Return the descriptors of ten regions of each image."""
    return describe(windows(cells(images)))


@dataclass(frozen=True, slots=True)
class Named:
    """A retrieval task on emoji.

    Attributes:
        described: images [n, 3, 64, 64] from 0 to 1 -> descriptors.
        n_features: of an image, or of each region of it.
        texts: word vectors of each text and the training texts -> features of the texts.
        similarity: how images and texts are compared.
        margin: of the triplet loss.
        n_views: that are trained on, of each image: itself, and moved and resized ones.
    """

    described: Callable[[Tensor], Described]
    n_features: int
    texts: Callable[[list[Tensor], list[int]], Tensor]
    similarity: Similarity
    margin: float
    n_views: int = 4

    def __call__(self, sources: Sources) -> Retrieval:
        """Read the emoji and describe them.

        Raises:
            DataError: if they are not there; says how to get them.
        """
        return self.of(pairs(emoji(sources)))

    def of(self, found: Pairs) -> Retrieval:
        """Return the task of the pairs; features are fitted on those of training."""
        train = found.parts["train"]
        texts = self.texts(word_vectors(found.texts, train.tolist()), train.tolist())
        described = [self.described(view) for view in views(found, self.n_views)]
        features = Features.of(described[0], self.n_features)
        n = len(train)

        def judged(part: str) -> Judged:
            places = found.parts[part]
            images = found.images[:, places]
            x = features(self.described(images.flatten(0, 1) / 255))
            return Judged(x.unflatten(0, images.shape[:2]), texts[places])

        return Retrieval(
            found.label,
            torch.cat([features(view) for view in described]),
            torch.arange(n).repeat(len(found.images) * self.n_views),
            texts[train],
            {part: judged(part) for part in ("validation", "test")},
            self.similarity,
            self.margin,
        )


def views(found: Pairs, n: int) -> Iterator[Tensor]:
    """Yield the training images of all designs, [designs * emoji, 3, 64, 64]: as they are first."""
    images = found.images[:, found.parts["train"]].flatten(0, 1) / 255
    yield images
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([0.0, 0.0, SIDE, SIDE]).expand(len(images), 1, 4)
    for _ in range(n - 1):
        yield crop(images, jittered(boxes, 0.1, 1.2, generator), SIDE)[:, 0]


def _means(vectors: list[Tensor], train: list[int]) -> Tensor:
    return means(vectors, train)


def _sequences(vectors: list[Tensor], train: list[int], length: int) -> Tensor:
    del train
    return sequences(vectors, length)


TASKS = {
    # Margins are those of the authors' codes.
    "emoji-embnet": Named(whole, IMAGE, _means, inner, margin=0.05),
    "emoji-adapt": Named(regions, WINDOW, partial(_sequences, length=N_WORDS), crossed, margin=0.2),
}
