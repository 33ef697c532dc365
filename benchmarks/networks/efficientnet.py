"""EfficientNet-B0 for images of 224x224.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019, Table 1; squeeze-and-excitation of a quarter of the block's input channels, as in the
authors' code. Stochastic depth is left out: it is of the recipe and has no parameters. The npas
paper trains it on ImageNet (Table 16).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, images, scale

#: expansion, channels, blocks, stride of the first block, size of the depthwise kernel
_B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Convolution(nn.Sequential):
    """A convolution without bias and batch norm, with a SiLU behind unless it is left out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        convolution = nn.Conv2d(
            in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False
        )
        norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        super().__init__(convolution, norm, nn.SiLU() if activation else nn.Identity())


class Excitation(nn.Module):
    """Every channel times a number in (0, 1), from the mean of all channels over the pixels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * self.excite(h).sigmoid()


class Block(nn.Module):
    """Expansion, depthwise convolution, excitation and projection (MBConv)."""

    def __init__(
        self, in_channels: int, expansion: int, out_channels: int, size: int, stride: int
    ) -> None:
        super().__init__()
        inner = expansion * in_channels
        expand = [Convolution(in_channels, inner)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            Convolution(inner, inner, size, stride, groups=inner),
            Excitation(inner, max(1, in_channels // 4)),
            Convolution(inner, out_channels, activation=False),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x)
        return x + h if self.residual else h


class EfficientNet(nn.Module):
    """See `efficientnet_b0`."""

    def __init__(self, num_classes: int, factor: float) -> None:
        super().__init__()
        channels = scale(32, factor)
        self.stem = Convolution(3, channels, 3, 2)
        blocks: list[nn.Module] = []
        for expansion, width, n_blocks, stride, size in _B0:
            for i in range(n_blocks):
                out = scale(width, factor)
                blocks.append(Block(channels, expansion, out, size, stride if i == 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = Convolution(channels, scale(1280, factor))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(scale(1280, factor), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.blocks(self.stem(x)))
        return self.head(self.dropout(h.mean((2, 3))))


def efficientnet_b0(num_classes: int = 1000, factor: float = 1.0) -> EfficientNet:
    """Return EfficientNet-B0 for images of ``[batch, 3, 224, 224]``.

    With 1000 classes it has 5,288,548 parameters and 386M multiply-accumulates an image.

    Args:
        num_classes: outputs of the linear layer.
        factor: on all channels, rounded.
    """
    return EfficientNet(num_classes, factor)


NETWORKS: dict[str, Network] = {
    "efficientnet-b0": Network(
        make=efficientnet_b0,
        inputs=images(224),
        family="efficientnet",
        kind="conv",
        published="5.3M",
        source="Tan and Le, 2019, Table 2",
        scaled=lambda factor: efficientnet_b0(factor=factor),
    )
}
