"""Checks of the arguments that several ops share; each message names the op and the argument."""

from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor


def check_vectors(op: str, **tensors: torch.Tensor) -> None:
    """Check that tensors are one-dimensional, floating and on one device.

    Raises:
        ValueError: naming the op, the argument, what was found and what is required.
    """
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or not tensor.dtype.is_floating_point or tensor.device != device:
            raise ValueError(
                f"{op}: {name} must be a one-dimensional floating tensor on {device}, found "
                f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
            )


def check_scalar(op: str, coef: torch.Tensor) -> None:
    """Check that an upsampled layer has exactly one coefficient.

    Raises:
        ValueError: if ``coef`` is not of shape [1].
    """
    if coef.numel() != 1:
        raise ValueError(f"{op}: coef must have shape [1], found {tuple(coef.shape)}")


def check_grad(op: str, grad: torch.Tensor, shape: Sequence[int]) -> None:
    """Check the gradient that a backward op is given.

    Raises:
        ValueError: if its shape is not that of the forward op's output.
    """
    if tuple(grad.shape) != tuple(shape):
        raise ValueError(f"{op}: grad must have shape {tuple(shape)}, found {tuple(grad.shape)}")


def check_ids(op: str, ids: torch.Tensor, device: torch.device, n: int, cols: int) -> None:
    """Check the rows that are looked up of a weight of ``n`` elements.

    Their values are read on the CPU only: elsewhere that would wait for the device.

    Raises:
        ValueError: if ``ids`` has the wrong dtype or device, or ``cols`` does not divide ``n``.
        IndexError: if an id is not a row of the weight.
    """
    if cols < 1 or n % cols:
        raise ValueError(f"{op}: cols must divide the weight's {n} elements, found {cols}")
    if ids.dtype not in (torch.int64, torch.int32) or ids.device != device:
        raise ValueError(
            f"{op}: ids must be int64 or int32 on {device}, found {ids.dtype} on {ids.device}"
        )
    # Under torch.func a batch of them has no values; indexing checks them there.
    hidden = isinstance(ids, FakeTensor) or torch._C._are_functorch_transforms_active()
    if device.type != "cpu" or hidden or not ids.numel():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= n // cols:
        raise IndexError(
            f"{op}: ids must lie between 0 and {n // cols - 1}, the rows of the weight, found "
            f"{low} to {high}"
        )


def check_gain(op: str, theta: torch.Tensor, gain: torch.Tensor | None, n_rows: int) -> None:
    """Check the fixed factors of a call's weights.

    Raises:
        ValueError: if there is not one for each weight, on the bank's device.
    """
    if gain is not None:
        check_vectors(op, theta=theta, gain=gain)
        if gain.numel() != n_rows:
            raise ValueError(f"{op}: gain must have shape [{n_rows}], found {tuple(gain.shape)}")
