"""The dtype in which the ops sum, with or without autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

# One for all calls: it keeps nothing, and a generator would take 1 us at every weight.
_NOTHING = nullcontext()


def sum_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Return the dtype in which sums are kept: float32, or float64 where an input has it."""
    found = torch.float32
    for tensor in tensors:
        if tensor.dtype != found:
            found = torch.promote_types(found, tensor.dtype)
    return found


def autocast_off(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from casting matrix-vector products inside an op to bfloat16.

    An op's own kernel still runs with autocast's dispatch key on: `torch.mv` on two float32
    tensors would return bfloat16 there.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        return _NOTHING
    return torch.autocast(device, enabled=False)
