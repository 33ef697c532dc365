"""Reference networks, in plain PyTorch: what npas is tested, measured and demonstrated on."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

# The modules and not their functions: `benchmarks.networks.wrn` stays the module's name.
from benchmarks.networks import mlp, recurrent, transformer, wrn

#: name -> a callable that takes nothing and builds the network. Under `torch.device("meta")` it
#: allocates nothing.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": partial(mlp.mlp, depth=4),
    "recurrent": recurrent.recurrent,
    "transformer": transformer.transformer,
    "wrn-16-1": partial(wrn.wrn, depth=16, width=1),
    "wrn-16-2": partial(wrn.wrn, depth=16, width=2),
    "wrn-28-10": partial(wrn.wrn, depth=28, width=10),
}


def example_inputs(
    name: str, batch: int = 2, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """Return inputs for ``NETWORKS[name]()``, the same ones at every call.

    Args:
        name: a key of `NETWORKS`.
        batch: number of images, rows or sequences (sequences are of 16 tokens).
        device: where the inputs are, ``"meta"`` included.

    Raises:
        KeyError: ``name`` is not in `NETWORKS`.
    """
    generator = torch.Generator().manual_seed(0)
    match name.partition("-")[0]:
        case _ if name not in NETWORKS:
            raise KeyError(f"{name!r}: the networks are {', '.join(NETWORKS)}")
        case "wrn":
            x = torch.randn(batch, 3, 32, 32, generator=generator)
        case "mlp":
            x = torch.randn(batch, 784, generator=generator)
        case _:
            x = torch.randint(1000, (batch, 16), generator=generator)
    return (x.to(device),)
