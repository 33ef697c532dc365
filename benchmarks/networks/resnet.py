"""Residual networks: for CIFAR, for ImageNet, and the wide one for ImageNet.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (sections 3 and 4);
Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (WRN-50-2). The npas paper distils
ResNet-34 into ResNet-10 (Table 3), prunes ResNet-56 (Table 4) and trains WRN-50-2 on ImageNet.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import Network, images, scale


class _Pad(nn.Module):
    """The shortcut without parameters (option A of section 4.1): subsample, then zero channels."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Basic(nn.Module):
    """Two 3x3 convolutions, each with batch norm, added to the input.

    Args:
        inner: channels between the two convolutions.
        project: where the shape changes the shortcut is a 1x1 convolution with batch norm (option
            B); otherwise it has no parameters (option A).
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, project: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, project)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, each with batch norm, added to the input.

    The 3x3 one strides, as in most libraries and in the npas authors' code, not the first one as
    in He et al.; the parameters are the same.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, project: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, project)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return F.relu(self.norm3(self.conv3(h)) + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, project: bool) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if not project:
        return _Pad(out_channels - in_channels, stride)
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """A stem, groups of residual blocks, and a linear layer on the mean over the pixels.

    Args:
        block: `Basic` or `Bottleneck`.
        n_blocks: blocks of each group; every group after the first halves the image.
        inner: channels inside the blocks of each group.
        channels: channels of the stem, and of the output of each group.
        num_classes: outputs of the linear layer.
        imagenet: the stem is a 7x7 convolution of stride 2 and a max pooling of stride 2, for
            images of 224x224; otherwise a 3x3 convolution, for 32x32.
        project: whether shortcuts that change the shape have parameters.
    """

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        n_blocks: Sequence[int],
        inner: Sequence[int],
        channels: Sequence[int],
        num_classes: int,
        imagenet: bool,
        project: bool = True,
    ) -> None:
        super().__init__()
        size, stride = (7, 2) if imagenet else (3, 1)
        self.stem = nn.Conv2d(3, channels[0], size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.pool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()
        groups = []
        for i, (before, after) in enumerate(pairwise(channels)):
            first = block(before, inner[i], after, 1 if i == 0 else 2, project)
            rest = (block(after, inner[i], after, 1, project) for _ in range(n_blocks[i] - 1))
            groups.append(nn.Sequential(first, *rest))
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(F.relu(self.norm(self.stem(x))))
        return self.head(self.groups(h).mean((2, 3)))


def resnet(
    n_blocks: Sequence[int],
    num_classes: int = 1000,
    imagenet: bool = True,
    factor: float = 1.0,
) -> ResNet:
    """Return a network of four groups of basic blocks of 64, 128, 256 and 512 channels.

    Args:
        n_blocks: blocks of each group: ``(1, 1, 1, 1)`` for ResNet-10, ``(3, 4, 6, 3)`` for 34.
        num_classes: outputs of the linear layer.
        imagenet: for images of 224x224; otherwise for 32x32, see `ResNet`.
        factor: on all channels, rounded.
    """
    inner = [scale(width, factor) for width in (64, 128, 256, 512)]
    return ResNet(Basic, n_blocks, inner, [inner[0], *inner], num_classes, imagenet)


def resnet_cifar(n_blocks: int, num_classes: int = 10, factor: float = 1.0) -> ResNet:
    """Return the network of section 4.2 of He et al., of depth ``6 n_blocks + 2``: ResNet-56 is 9.

    It has 853,018 parameters then, and 125.5M multiply-accumulates an image of 32x32.

    Args:
        n_blocks: blocks in each of the three groups, of 16, 32 and 64 channels.
        num_classes: outputs of the linear layer.
        factor: on all channels, rounded.
    """
    inner = [scale(width, factor) for width in (16, 32, 64)]
    channels = [inner[0], *inner]
    return ResNet(Basic, [n_blocks] * 3, inner, channels, num_classes, False, project=False)


def wrn_bottleneck(
    n_blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 2,
    num_classes: int = 1000,
    factor: float = 1.0,
) -> ResNet:
    """Return ResNet-50 with the channels inside the bottlenecks times ``width``: WRN-50-2.

    It has 68,883,240 parameters and 11.4 billion multiply-accumulates an image of 224x224. The
    npas authors' code has three 3x3 convolutions for a stem, and 19,232 parameters more.

    Args:
        n_blocks: blocks of each group.
        width: factor on the channels inside the blocks, as in the network's name.
        num_classes: outputs of the linear layer.
        factor: on all channels, rounded.
    """
    inner = [scale(width * w, factor) for w in (64, 128, 256, 512)]
    channels = [scale(w, factor) for w in (64, 256, 512, 1024, 2048)]
    return ResNet(Bottleneck, n_blocks, inner, channels, num_classes, imagenet=True)


def _fewer(n_blocks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the groups cut to at most 1, 2, ... blocks, the full ones left out."""
    return [tuple(min(n, most) for n in n_blocks) for most in range(1, max(n_blocks))]


_34 = (3, 4, 6, 3)
_CIFAR_100 = partial(resnet, num_classes=100, imagenet=False)
_NO_COUNT = (
    "none found for CIFAR-100, where NPAS (Plummer et al., 2022), Table 3 has it; "
    "resnet-34-imagenet is the same body with a published count"
)

NETWORKS: dict[str, Network] = {
    "resnet-10": Network(
        make=partial(_CIFAR_100, (1, 1, 1, 1)),
        inputs=images(32),
        family="resnet",
        kind="conv",
        source=_NO_COUNT,
        scaled=lambda factor: _CIFAR_100((1, 1, 1, 1), factor=factor),
    ),
    "resnet-34": Network(
        make=partial(_CIFAR_100, _34),
        inputs=images(32),
        family="resnet",
        kind="conv",
        source=_NO_COUNT,
        scaled=lambda factor: _CIFAR_100(_34, factor=factor),
        shallower=tuple(partial(_CIFAR_100, fewer) for fewer in _fewer(_34)),
    ),
    "resnet-34-imagenet": Network(
        make=partial(resnet, _34),
        inputs=images(224),
        family="resnet",
        kind="conv",
        published="21.8M",
        source="Zagoruyko and Komodakis, 2016, Table 7 (WRN-34 of width 1.0)",
        scaled=lambda factor: resnet(_34, factor=factor),
        shallower=tuple(partial(resnet, fewer) for fewer in _fewer(_34)),
    ),
    "resnet-56": Network(
        make=partial(resnet_cifar, 9),
        inputs=images(32),
        family="resnet",
        kind="conv",
        published="0.85M",
        source="He et al., 2016, Table 6",
        scaled=lambda factor: resnet_cifar(9, factor=factor),
        shallower=tuple(partial(resnet_cifar, n) for n in range(1, 9)),
    ),
    "wrn-50-2": Network(
        make=wrn_bottleneck,
        inputs=images(224),
        family="resnet",
        kind="conv",
        published="68.9M",
        source="Zagoruyko and Komodakis, 2016, Table 8",
        scaled=lambda factor: wrn_bottleneck(factor=factor),
        shallower=tuple(partial(wrn_bottleneck, fewer) for fewer in _fewer(_34)),
    ),
}
