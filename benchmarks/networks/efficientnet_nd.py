"""EfficientNet for images of 32x32 with network deconvolution.

Source: Ye et al., "Network Deconvolution", ICLR 2020, whose code the npas paper uses (appendix A.3)
on CIFAR-100 (Figure 3, Table 15). It differs from `efficientnet`: a first convolution of stride 1,
ReLU, 3x3 kernels everywhere, excitation after the projection, and no last 1x1 convolution.

The paper puts deconvolution in the place of every batch norm. The code that was published does so
in the first convolution and in the classifier, and keeps batch norm in the blocks. Both are here.
"""

from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.deconvolution import Deconv2d, DeconvLinear
from benchmarks.networks.spec import Network, images, scale

#: expansion, channels, blocks, stride of the first block
_STAGES = (
    (1, 16, 1, 2),
    (6, 24, 2, 1),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 2),
)

#: Which layers are deconvolutions.
Where = Literal["none", "ends", "all"]


def _convolution(
    white: bool,
    in_channels: int,
    out_channels: int,
    size: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> nn.Module:
    """Return a deconvolution, or a convolution and batch norm."""
    if white:
        return Deconv2d(in_channels, out_channels, size, stride, groups)
    convolution = nn.Conv2d(
        in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Expansion, depthwise convolution, projection and excitation, added to the input."""

    def __init__(
        self, white: bool, in_channels: int, expansion: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        inner, squeezed = expansion * in_channels, max(1, out_channels // 16)
        self.expand = _convolution(white, in_channels, inner)
        self.depthwise = _convolution(white, inner, inner, 3, stride, groups=inner)
        self.project = _convolution(white, inner, out_channels)
        pointwise = Deconv2d if white else partial(nn.Conv2d, kernel_size=1)
        self.squeeze = pointwise(out_channels, squeezed)
        self.excite = pointwise(squeezed, out_channels)
        self.shortcut: nn.Module | None = nn.Identity() if stride == 1 else None
        if stride == 1 and in_channels != out_channels:
            self.shortcut = _convolution(white, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.depthwise(F.relu(self.expand(x))))
        h = self.project(h)
        # Where the image shrinks the authors add the block's own output.
        shortcut = h if self.shortcut is None else self.shortcut(x)
        gate = F.relu(self.squeeze(h.mean((2, 3), keepdim=True)))
        return h * self.excite(gate).sigmoid() + shortcut


class EfficientNetND(nn.Module):
    """See `efficientnet_nd`."""

    def __init__(self, num_classes: int, where: Where, factor: float) -> None:
        super().__init__()
        ends, blocks = where != "none", where == "all"
        channels = scale(32, factor)
        # The pixels of an image are the most correlated: twice the iterations, as in the code.
        self.stem = (
            Deconv2d(3, channels, 3, n_iter=10) if ends else _convolution(False, 3, channels, 3)
        )
        layers: list[nn.Module] = []
        for expansion, width, n_blocks, stride in _STAGES:
            for i in range(n_blocks):
                out = scale(width, factor)
                layers.append(Block(blocks, channels, expansion, out, stride if i == 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*layers)
        self.head = (DeconvLinear if ends else nn.Linear)(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def efficientnet_nd(
    num_classes: int = 100, where: Where = "ends", factor: float = 1.0
) -> EfficientNetND:
    """Return the EfficientNet of Ye et al. for images of ``[batch, 3, 32, 32]``.

    A deconvolution has a bias, and the batch norm that it takes the place of had two numbers a
    channel: 32 parameters fewer with ``"ends"``.

    Args:
        num_classes: outputs of the linear layer.
        where: which layers are deconvolutions: ``"ends"``, the first and the last, as in the
            authors' code; ``"all"``, in place of every batch norm; ``"none"``, as its baseline.
        factor: on all channels, rounded.
    """
    return EfficientNetND(num_classes, where, factor)


def _network(where: Where, source: str) -> Network:
    return Network(
        make=partial(efficientnet_nd, where=where),
        inputs=images(32),
        family="efficientnet_nd",
        kind="conv",
        source=source,
        scaled=lambda factor: efficientnet_nd(where=where, factor=factor),
    )


_NO_COUNT = "none: neither Ye et al., 2020, nor NPAS (Plummer et al., 2022) prints one for it"

NETWORKS: dict[str, Network] = {
    "efficientnet-nd": _network("ends", _NO_COUNT),
    "efficientnet-nd-all": _network("all", _NO_COUNT),
}
