"""Reference networks, in plain PyTorch: what npas is tested, measured and demonstrated on."""

import torch
from torch import Tensor

# The modules and not their functions: `benchmarks.networks.wrn` stays the module's name.
from benchmarks.networks import (
    adapt,
    bert,
    densenet,
    efficientnet,
    efficientnet_nd,
    embnet,
    mlp,
    recurrent,
    resnet,
    simnet,
    transformer,
    wrn,
)
from benchmarks.networks.spec import Network
from npas.naming import nearest

__all__ = ["NETWORKS", "REFERENCE", "Network", "example_inputs", "network"]

#: name -> the network, of every family: small ones, and those of the npas paper.
NETWORKS: dict[str, Network] = {
    **mlp.NETWORKS,
    **recurrent.NETWORKS,
    **transformer.NETWORKS,
    **wrn.NETWORKS,
    **resnet.NETWORKS,
    **densenet.NETWORKS,
    **efficientnet.NETWORKS,
    **efficientnet_nd.NETWORKS,
    **embnet.NETWORKS,
    **adapt.NETWORKS,
    **simnet.NETWORKS,
    **bert.NETWORKS,
}

#: The small set that other tests and benchmarks run over.
REFERENCE: tuple[str, ...] = (
    "mlp",
    "recurrent",
    "transformer",
    "wrn-16-1",
    "wrn-16-2",
    "wrn-28-10",
)


def network(name: str) -> Network:
    """Return a network by its name.

    Raises:
        KeyError: there is none of this name; the message names the nearest.
    """
    if name not in NETWORKS:
        raise KeyError(f"no network {name!r}{nearest(name, NETWORKS)}; use {', '.join(NETWORKS)}")
    return NETWORKS[name]


def example_inputs(
    name: str, batch: int = 2, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """Return inputs for ``NETWORKS[name].make()``, the same ones at every call.

    Args:
        name: a key of `NETWORKS`.
        batch: number of images, rows or sequences.
        device: where the inputs are. On ``"meta"`` no more than one sample is allocated for it.

    Raises:
        KeyError: ``name`` is not in `NETWORKS`.
    """
    found = network(name)
    if torch.device(device).type == "meta":
        return tuple(x.new_empty(batch, *x.shape[1:], device=device) for x in found.inputs(1))
    return tuple(x.to(device) for x in found.inputs(batch))
