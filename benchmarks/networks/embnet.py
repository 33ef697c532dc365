"""EmbNet: two branches that embed an image and a sentence in one space.

Source: Wang et al., "Learning Deep Structure-Preserving Image-Text Embeddings", CVPR 2016, with
the sizes of Burns et al., 2019, that the npas paper trains (appendix A.1): ResNet-152 features of
2048 and the mean of 300-dimensional MT GrOVLE word vectors.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, features, scale


class Branch(nn.Module):
    """Two linear layers, with batch norm, ReLU and dropout between; the output has length 1."""

    def __init__(self, in_features: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, embedding)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(F.relu(self.norm(self.fc1(x))))
        return F.normalize(self.fc2(h), dim=-1)


class EmbNet(nn.Module):
    """See `embnet`."""

    def __init__(self, image: int, text: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.image = Branch(image, hidden, embedding)
        self.text = Branch(text, hidden, embedding)

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(images), self.text(texts)


def embnet(image: int = 2048, text: int = 300, hidden: int = 2048, embedding: int = 512) -> EmbNet:
    """Return EmbNet, from features to embeddings of length 1.

    Takes ``[batch, image]`` and ``[sentences, text]`` and gives ``[batch, embedding]`` and
    ``[sentences, embedding]``. The default has 6,919,168 parameters.

    Args:
        image: features of an image.
        text: features of a sentence.
        hidden: features between the two layers of each branch.
        embedding: features of the common space.
    """
    return EmbNet(image, text, hidden, embedding)


NETWORKS: dict[str, Network] = {
    "embnet": Network(
        make=embnet,
        inputs=features((2048,), (300,)),
        family="embnet",
        kind="linear",
        published="7M",
        source="NPAS (Plummer et al., 2022), Table 8",
        scaled=lambda factor: embnet(hidden=scale(2048, factor)),
    )
}
