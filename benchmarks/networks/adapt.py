"""ADAPT-T2I: a sentence rescales and shifts the regions of an image before they are compared.

Source: Wehrmann et al., "Adaptive Cross-Modal Embeddings for Image-Text Alignment", AAAI 2020, and
appendix A.1 of the npas paper; the sizes are those of the authors' code: word vectors of 600 (300
of GloVe and 300 learned; the table of words is not counted in 14M and is not here), 36 regions
of 2048, and 1024 features everywhere else.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, features, scale

_SHARPNESS = 10.0  # of the softmax over regions, in the authors' configuration


class Adapt(nn.Module):
    """See `adapt`."""

    def __init__(self, word: int, region: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(word, width, batch_first=True, bidirectional=True)
        self.image = nn.Linear(region, width)
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.scale = nn.Linear(width, width)
        self.shift = nn.Linear(width, width)

    def forward(self, regions: Tensor, words: Tensor) -> Tensor:
        states = self.gru(words)[0].unflatten(-1, (2, -1)).mean(-2)  # both directions
        sentence = F.normalize(states, dim=-1).mean(1)
        h = F.normalize(F.leaky_relu(self.image(regions), 0.1), dim=-1)
        h = self.norm(h.transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        # [images, 1, regions, width] and [sentences, 1, width] -> every image with every sentence
        h = h * (1 + self.scale(sentence).unsqueeze(1)) + self.shift(sentence).unsqueeze(1)
        h = (h * F.softmax(_SHARPNESS * h, dim=2)).mean(2)
        return F.cosine_similarity(h, sentence, dim=-1)


def adapt(word: int = 600, region: int = 2048, width: int = 1024) -> Adapt:
    """Return ADAPT-T2I, which compares every image with every sentence.

    Takes ``[images, regions, region]`` and sentences of one length as word vectors
    ``[sentences, words, word]``, and gives cosines ``[images, sentences]``. The default has
    14,187,520 parameters, 9,990,144 of them in the GRU. Two layers are parallel: scale and shift.

    Args:
        word: features of a word.
        region: features of a region of an image.
        width: features of the GRU's state, and of the common space.
    """
    return Adapt(word, region, width)


NETWORKS: dict[str, Network] = {
    "adapt-t2i": Network(
        make=adapt,
        inputs=features((36, 2048), (12, 600)),
        family="adapt",
        kind="recurrent",
        published="14M",
        source="NPAS (Plummer et al., 2022), Table 8",
        scaled=lambda factor: adapt(width=scale(1024, factor)),
    )
}
