"""Densely connected networks with bottlenecks and compression (DenseNet-BC) for 32x32 images.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, sections 3 and 4.2.
The npas paper trains DenseNet-BC-190-40 on CIFAR-100 (Figure 3, Table 15).
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, images, scale


class Layer(nn.Module):
    """Batch norm, ReLU and convolution, 1x1 to four times the growth and then 3x3 to the growth.

    The output is the input with the new channels behind it.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(h)))), 1)


class Transition(nn.Module):
    """Batch norm, ReLU and a 1x1 convolution to half the channels, then mean pooling of 2x2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """See `densenet_bc`."""

    def __init__(self, n_layers: int, growth: int, num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for last in (False, False, True):
            for _ in range(n_layers):
                blocks.append(Layer(channels, growth))
                channels += growth
            if not last:
                blocks.append(Transition(channels, channels // 2))
                channels //= 2
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.in_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.stem(x))
        return self.head(F.relu(self.norm(h)).mean((2, 3)))


def densenet_bc(depth: int, growth: int, num_classes: int = 10, factor: float = 1.0) -> DenseNet:
    """Return DenseNet-BC-``depth``-``growth`` for images of ``[batch, 3, 32, 32]``.

    With 10 classes: DenseNet-BC-190-40 has 25,624,430 parameters and 9.3 billion
    multiply-accumulates an image, DenseNet-BC-100-12 has 769,162 parameters.

    Args:
        depth: 6n + 4, for n layers in each of three blocks.
        growth: channels that a layer adds.
        num_classes: outputs of the linear layer.
        factor: on the growth, rounded; every width follows from it.

    Raises:
        ValueError: ``depth`` is not 6n + 4.
    """
    n_layers, remainder = divmod(depth - 4, 6)
    if n_layers < 1 or remainder:
        raise ValueError(f"depth: got {depth}, must be 6n + 4 with n >= 1 (10, 40, 100, 190)")
    return DenseNet(n_layers, scale(growth, factor), num_classes)


def _network(depth: int, growth: int, published: str) -> Network:
    return Network(
        make=partial(densenet_bc, depth, growth),
        inputs=images(32),
        family="densenet",
        kind="conv",
        published=published,
        source="Huang et al., 2017, Table 2",
        scaled=lambda factor: densenet_bc(depth, growth, factor=factor),
        shallower=tuple(partial(densenet_bc, fewer, growth) for fewer in range(10, depth, 6)),
    )


NETWORKS: dict[str, Network] = {
    "densenet-bc-100-12": _network(100, 12, "0.8M"),
    "densenet-bc-190-40": _network(190, 40, "25.6M"),
}
