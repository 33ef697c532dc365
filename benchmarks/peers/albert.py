"""Cross-layer sharing as in ALBERT: repeated blocks are one block.

Source: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
ICLR 2020 (arXiv 1909.11942), section 3.1: all parameters are shared across layers: attention,
feed-forward network, biases and norms. ALBERT's other changes (the factorised embedding, the loss)
are not part of it. Each block keeps its own buffers: ALBERT has none, and running statistics belong
to one place in the network.

What is repeated are neighbours of one structure in a ``Sequential`` or ``ModuleList``: the same
modules with the same settings and parameters of the same shapes. Every such run outside of another
is shared; a network such as BERT has one.
"""

from itertools import groupby

from torch import nn

from benchmarks.peers.base import Built, Network, Peer, PeerError, label, n_params, too_small


def structure(module: nn.Module) -> tuple[object, ...]:
    """Return what two modules have in common if they compute the same but for their numbers."""
    own = tuple((name, tuple(p.shape), p.dtype) for name, p in module.named_parameters())
    parts = tuple((name, type(m), m.extra_repr()) for name, m in module.named_modules())
    return own, parts


def runs(module: nn.Module) -> tuple[tuple[nn.Module, ...], ...]:
    """Return the runs of equal neighbours with parameters, none inside another."""
    found: list[tuple[nn.Module, ...]] = []
    alone = list(module.children())
    if isinstance(module, nn.Sequential | nn.ModuleList):
        rows = [list(row) for _, row in groupby(module.children(), structure)]
        repeated = [row for row in rows if len(row) > 1 and any(True for _ in row[0].parameters())]
        found = [tuple(row) for row in repeated]
        alone = [block for row in rows if row not in repeated for block in row]
    return (*found, *(run for block in alone for run in runs(block)))


def share_blocks(module: nn.Module) -> Built:
    """Let repeated blocks have the parameters of the first of them, in place.

    Raises:
        PeerError: if nothing is repeated.
    """
    found = runs(module)
    if not found:
        raise PeerError("albert: no two neighbours in a Sequential or ModuleList are of one kind")
    for first, *others in found:
        for block in others:
            for name, own in first.named_modules(remove_duplicate=False):
                for last, parameter in own.named_parameters(recurse=False):
                    block.get_submodule(name).register_parameter(last, parameter)
    shown = ", ".join(f"{len(run)} x {type(run[0]).__name__}" for run in found)
    return Built(module, 0, f"blocks that are one: {shown}")


def build(network: Network, budget: int) -> Built:
    """Share the repeated blocks of a network; there is nothing to choose.

    Raises:
        PeerError: for a network without repeated blocks.
        TooSmall: below what is left when they are shared.
    """
    module = network.make()
    try:
        built = share_blocks(module)
    except PeerError as error:
        raise PeerError(f"{error}, in {label(network)}; leave this peer out") from None
    total = n_params(module)
    if budget < total:
        why = "one of its repeated blocks and all else"
        raise too_small("albert", network, budget, total, why)
    return built


PEER = Peer("albert", "ALBERT sharing", "Lan et al., ICLR 2020 (arXiv 1909.11942)", build)
