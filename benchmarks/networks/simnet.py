"""SimNet: how well a phrase fits each region of an image.

Source: Wang et al., "Learning Two-Branch Neural Networks for Image-Text Matching Tasks", TPAMI
2018 (the similarity network), as appendix A.2 of the npas paper describes it: two linear layers
for regions, two for phrases and three on the elementwise product, with a final embedding of 256.
The widths are those of the code that it adapts (Plummer et al., 2020, and CITE before it): four
times the final embedding everywhere else.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, features, scale


class Layer(nn.Module):
    """A linear layer with batch norm over all but the features, and ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        self.norm = nn.BatchNorm1d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        # [batch, items, features]; batch norm wants the features second
        return F.relu(self.norm(self.fc(x).transpose(1, 2)).transpose(1, 2))


class SimNet(nn.Module):
    """See `simnet`."""

    def __init__(self, region: int, phrase: int, width: int, embedding: int) -> None:
        super().__init__()
        self.region1 = Layer(region, width)
        self.region2 = nn.Linear(width, width)
        self.phrase1 = Layer(phrase, width)
        self.phrase2 = nn.Linear(width, width)
        self.joint1 = Layer(width, width)
        self.joint2 = Layer(width, embedding)
        self.joint3 = nn.Linear(embedding, 1)

    def forward(self, regions: Tensor, phrases: Tensor) -> Tensor:
        r = F.normalize(self.region2(self.region1(regions)), dim=-1)
        p = F.normalize(self.phrase2(self.phrase1(phrases.unsqueeze(1))), dim=-1)
        return self.joint3(self.joint2(self.joint1(r * p))).squeeze(-1)


def simnet(
    region: int = 2048, phrase: int = 300, width: int = 1024, embedding: int = 256
) -> SimNet:
    """Return SimNet, from features to the logit that a phrase is in a region.

    Takes regions ``[batch, regions, region]`` and one phrase for each, ``[batch, phrase]``, and
    gives ``[batch, regions]``. The default has 5,824,513 parameters.

    Args:
        region: features of a region of an image.
        phrase: features of a phrase.
        width: features of every layer but the last two.
        embedding: features before the logit.
    """
    return SimNet(region, phrase, width, embedding)


NETWORKS: dict[str, Network] = {
    "simnet": Network(
        make=simnet,
        inputs=features((30, 2048), (300,)),
        family="simnet",
        kind="linear",
        published="6M",
        source="NPAS (Plummer et al., 2022), Table 8",
        scaled=lambda factor: simnet(width=scale(1024, factor), embedding=scale(256, factor)),
    )
}
