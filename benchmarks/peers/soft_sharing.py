"""Soft parameter sharing: the layers of a group are mixtures of the same templates (SWRN).

Source: Savarese and Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR
2019 (arXiv 1902.09701). Layers of one shape in one row of repeated blocks form a group, and layer i
of a group has the weight ``W_i = sum_j alpha_ij T_j``. The templates ``T_j`` are as large as a
weight, and the coefficients start orthogonal.

The groups are those of npas's mapping ``groups="soft_sharing"``: of WRN-28-10, three groups of six
convolutions, and eleven layers that share nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

import npas
from benchmarks.peers.base import (
    Built,
    Network,
    Peer,
    PeerError,
    generate,
    label,
    largest,
    n_params,
    too_small,
)


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share templates.

    Attributes:
        name: of the group, as npas names its bank.
        layers: names of their weights; at least two.
        shape: of each.
    """

    name: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]

    def cost(self, k: int) -> int:
        """Return the parameters of the group with k templates."""
        return k * prod(self.shape) + k * len(self.layers)


class Templates(nn.Module):
    """The templates of a group.

    Attributes:
        templates: [k, *shape].
    """

    def __init__(self, templates: torch.Tensor) -> None:
        """Take the templates as they are at the start."""
        super().__init__()
        self.templates = nn.Parameter(templates)

    def forward(self, alpha: torch.Tensor) -> torch.Tensor:
        """Return the weight of a layer from its coefficients [k]."""
        return (alpha[None] @ self.templates.flatten(1)).view(self.templates.shape[1:])


def groups_of(module: nn.Module) -> tuple[Group, ...]:
    """Return the groups of a network that have at least two layers.

    Raises:
        PeerError: if a layer that would share is tied to another.
    """
    plan = npas.plan(module, "largest", groups="soft_sharing")
    found: list[Group] = []
    for bank in plan.banks:
        layers = plan.layers_of(bank.name)
        if len(layers) == 1:
            continue
        tied = next((layer for layer in layers if layer.aliases), None)
        if tied:
            raise PeerError(
                f"soft_sharing: {tied.name} is tied to {tied.aliases[0]}; untie them or leave this "
                "peer out"
            )
        found.append(Group(bank.name, bank.layers, layers[0].shape))
    return tuple(found)


def soft_sharing(module: nn.Module, k: int | Mapping[str, int]) -> Built:
    """Let the layers of each group share templates, in place.

    Args:
        module: the network, which is changed.
        k: templates of a group, at most as many as it has layers; or of each group by name.

    Raises:
        PeerError: if there is no group, or a layer that would share is tied to another.
    """
    groups = groups_of(module)
    if not groups:
        raise PeerError("soft_sharing: no two layers of one shape stand in repeated blocks")
    weights = dict(module.named_parameters())
    macs = 0
    counts: list[str] = []
    for group in groups:
        n_layers = len(group.layers)
        n_templates = min(k if isinstance(k, int) else k[group.name], n_layers)
        # They start as weights that the network drew for layers of the group.
        drawn = [weights[name].detach() for name in group.layers[:n_templates]]
        shared = Templates(torch.stack(drawn))
        alphas = nn.init.orthogonal_(drawn[0].new_empty(n_layers, n_templates))
        for name, alpha in zip(group.layers, alphas, strict=True):
            generate(module, name, nn.Parameter(alpha.clone()), shared)
        macs += n_layers * n_templates * prod(group.shape)
        counts.append(f"{n_templates} for {n_layers}")
    shown = ", ".join(f"{counts.count(text)} x {text}" for text in dict.fromkeys(counts))
    return Built(module, macs, f"{len(groups)} groups, templates for layers: {shown}")


def build(network: Network, budget: int) -> Built:
    """Share with as many templates as the budget allows.

    Every group gets the same number of templates, or one for each of its layers where those are
    fewer, as in the paper. What is then left gives one more to groups, the largest first.

    Raises:
        PeerError: for a network without layers of one shape in repeated blocks.
        TooSmall: below one template a group.
    """
    module = network.make()
    groups = groups_of(module)
    if not groups:
        raise PeerError(
            f"soft_sharing: {label(network)} has no two layers of one shape in repeated blocks, "
            "and only those share; leave this peer out"
        )
    kept = n_params(module) - sum(len(g.layers) * prod(g.shape) for g in groups)
    most = max(len(group.layers) for group in groups)

    def total(k: int) -> int:
        return kept + sum(group.cost(min(k, len(group.layers))) for group in groups)

    if budget < total(1):
        why = "one template a group and all that shares nothing"
        raise too_small("soft_sharing", network, budget, total(1), why)
    k = largest(1, most, lambda k: total(k) <= budget)
    left = budget - total(k)
    chosen: dict[str, int] = {}
    for group in sorted(groups, key=lambda group: -prod(group.shape)):
        more = group.cost(k + 1) - group.cost(k)
        extra = int(len(group.layers) > k and more <= left)
        chosen[group.name] = k + extra
        left -= extra * more
    return soft_sharing(module, chosen)


PEER = Peer(
    "soft_sharing",
    "Soft parameter sharing (SWRN)",
    "Savarese and Maire, ICLR 2019 (arXiv 1902.09701)",
    build,
)
