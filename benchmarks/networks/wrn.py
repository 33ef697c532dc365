"""Wide residual networks for 32x32 images.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, Table 1; the networks of
Tables 3, 5 and 11 to 14 of the npas paper. Those for ImageNet are in `resnet`.
"""

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, images, scale


class Block(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, added to the input.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the activated
    input (as in the authors' code); elsewhere it is the input itself. A block that only strides
    has the projection too.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        h = F.relu(self.norm2(self.conv1(h)))
        return shortcut + self.conv2(h)


class WideResNet(nn.Module):
    """See `wrn`."""

    def __init__(
        self, n_blocks: int, channels: tuple[int, int, int, int], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.group1 = _group(channels[0], channels[1], n_blocks, stride=1)
        self.group2 = _group(channels[1], channels[2], n_blocks, stride=2)
        self.group3 = _group(channels[2], channels[3], n_blocks, stride=2)
        self.norm = nn.BatchNorm2d(channels[3])
        self.head = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The paper's "MSRinit": He's, over the fan-out.
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group3(self.group2(self.group1(self.stem(x))))
        return self.head(F.relu(self.norm(h)).mean((2, 3)))


def _group(in_channels: int, out_channels: int, n_blocks: int, stride: int) -> nn.Sequential:
    first = Block(in_channels, out_channels, stride)
    rest = [Block(out_channels, out_channels, 1) for _ in range(n_blocks - 1)]
    return nn.Sequential(first, *rest)


def wrn(
    depth: int,
    width: int,
    num_classes: int = 10,
    stem: int = 16,
    in_channels: int = 3,
    factor: float = 1.0,
) -> WideResNet:
    """Return WRN-``depth``-``width`` for images of ``[batch, in_channels, 32, 32]``.

    With 10 classes: WRN-28-10 has 36,479,194 parameters (36.5M) and 5,243.3M multiply-accumulates
    an image, WRN-16-1 175,066 and 26.7M. Images of any size of at least 4x4 do.

    Args:
        depth: 6n + 4, for n blocks in each of three groups.
        width: factor on the channels of the groups: ``stem * width * (1, 2, 4)``.
        num_classes: outputs of the linear layer at the end.
        stem: channels of the first convolution.
        in_channels: channels of the image.
        factor: on the channels of the first convolution and of the groups, rounded.

    Raises:
        ValueError: ``depth`` is not 6n + 4.
    """
    n_blocks, remainder = divmod(depth - 4, 6)
    if n_blocks < 1 or remainder:
        raise ValueError(f"depth: got {depth}, must be 6n + 4 with n >= 1 (10, 16, 22, 28, 40)")
    first, second, third = (scale(stem * width * times, factor) for times in (1, 2, 4))
    channels = (scale(stem, factor), first, second, third)
    return WideResNet(n_blocks, channels, num_classes, in_channels)


def _network(depth: int, width: int, published: str, source: str) -> Network:
    return Network(
        make=partial(wrn, depth, width),
        inputs=images(32),
        family="wrn",
        kind="conv",
        published=published,
        source=source,
        scaled=lambda factor: wrn(depth, width, factor=factor),
        shallower=tuple(partial(wrn, fewer, width) for fewer in range(10, depth, 6)),
    )


_WRN = "Zagoruyko and Komodakis, 2016, Table 4"
_ATTENTION = "Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, Table 1"
_NPAS = "NPAS (Plummer et al., 2022), Table 14"

# With 10 classes; with a hundred, WRN-40-2 and WRN-40-4 would round to the next number.
NETWORKS: dict[str, Network] = {
    "wrn-16-1": _network(16, 1, "0.2M", _ATTENTION),
    "wrn-16-2": _network(16, 2, "0.7M", _ATTENTION),
    "wrn-28-10": _network(28, 10, "36.5M", _WRN),
    "wrn-40-1": _network(40, 1, "0.6M", _WRN),
    "wrn-40-2": _network(40, 2, "2.2M", _WRN),
    "wrn-40-4": _network(40, 4, "8.9M", _WRN),
    "wrn-40-10": _network(40, 10, "56M", _NPAS),
    "wrn-52-10": _network(52, 10, "75M", _NPAS),
    "wrn-76-12": _network(76, 12, "164M", _NPAS),
}
