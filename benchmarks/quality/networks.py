"""The networks that are trained: those of the paper at reduced width and depth."""

from functools import partial

from benchmarks.networks.densenet import densenet_bc
from benchmarks.networks.efficientnet_nd import efficientnet_nd
from benchmarks.networks.resnet import resnet_cifar
from benchmarks.networks.spec import OUR_OWN, Network, images
from benchmarks.networks.wrn import wrn
from benchmarks.quality import pair_networks, pretrained_models, text_networks
from benchmarks.sources import Sources
from npas.naming import nearest


def _wrn(depth: int, width: int, in_channels: int = 3, stem: int = 16) -> Network:
    make = partial(wrn, width=width, stem=stem, in_channels=in_channels)
    return Network(
        make=partial(make, depth),
        inputs=images(32) if in_channels == 3 else _grey,
        family="wrn",
        kind="conv",
        source=OUR_OWN,
        scaled=lambda factor: make(depth, factor=factor),
        shallower=tuple(partial(make, fewer) for fewer in range(10, depth, 6)),
    )


def _grey(batch: int) -> tuple:
    return tuple(x[:, :1] for x in images(32)(batch))


def _densenet(depth: int, growth: int) -> Network:
    return Network(
        make=partial(densenet_bc, depth, growth),
        inputs=images(32),
        family="densenet",
        kind="conv",
        source=OUR_OWN,
        scaled=lambda factor: densenet_bc(depth, growth, factor=factor),
        shallower=tuple(partial(densenet_bc, fewer, growth) for fewer in range(10, depth, 6)),
    )


def _resnet(n_blocks: int) -> Network:
    return Network(
        make=partial(resnet_cifar, n_blocks),
        inputs=images(32),
        family="resnet",
        kind="conv",
        source=OUR_OWN,
        scaled=lambda factor: resnet_cifar(n_blocks, factor=factor),
        shallower=tuple(partial(resnet_cifar, fewer) for fewer in range(1, n_blocks)),
    )


def _efficientnet(half: float) -> Network:
    # Of Ye et al. for 32x32, with batch norm; the npas paper trains it with deconvolutions.
    make = partial(efficientnet_nd, 10, "none")
    return Network(
        make=partial(make, half),
        inputs=images(32),
        family="efficientnet_nd",
        kind="conv",
        source=OUR_OWN,
        scaled=lambda factor: make(half * factor),
    )


#: name -> network; those of images have ten classes, and ``-grey`` takes one channel.
NETWORKS: dict[str, Network] = {
    "wrn-16-1": _wrn(16, 1),
    "wrn-16-2": _wrn(16, 2),
    "wrn-16-1-grey": _wrn(16, 1, in_channels=1),
    "wrn-16-2-grey": _wrn(16, 2, in_channels=1),
    "wrn-22-1": _wrn(22, 1),
    "wrn-28-1": _wrn(28, 1),
    "wrn-28-2": _wrn(28, 2),
    "wrn-40-1": _wrn(40, 1),
    "wrn-40-2": _wrn(40, 2),
    "wrn-22-tiny-grey": _wrn(22, 1, in_channels=1, stem=4),
    "densenet-bc-28-12": _densenet(28, 12),
    "efficientnet-small": _efficientnet(0.5),
    "resnet-20": _resnet(3),
    **text_networks.NETWORKS,
    **pair_networks.NETWORKS,
}


def network(name: str, sources: Sources | None = None) -> Network:
    """Return a network by its name.

    Args:
        name: of `NETWORKS`, or of one whose weights are installed.
        sources: folders that weights are looked for in, when it is made, before build/models.

    Raises:
        KeyError: with the nearest name, if there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    known = (*NETWORKS, *pretrained_models.NETWORKS)
    if name not in known:
        raise KeyError(f"no network {name!r}{nearest(name, known)}; use {', '.join(known)}")
    return pretrained_models.NETWORKS[name](sources or Sources())
