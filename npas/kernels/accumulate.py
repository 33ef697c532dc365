"""The dtype in which the ops sum, with or without autocast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
