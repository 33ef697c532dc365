"""Network deconvolution: layers that whiten their input.

Source: Ye et al., "Network Deconvolution", ICLR 2020, section 3, and its code. A convolution is a
product of its weight and the columns of its input (im2col). Columns of neighbouring pixels and
channels are correlated; a deconvolution layer takes their mean away and multiplies by the inverse
square root of their covariance before the weight, so that no batch norm is needed. The product is
made with the weight and not with the columns, which are never built at full size:

    w * (D (x - m)) = (w D) * x - w D m,    D = (C + eps I)^(-1/2)

Channels are taken in blocks that share one covariance; a convolution in groups has a covariance
for each group; pixels are subsampled where it is estimated; the root is by coupled Newton-Schulz
iterations; in evaluation, running means of m and D are used.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def inverse_root(matrix: Tensor, n_iter: int) -> Tensor:
    """Return the inverse square roots of positive definite matrices ``[..., n, n]``.

    Coupled Newton-Schulz (Higham, "Functions of Matrices", 2008, chapter 6), on the matrix over
    its Frobenius norm: y goes to the root and z to its inverse. Small eigenvalues come last: a
    direction of ``share`` of the norm needs about ``log(1 / share) / log(9 / 4)`` iterations.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, identity.expand_as(matrix)
    for _ in range(n_iter):
        step = 1.5 * identity - 0.5 * z @ y
        y, z = y @ step, step @ z
    return z / norm.sqrt()


class Whitening(nn.Module):
    """Mean and whitening matrix of sets of vectors; in evaluation, running means of both.

    Args:
        sets: number of sets, each with its own statistics.
        n_features: length of a vector.
        eps: added to the covariance's diagonal.
        n_iter: Newton-Schulz iterations.
        momentum: share of a batch in the running means.
    """

    running_mean: Tensor
    running_root: Tensor

    def __init__(
        self, sets: int, n_features: int, eps: float, n_iter: int, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.eps, self.n_iter, self.momentum = eps, n_iter, momentum
        self.register_buffer("running_mean", torch.zeros(sets, n_features))
        self.register_buffer("running_root", torch.eye(n_features).repeat(sets, 1, 1))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return means ``[sets, n_features]`` and matrices ``[sets, n_features, n_features]``.

        Args:
            vectors: ``[sets, samples, n_features]``.
        """
        if not self.training:
            return self.running_mean, self.running_root
        mean = vectors.mean(1)
        centred = vectors - mean.unsqueeze(1)
        covariance = centred.transpose(1, 2) @ centred / vectors.shape[1]
        identity = torch.eye(covariance.shape[-1], dtype=vectors.dtype, device=vectors.device)
        root = inverse_root(covariance + self.eps * identity, self.n_iter)
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_root.lerp_(root.detach(), self.momentum)
        return mean, root


class Deconv2d(nn.Conv2d):
    """A convolution of whitened columns, with zero padding of half the kernel.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: as of `nn.Conv2d`.
        block: channels at most that are whitened together; the greatest common divisor with
            ``in_channels`` is. In groups it is a group's channels.
        sampling: columns are taken at every so many pixels where the covariance is estimated.
        eps, n_iter: see `Whitening`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        block: int = 64,
        sampling: int = 3,
        eps: float = 1e-5,
        n_iter: int = 5,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups
        )
        whole = in_channels // groups
        self.block = whole if groups > 1 or block > whole else math.gcd(block, whole)
        self.pad, self.every = kernel_size // 2, sampling * stride
        n_features = self.block * kernel_size**2
        self.whitening = Whitening(groups, n_features, eps, n_iter)

    def columns(self, x: Tensor) -> Tensor:
        """Return the columns of an image ``[batch, channels, height, width]`` that are sampled.

        Returns:
            ``[groups, samples, block * kernel area]``. Blocks of one group are samples alike.
        """
        found = F.unfold(x, self.kernel_size, padding=self.pad, stride=self.every)
        blocks = found.unflatten(1, (self.groups, -1, self.block * self.kernel_size[0] ** 2))
        return blocks.permute(1, 0, 2, 4, 3).flatten(1, 3)

    def forward(self, input: Tensor) -> Tensor:
        mean, root = self.whitening(self.columns(input))
        # [groups, out channels of the group and blocks, block * kernel area]
        weight = self.weight.reshape(self.groups, -1, root.shape[-1]) @ root
        shift = (weight @ mean.unsqueeze(-1)).reshape(self.out_channels, -1).sum(1)
        bias = -shift if self.bias is None else self.bias - shift
        weight = weight.reshape(self.weight.shape)
        return F.conv2d(input, weight, bias, self.stride, self.pad, groups=self.groups)


class DeconvLinear(nn.Linear):
    """A linear layer of whitened features; ``[batch, in_features]``, all of them together."""

    def __init__(
        self, in_features: int, out_features: int, eps: float = 1e-5, n_iter: int = 5
    ) -> None:
        super().__init__(in_features, out_features)
        self.whitening = Whitening(1, in_features, eps, n_iter)

    def forward(self, input: Tensor) -> Tensor:
        mean, root = self.whitening(input.unsqueeze(0))
        weight = self.weight @ root[0]
        return F.linear(input, weight, self.bias - weight @ mean[0])
