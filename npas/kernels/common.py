"""What every op needs: the dtype it sums in, its argument checks, its missing second derivative."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch.library import CustomOpDef


def sum_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Return the dtype in which sums are kept: float32, or float64 where an input has it."""
    found = torch.float32
    for tensor in tensors:
        found = torch.promote_types(found, tensor.dtype)
    return found


@contextmanager
def autocast_off(tensor: torch.Tensor) -> Iterator[None]:
    """Keep autocast from casting matrix-vector products inside an op to bfloat16.

    An op's own kernel still runs with autocast's dispatch key on: `torch.mv` on two float32
    tensors would return bfloat16 there.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


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
        raise ValueError(
            f"{op}: grad must have shape {tuple(shape)}, found {tuple(grad.shape)}"
        )


def forbid_second_derivative(op: CustomOpDef) -> None:
    """Make a backward op raise, with a way out, when it is itself differentiated."""

    def backward(ctx: Any, *grads: Any) -> NoReturn:
        del ctx, grads
        raise NotImplementedError(
            f"{op._qualname} cannot be differentiated: npas weights have no second derivative. "
            "Take the gradient without create_graph=True, or differentiate twice through the "
            "module that npas.materialize returns"
        )

    op.register_autograd(backward)
