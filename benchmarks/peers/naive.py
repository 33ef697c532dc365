"""What a user would write: a plan of npas with ``torch.nn.utils.parametrize`` on every layer.

The parameters are npas's, and so are the numbers: banks, coefficients, embeddings, masks and
scales. What differs is how a weight is made: ``(templates * alpha[:, None]).sum(0)`` by autograd, a
layer at a time, whole, and again whenever it is read; a layer larger than its bank repeats the bank
and multiplies masks that are as large as the weight.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import npas
from benchmarks import kernel_naive
from benchmarks.peers.base import (
    Built,
    Network,
    Peer,
    PeerError,
    TooSmall,
    generate,
    label,
    n_params,
    owner_of,
)
from npas.bank import Bank, banks_of
from npas.errors import BudgetError, NpasError
from npas.kernels.combine.table import Row
from npas.kernels.interpolate.grid import grid_of
from npas.passes.demand import EMBEDDING
from npas.plan import LayerPlan, Plan


class Shared(nn.Module):
    """What the layers of a bank share.

    Attributes:
        theta: [N] the bank.
        mask: masks of the tiles after the first, or None.
        projection: [K, 24] W_j, or None.
        bias: [K] b_j, or None.
    """

    def __init__(self, plan: Plan, name: str, like: torch.Tensor) -> None:
        """Allocate it with zeros; `Naive.copy_from` fills it."""
        super().__init__()
        cost = plan.costs[name]
        k_emb = cost.projection // (EMBEDDING + 1)

        def parameter(*size: int) -> nn.Parameter | None:
            return nn.Parameter(like.new_zeros(size)) if 0 not in size else None

        self.theta = nn.Parameter(like.new_zeros(plan.bank_by_name[name].size))
        self.mask = parameter(cost.masks)
        self.projection = parameter(k_emb, EMBEDDING)
        self.bias = parameter(k_emb)

    def copy_from(self, bank: Bank) -> None:
        """Take a bank's numbers."""
        for name, own in self.named_parameters():
            own.copy_(bank.get_parameter(name))


class Weight(nn.Module):
    """Makes a layer's weight from its bank and its own numbers.

    Attributes:
        gain: [1] fixed scale, a buffer (float32).
    """

    gain: torch.Tensor

    def __init__(self, shared: Shared, layer: LayerPlan) -> None:
        """Keep the bank, which other layers have too."""
        super().__init__()
        self.shared = shared
        self.layer = layer
        self.register_buffer("gain", shared.theta.new_ones(1, dtype=torch.float32))

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        """Return the weight.

        Args:
            own: [K] coefficients of wavg, [24] embedding of emb, [1] a scale, or nothing.
        """
        layer, theta = self.layer, self.shared.theta
        gain = self.gain.to(theta.dtype)
        factor = gain * own if _scaled(layer) else gain
        if layer.k:
            row = Row(layer.base, layer.stride, layer.k, layer.n, 0)
            alpha = self._alpha(own) * factor
            flat = (kernel_naive.templates(theta, row) * alpha[:, None]).sum(0)
        elif layer.upsample == "inter":
            flat = _interpolated(theta, layer) * factor
        else:
            masked = layer.upsample == "mask" and self.shared.mask is not None
            mask = self.shared.mask if masked else theta.new_empty(0)
            assert mask is not None
            (flat,) = kernel_naive.tile_mask([theta, mask, factor], [[layer.n]])
        weight = flat.view(layer.shape)
        if layer.padding_idx is None:
            return weight
        row_index = torch.tensor([layer.padding_idx], device=weight.device)
        return weight.index_fill(0, row_index, 0)

    def _alpha(self, own: torch.Tensor) -> torch.Tensor:
        """Return the factors of the templates, apart from gain and scale: [K]."""
        k = self.layer.k
        if not self.layer.has_coefficients:
            return self.shared.theta.new_full((k,), 1 / k)
        if self.layer.downsample == "wavg":
            return own
        projection, bias = self.shared.projection, self.shared.bias
        assert projection is not None and bias is not None
        return projection[:k] @ own + bias[:k]


