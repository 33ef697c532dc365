"""Phrase grounding: which box of a scene a text is about.

As the npas paper's phrase grounding on Flickr30K Entities and ReferIt (Table 1, appendix A.2), at
a size that many runs can be afforded at.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.data import DataError
from benchmarks.emoji import emoji
from benchmarks.quality.tasks.pair_images import Features
from benchmarks.quality.tasks.pair_words import means, word_vectors
from benchmarks.quality.tasks.pairs import Pairs, pairs
from benchmarks.quality.tasks.scenes import N_OBJECTS, Drawn, boxed, draw
from benchmarks.sources import Sources

#: Features of a box.
REGION = 128
#: A box is right from 0.5 on (npas paper, A.2). In training it is from 0.6 on, and wrong below 0.3,
#: as in the code of Plummer et al. (github.com/BryanPlummer/cite).
RIGHT, POSITIVE, NEGATIVE = 0.5, 0.6, 0.3

#: A batch: the boxes of a scene, a text, and each box's overlap with what the text is about.
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Scenes:
    """Scenes of emoji.

    Attributes:
        emoji: [scenes, objects]: places in the texts.
        boxes: [scenes, boxes, features]: described.
        overlap: [scenes, objects, boxes]: intersection over union with where the object is.
    """

    emoji: Tensor
    boxes: Tensor
    overlap: Tensor


@dataclass(frozen=True, slots=True)
class Grounding:
    """Scenes, and a text for each of their objects; the score is the share that is found.

    Attributes:
        label: what results on it are called.
        texts: [emoji, features].
        parts: ``"train"``, ``"validation"`` and ``"test"``.
    """

    label: str
    texts: Tensor
    parts: dict[str, Scenes]

    @property
    def measure(self) -> str:
        """What the score is."""
        return "accuracy"

    @property
    def n_train(self) -> int:
        """Training texts: one for each object of each scene."""
        return self.parts["train"].emoji.numel()

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's whole batches; which ones depends on the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(1_000 * seed + epoch)
        order = torch.randperm(self.n_train, generator=generator)
        for start in range(0, self.n_train - size + 1, size):
            yield self._batch("train", order[start : start + size])

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the logistic loss over the boxes that are right or wrong beyond doubt.

        Source: the similarity network of Wang et al., TPAMI 2018. The code of Plummer et al. draws
        two wrong boxes for each right one; here all are used, with the weight that two would have.
        """
        boxes, texts, overlap = batch
        logits = module(boxes, texts)
        right, wrong = overlap >= POSITIVE, overlap < NEGATIVE
        n_right = right.sum()
        losses = F.softplus(-logits)[right].sum() + 2 * n_right * F.softplus(logits)[wrong].mean()
        return losses / (3 * n_right).clamp(min=1)

    @torch.no_grad()
    def score(self, module: nn.Module, part: str, size: int = 256) -> float:
        """Return the share of texts whose best box overlaps by at least a half."""
        module.eval()
        right = 0
        every = torch.arange(self.parts[part].emoji.numel())
        for chosen in every.split(size):
            boxes, texts, overlap = self._batch(part, chosen)
            best = module(boxes, texts).argmax(1, keepdim=True)
            right += int((overlap.gather(1, best) >= RIGHT).sum())
        return right / len(every)

    def _batch(self, part: str, chosen: Tensor) -> Batch:
        scenes = self.parts[part]
        texts = self.texts[scenes.emoji.flatten()[chosen]]
        return scenes.boxes[chosen // N_OBJECTS], texts, scenes.overlap.flatten(0, 1)[chosen]


@dataclass(frozen=True, slots=True)
class Grounded:
    """The grounding task on emoji.

    Attributes:
        scenes: part -> how many are drawn.
    """

    scenes: dict[str, int]

    def __call__(self, sources: Sources) -> Grounding:
        """Read the emoji, draw the scenes and describe the boxes.

        Raises:
            DataError: if the emoji are not there, or too few of them.
        """
        return self.of(pairs(emoji(sources)))

    def of(self, found: Pairs) -> Grounding:
        """Return the task of the pairs: always the same scenes, each of emoji of one part.

        Raises:
            DataError: if a part has too few emoji.
        """
        train = found.parts["train"].tolist()
        generator = torch.Generator().manual_seed(0)
        drawn: dict[str, Drawn] = {}
        for part, places in found.parts.items():
            if len(places) < N_OBJECTS:
                raise DataError(f"{found.label}: {len(places)} emoji of {part} fill no scene")
            drawn[part] = draw(found.images, places, self.scenes[part], generator)
        described = {part: boxed(scenes.images) for part, scenes in drawn.items()}
        features = Features.of(described["train"], REGION)
        parts = {
            part: Scenes(scenes.emoji, features(described[part]), scenes.overlap)
            for part, scenes in drawn.items()
        }
        return Grounding(found.label, means(word_vectors(found.texts, train), train), parts)


TASKS = {"emoji-simnet": Grounded({"train": 800, "validation": 100, "test": 300})}
