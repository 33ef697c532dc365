"""Image-text retrieval: which text goes with which image, in both directions.

As the npas paper's image-sentence retrieval on Flickr30K and COCO (Table 1, appendix A.1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: A batch: images, a text for each, and which emoji it is.
Batch = tuple[Tensor, Tensor, Tensor]
#: Network, images and texts -> [images, texts].
Similarity = Callable[[nn.Module, Tensor, Tensor], Tensor]
RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Judged:
    """Emoji that a network is scored on.

    Attributes:
        images: [designs, n, ...].
        texts: [n, ...].
    """

    images: Tensor
    texts: Tensor


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Images of emoji and a text for each emoji; the score is the mean of six recalls.

    Attributes:
        label: what results on it are called.
        images: [samples, ...] of training: both designs, as they are and moved at random.
        emoji: [samples]: whose they are.
        texts: [training emoji, ...].
        parts: ``"validation"`` and ``"test"``.
        similarity: how images and texts are compared.
        margin: of the triplet loss.
    """

    label: str
    images: Tensor
    emoji: Tensor
    texts: Tensor
    parts: dict[str, Judged]
    similarity: Similarity
    margin: float

    @property
    def measure(self) -> str:
        """What the score is."""
        return "recall"

    @property
    def n_train(self) -> int:
        """Training images."""
        return len(self.images)

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Batch]:
        """Yield an epoch's whole batches; which ones depends on the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(1_000 * seed + epoch)
        order = torch.randperm(self.n_train, generator=generator)
        for start in range(0, self.n_train - size + 1, size):
            chosen = order[start : start + size]
            which = self.emoji[chosen]
            yield self.images[chosen], self.texts[which], which

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the triplet loss of a batch."""
        images, texts, which = batch
        similarity = self.similarity(module, images, texts)
        return triplets(similarity, which[:, None] == which, self.margin)

    @torch.no_grad()
    def score(self, module: nn.Module, part: str) -> float:
        """Return the mean recall over the designs: each design's images are a set of their own."""
        module.eval()
        judged = self.parts[part]
        found = [recall(self.similarity(module, x, judged.texts)) for x in judged.images]
        return sum(found) / len(found)


def triplets(similarity: Tensor, same: Tensor, margin: float, hardest: int = 10) -> Tensor:
    """Return the bidirectional triplet loss: the mean hinge of each anchor's hardest negatives.

    Source: Wang et al., CVPR 2016, with the weight 1.5 of wrong images and the 10 hardest
    negatives of the code that the npas paper adapts (github.com/BryanPlummer/Two_branch_network).
    Its constraints between sentences of one image are left out: an emoji has one text. Similarities
    are compared, where that code compares distances.

    Args:
        similarity: [n, n] of images and texts; pairs are on the diagonal.
        same: [n, n]: no negatives, since image and text are of one emoji.
        margin: by which a pair must be nearer than a negative.
        hardest: negatives that are counted, for each anchor.
    """
    pair = similarity.diagonal().unsqueeze(1)
    hardest = min(hardest, len(similarity) - 1)

    def hinge(negatives: Tensor) -> Tensor:
        excess = (margin + negatives - pair).clamp(min=0).masked_fill(same, 0)
        return excess.topk(hardest, 1).values.mean()

    return 1.5 * hinge(similarity.T) + hinge(similarity)


def recall(similarity: Tensor) -> float:
    """Return the mean of Recall@1, 5 and 10 in both directions (npas paper, appendix A.1).

    Args:
        similarity: [n, n] of images and texts; pairs are on the diagonal. Ties count as lost, so
            that a network that tells nothing apart finds nothing.
    """
    found: list[Tensor] = []
    for scores in (similarity, similarity.T):
        rank = (scores >= scores.diagonal().unsqueeze(1)).sum(1)
        found += [(rank <= most).float().mean() for most in RANKS]
    return float(torch.stack(found).mean())


def inner(module: nn.Module, images: Tensor, texts: Tensor) -> Tensor:
    """Return inner products of what a network makes of images and of texts (EmbNet)."""
    x, y = module(images, texts)
    return x @ y.T


def crossed(module: nn.Module, images: Tensor, texts: Tensor, few: int = 8) -> Tensor:
    """Return what a network says of every image with every text (ADAPT-T2I).

    When it is judged, it is asked about a few images at a time: what it makes of them stays in the
    cache. In training it is not, since batch norm looks at the whole batch.
    """
    at_once = len(images) if module.training else few
    return torch.cat([module(some, texts) for some in images.split(at_once)])
