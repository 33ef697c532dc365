"""What autocast does on a device."""

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast casts to on a device, None where it is off or unknown there.

    PyTorch raises when it is asked of a kind of device that has no autocast, such as meta.
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