@dataclass(frozen=True, slots=True)
class Naive:
    """A network under a plan, layer by layer.

    Attributes:
        module: the network.
        plan: that it follows.
        shared: bank -> what its layers share, but for banks that are an ordinary parameter.
        weights: layer -> what makes its weight.
        own: layer -> the layer's own numbers.
    """

    module: nn.Module
    plan: Plan
    shared: dict[str, Shared]
    weights: dict[str, Weight]
    own: dict[str, torch.Tensor]

    @torch.no_grad()
    def copy_from(self, ssn: nn.Module) -> None:
        """Take the numbers of a module that npas compiled from the same plan, buffers included."""
        banks = banks_of(ssn)
        for name, shared in self.shared.items():
            shared.copy_from(banks[name])
        for name, weight in self.weights.items():
            bank = banks[weight.layer.bank]
            layer, start, scale = bank.slot_of(name)
            weight.gain.copy_(bank.gain[bank.layer_names().index(name)])
            own = self.own[name]
            if layer.has_coefficients and layer.downsample == "wavg":
                assert bank.alpha is not None
                own.copy_(bank.alpha[start : start + layer.k])
            elif layer.has_coefficients:
                assert bank.phi is not None
                own.copy_(bank.phi[start])
            elif _scaled(layer):
                assert bank.scale is not None and scale is not None
                own.copy_(bank.scale[scale])
        kept = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        given = dict(ssn.named_parameters()) | dict(ssn.named_buffers())
        for name in kept.keys() & given.keys():
            kept[name].copy_(given[name])


def naive(module: nn.Module, plan: Plan) -> Naive:
    """Parametrize every layer of a network by a plan, in place.

    Args:
        module: the network, which is changed; its numbers are to come from `Naive.copy_from`.
        plan: made for it.

    Raises:
        PeerError: for the weights of a recurrent layer, which PyTorch reads from a list.
    """
    parameters = dict(module.named_parameters())
    shared: dict[str, Shared] = {}
    weights: dict[str, Weight] = {}
    own: dict[str, torch.Tensor] = {}
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            continue
        names = (layer.name, *layer.aliases)
        if any(isinstance(owner_of(module, name)[0], nn.RNNBase) for name in names):
            raise PeerError(
                f"parametrize: {layer.name} belongs to a recurrent layer, which reads its weights "
                "from a list and not by name; ignore it in the plan"
            )
        like = parameters[layer.name].detach()
        if layer.bank not in shared:
            shared[layer.bank] = Shared(plan, layer.bank, like)
        weights[layer.name] = Weight(shared[layer.bank], layer)
        own[layer.name] = _own(layer, like)
        for name in names:
            generate(module, name, own[layer.name], weights[layer.name])
    return Naive(module, plan, shared, weights, own)


def build(network: Network, budget: int) -> Built:
    """Plan and start as npas does by default, and make the weights layer by layer.

    Raises:
        PeerError: for a network that npas cannot plan, or with recurrent layers.
        TooSmall: below the smallest budget of npas.
    """
    module = network.make()
    try:
        plan = npas.plan(module, budget)
    except BudgetError as error:
        if error.smallest is None:
            raise PeerError(f"parametrize: {label(network)}: {error}") from error
        raise TooSmall(
            f"parametrize: {label(network)}: its minimum is {error.smallest:,}: {error}",
            error.smallest,
        ) from error
    except NpasError as error:
        raise PeerError(f"parametrize: {label(network)}: {error}") from error
    ssn = npas.compile(module, plan=plan)
    made = naive(module, plan)
    made.copy_from(ssn)
    assert n_params(module) == plan.n_params
    note = f"{len(made.weights)} of {len(plan.layers)} weights made, {len(plan.banks)} banks"
    return Built(module, plan.generation_macs, note)


def _scaled(layer: LayerPlan) -> bool:
    return layer.scale and not layer.has_coefficients


def _own(layer: LayerPlan, like: torch.Tensor) -> torch.Tensor:
    """Return what a layer has for itself: parameters, or a buffer of no elements."""
    if layer.has_coefficients:
        return nn.Parameter(like.new_zeros(layer.k if layer.downsample == "wavg" else EMBEDDING))
    return nn.Parameter(like.new_zeros(1)) if layer.scale else like.new_empty(0)


def _interpolated(theta: torch.Tensor, layer: LayerPlan) -> torch.Tensor:
    rows, columns = layer.shape[0], layer.n // layer.shape[0]
    r, c = grid_of(theta.numel(), rows, columns)
    image = theta.repeat(-(-r * c // theta.numel()))[: r * c].view(1, 1, r, c)
    return F.interpolate(image, (rows, columns), mode="bilinear", align_corners=True).flatten()


PEER = Peer("parametrize", "npas by parametrize", "npas paper, sections 3.1.1 and 3.1.2", build)
