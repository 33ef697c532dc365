"""What a teacher adds to a student's loss: OFD and SRR, with the connectors that they train along.

Sources: OFD is Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019; where it
leaves something open, the authors' code for CIFAR-100 (clovaai/overhaul-distillation). SRR is Yang
et al., "Knowledge distillation via softmax regression representation learning", ICLR 2021, with the
authors' code (jingyang2017/KD_SRRL). Connectors are for training only: a student is tested without
them, and they are not among its parameters.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Activations before the ReLU, [batch, channels, height, width], one tensor for each group.
Features = Sequence[Tensor]

# The authors' code for CIFAR-100, where images are 32x32.
OFD_STRENGTH = 1e-3
OFD_PIXELS = 32 * 32
# The one weight of both terms in the authors' code, which is for ImageNet.
SRR_STRENGTH = 1.0
# Below this chance of a negative value the authors take three deviations for its mean.
RARE = 1e-3


class Lesson(nn.Module, ABC):
    """A loss beside cross-entropy, and the connectors from a student's features to its teacher's.

    Attributes:
        batch_statistics: whether the teacher normalises by the batch, as a student does in
            training, or by its running statistics.
    """

    batch_statistics: bool

    @abstractmethod
    def forward(self, own: Features, logits: Tensor, taught: Features) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            own: the student's features.
            logits: the teacher's.
            taught: the teacher's features.
        """


class Ofd(Lesson):
    """Features at the end of each group, before the ReLU, through margin ReLU and partial L2.

    The group before counts half as much. The strength is per pixel of the first features what it
    is in the authors' code for images of 32x32: a sum over fewer pixels would weigh less.
    """

    batch_statistics = True

    def __init__(
        self,
        channels: Sequence[int],
        norms: Sequence[nn.BatchNorm2d],
        head: nn.Linear,
        strength: float = OFD_STRENGTH,
    ) -> None:
        super().__init__()
        self.strength = strength
        wanted = [norm.num_features for norm in norms]
        self.connectors = nn.ModuleList(map(connector, channels, wanted))
        for index, norm in enumerate(norms):
            self.register_buffer(f"margin{index}", margin(norm).view(1, -1, 1, 1))

    def forward(self, own: Features, logits: Tensor, taught: Features) -> Tensor:
        total = taught[0].new_zeros(())
        for index, (connect, features, target) in enumerate(
            zip(self.connectors, own, taught, strict=True)
        ):
            limit = self.get_buffer(f"margin{index}")
            share = 2.0 ** (index + 1 - len(taught))
            total = total + share * partial_l2(connect(features), torch.maximum(target, limit))
        pixels = math.prod(taught[0].shape[2:])
        return self.strength * OFD_PIXELS / pixels * total / len(logits)


class Srr(Lesson):
    """The last features, averaged over the pixels, and what the teacher's classifier makes of them.

    Both terms are squared errors in the mean, and count the same.
    """

    batch_statistics = False

    def __init__(
        self,
        channels: Sequence[int],
        norms: Sequence[nn.BatchNorm2d],
        head: nn.Linear,
        strength: float = SRR_STRENGTH,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.connector = connector(channels[-1], norms[-1].num_features)
        self.register_buffer("weight", head.weight.detach().clone())
        self.register_buffer("bias", head.bias.detach().clone())

    def forward(self, own: Features, logits: Tensor, taught: Features) -> Tensor:
        mine = F.relu(self.connector(F.relu(own[-1]))).mean((2, 3))
        matching = F.mse_loss(mine, F.relu(taught[-1]).mean((2, 3)))
        classified = F.linear(mine, self.get_buffer("weight"), self.get_buffer("bias"))
        return self.strength * (matching + F.mse_loss(classified, logits))


#: name -> lesson of the student's channels, the norms that make the teacher's features, its
#: classifier and a strength.
LESSONS: dict[str, Callable[..., Lesson]] = {"ofd": Ofd, "srr": Srr}


def connector(channels: int, wanted: int) -> nn.Sequential:
    """Return a 1x1 convolution and batch norm to a teacher's channels; He's start over fan-out."""
    convolution = nn.Conv2d(channels, wanted, 1, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / wanted))
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


@torch.no_grad()
def margin(norm: nn.BatchNorm2d) -> Tensor:
    """Return each channel's mean of negative values, [channels], below 0.

    OFD takes a channel behind batch norm as normal, with the norm's shift for mean and its scale
    for deviation.
    """
    mean, std = norm.bias.double(), norm.weight.double().abs().clamp(min=1e-12)
    chance = torch.special.ndtr(-mean / std)
    density = torch.exp(-((mean / std) ** 2) / 2) / math.sqrt(2 * math.pi)
    usual = mean - std * density / chance.clamp(min=RARE)
    return torch.where(chance > RARE, usual, -3 * std).float()


def partial_l2(features: Tensor, target: Tensor) -> Tensor:
    """Return the sum of squared errors, without those where features are below a target below 0.

    There the ReLU makes the same of both: OFD's partial L2 distance.
    """
    counts = (features > target) | (target > 0)
    return ((features - target) ** 2 * counts).sum()
