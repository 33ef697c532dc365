"""A bank at run time: one shared flat parameter, and the weights made from it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from npas.kernels import combine, gather_combine, gather_tile_mask, interpolate, tile_mask
from npas.passes.demand import EMBEDDING
from npas.plan import LayerPlan, Plan
from npas.recompute import LiveWeights, Recipe, can_recompute

# Their operators run in autocast's dtype, so the weight is made in it and not cast again.
_AUTOCAST_KINDS = frozenset({"linear", "conv", "transposed conv"})


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a layer's own numbers stand in the bank's parameters."""

    layer: LayerPlan
    index: int
    coefficient: int  # offset in alpha (wavg) or row of phi (emb)
    scale: int | None


@dataclass(frozen=True, slots=True)
class _Cache:
    key: object
    sources: list[torch.Tensor]
    weights: dict[str, torch.Tensor]


class Bank(nn.Module):
    """One shared flat parameter (theta_j of the paper) and what turns it into weights.

    Called with a layer's name it returns that layer's weight; with ``rows`` too, only the rows of
    an embedding that are looked up; with nothing, the weights of all its layers by name.

    Attributes:
        theta: [N] the bank.
        alpha: [sum of K_i] coefficients of the layers that combine with wavg, or None.
        phi: [layers, 24] layer embeddings of those that combine with emb, or None.
        projection: [K, 24] W_j, shared by the bank's emb layers, or None.
        bias: [K] b_j, or None.
        mask: masks of the tiles after the first, in windows of 9, or None.
        scale: one scalar for each layer that starts at zero without a coefficient, or None.
        gain: [layers] fixed scale of each layer, a buffer (float32).
    """

    gain: torch.Tensor

    def __init__(
        self,
        plan: Plan,
        name: str,
        *,
        device: torch.device,
        live: LiveWeights,
        rows_only: frozenset[str] = frozenset(),
    ) -> None:
        """Allocate the bank's parameters, not initialised (`npas.init.initialise` does that)."""
        super().__init__()
        bank, cost = plan.bank_by_name[name], plan.costs[name]
        dtype = getattr(torch, bank.dtype)

        def parameter(*size: int) -> nn.Parameter | None:
            if 0 in size:
                return None
            return nn.Parameter(torch.empty(size, dtype=dtype, device=device))

        n_rows = cost.embeddings // EMBEDDING
        k_emb = cost.projection // (EMBEDDING + 1)
        self.theta = nn.Parameter(torch.empty(bank.size, dtype=dtype, device=device))
        self.alpha = parameter(cost.coefficients)
        self.phi = parameter(n_rows, EMBEDDING)
        self.projection = parameter(k_emb, EMBEDDING)
        self.bias = parameter(k_emb)
        self.mask = parameter(cost.masks)
        self.scale = parameter(cost.scales)
        layers = plan.layers_of(name)
        self.register_buffer("gain", torch.ones(len(layers), device=device))
        self._slots: Mapping[str, _Slot] = _slots(layers)
        self._unit_gain = False
        self._live = live
        self._rows_only = rows_only
        self._cache: _Cache | None = None

    def extra_repr(self) -> str:
        """Return the sizes for ``print``."""
        return f"{self.theta.numel():,} elements, {len(self._slots)} layers"

    def forward(
        self, layer: str | None = None, rows: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Generate one weight, looked-up rows of one weight, or all weights of the bank.

        Args:
            layer: name of the layer, or None for all.
            rows: int64 of any shape: rows of the layer's weight.

        Returns:
            The weight in its layer's shape; ``[*rows.shape, columns]`` with rows; or
            layer name -> weight.
        """
        if rows is not None:
            assert layer is not None
            return self._rows(self._slots[layer], rows)
        if not torch.is_grad_enabled() and (layer is None or self._may_cache()):
            weights = self._all_without_grad()
            return weights if layer is None else weights[layer]
        if layer is None:
            return self._generate_all()
        return self._weight(self._slots[layer])

    def train(self, mode: bool = True) -> "Bank":
        """Set the mode; going back to training drops the cached weights."""
        super().train(mode)
        self.refresh()
        return self

    def refresh(self) -> None:
        """Drop the cached weights of evaluation."""
        self._cache = None

    def set_gains(self, gains: torch.Tensor) -> None:
        """Set the fixed scale of each layer.

        Args:
            gains: [layers] positive.
        """
        with torch.no_grad():
            self.gain.copy_(gains)
        self._note_gains()

    def scale_gain(self, layer: str, factor: float) -> None:
        """Multiply the fixed scale of one layer."""
        with torch.no_grad():
            self.gain[self._slots[layer].index] *= factor
        self._note_gains()

    def generate(self, layer: str) -> torch.Tensor:
        """Return a layer's weight, made now and in the bank's dtype, with grad where enabled."""
        return self._make(self._slots[layer], self.theta.dtype)

    def layer_names(self) -> tuple[str, ...]:
        """Return the names of the bank's layers, in the order of ``gain``."""
        return tuple(self._slots)

    def slot_of(self, layer: str) -> tuple[LayerPlan, int, int | None]:
        """Return a layer's plan, its offset in alpha or row in phi, and its place in scale."""
        slot = self._slots[layer]
        return slot.layer, slot.coefficient, slot.scale

    def _note_gains(self) -> None:
        # Read once, not in forward: on a GPU that would wait for the device.
        self._unit_gain = not self.gain.is_meta and bool((self.gain == 1).all())
        self.refresh()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._note_gains()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}

    def _coefficients(self, slot: _Slot) -> torch.Tensor:
        """Return the layer's coefficients times its gain: [max(1, K_i)]."""
        layer = slot.layer
        gain = self.gain[slot.index]
        if layer.has_coefficients and layer.downsample == "wavg":
            assert self.alpha is not None
            return self.alpha[slot.coefficient : slot.coefficient + layer.k] * gain
        if layer.has_coefficients:
            assert self.phi is not None and self.projection is not None and self.bias is not None
            # Written as a sum: a matrix product would run in bf16 under autocast.
            product = self.projection[: layer.k] * self.phi[slot.coefficient]
            return (product.sum(dim=1) + self.bias[: layer.k]) * gain
        constant = gain / max(1, layer.k)
        if slot.scale is not None:
            assert self.scale is not None
            constant = constant * self.scale[slot.scale]
        return constant.expand(max(1, layer.k))

    def _is_view(self, slot: _Slot) -> bool:
        return self._unit_gain and slot.layer.k == 1 and slot.scale is None

    def _make(self, slot: _Slot, dtype: torch.dtype) -> torch.Tensor:
        layer = slot.layer
        if self._is_view(slot) and dtype == self.theta.dtype:
            weight = self.theta[layer.base : layer.base + layer.n]
        else:
            coefficients = self._coefficients(slot)
            if layer.k:
                table = (layer.base, layer.stride, layer.k, layer.n, 0)
                weight = combine(self.theta, coefficients, table, dtype)
            elif layer.upsample == "inter":
                rows, columns = layer.shape[0], layer.n // layer.shape[0]
                weight = interpolate(self.theta, coefficients, rows, columns, dtype)
            else:
                weight = tile_mask(self.theta, self._mask(layer), coefficients, layer.n, dtype)
        return self._finish(layer, weight)

    def _finish(self, layer: LayerPlan, flat: torch.Tensor) -> torch.Tensor:
        weight = flat.view(layer.shape)
        if layer.padding_idx is None:
            return weight
        empty = weight.new_zeros(layer.shape[1:])
        return torch.select_scatter(weight, empty, 0, layer.padding_idx)

    def _mask(self, layer: LayerPlan) -> torch.Tensor:
        if layer.upsample == "mask":
            assert self.mask is not None
            return self.mask
        return self.theta.new_empty(0)

    def _weight(self, slot: _Slot) -> torch.Tensor:
        dtype = self._dtype(slot.layer)
        weight = self._make(slot, dtype)
        if weight.requires_grad and not self._is_view(slot) and can_recompute():
            sources = tuple(self._sources())
            versions = tuple(source._version for source in sources)
            make = functools.partial(self._make, slot, dtype)
            self._live.add(weight, Recipe(make, sources, versions, slot.layer.name))
        return weight

    def _rows(self, slot: _Slot, rows: torch.Tensor) -> torch.Tensor:
        layer = slot.layer
        columns = layer.n // layer.shape[0]
        if layer.k:
            table = (layer.base, layer.stride, layer.k, layer.n, 0)
            found = gather_combine(
                self.theta, self._coefficients(slot), table, columns, rows, self.theta.dtype
            )
        elif layer.upsample == "inter":
            weight = self._make(slot, self.theta.dtype).view(layer.shape[0], columns)
            return weight[rows].view(*rows.shape, *layer.shape[1:])
        else:
            found = gather_tile_mask(
                self.theta,
                self._mask(layer),
                self._coefficients(slot),
                layer.n,
                columns,
                rows,
                self.theta.dtype,
            )
        if layer.padding_idx is not None:
            found = found.masked_fill((rows == layer.padding_idx).unsqueeze(-1), 0)
        return found

    def _dtype(self, layer: LayerPlan) -> torch.dtype:
        autocast = self._autocast()
        return autocast if autocast and layer.kind in _AUTOCAST_KINDS else self.theta.dtype

    def _autocast(self) -> torch.dtype | None:
        device = self.theta.device.type
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return None
        return torch.get_autocast_dtype(device)

    def _sources(self) -> list[torch.Tensor]:
        return [*self.parameters(recurse=False), self.gain]

    def _may_cache(self) -> bool:
        # Inference tensors have no version counter, so a change in them cannot be seen.
        return not (
            self.training
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or any(source.is_inference() for source in self._sources())
        )

    def _all_without_grad(self) -> dict[str, torch.Tensor]:
        if not self._may_cache():
            return self._generate_all()
        sources = self._sources()
        key = (
            self._autocast(),
            torch.is_inference_mode_enabled(),
            tuple((source.untyped_storage()._cdata, source._version) for source in sources),
        )
        if self._cache is None or self._cache.key != key:
            # The sources are kept too: an address is one storage's only as long as that lives.
            self._cache = _Cache(key, sources, self._generate_all())
        return self._cache.weights

    def _generate_all(self) -> dict[str, torch.Tensor]:
        """Generate every weight: one launch for all layers of one dtype that have templates.

        Embeddings of which only rows are read are left out: made whole, they would cost the
        memory of the dense weight.
        """
        weights: dict[str, torch.Tensor] = {}
        fused: dict[torch.dtype, list[tuple[str, _Slot]]] = {}
        wanted = {n: slot for n, slot in self._slots.items() if n not in self._rows_only}
        for name, slot in wanted.items():
            dtype = self._dtype(slot.layer)
            if slot.layer.k and not self._is_view(slot):
                fused.setdefault(dtype, []).append((name, slot))
            else:
                weights[name] = self._make(slot, dtype)
        for dtype, members in fused.items():
            table: list[int] = []
            offset = 0
            for _, slot in members:
                layer = slot.layer
                table += (layer.base, layer.stride, layer.k, layer.n, offset)
                offset += layer.k
            coefficients = torch.cat([self._coefficients(slot) for _, slot in members])
            flat = combine(self.theta, coefficients, table, dtype)
            pieces = flat.split([slot.layer.n for _, slot in members])
            for (name, slot), piece in zip(members, pieces, strict=True):
                weights[name] = self._finish(slot.layer, piece)
        return {name: weights[name] for name in wanted}


def banks_of(module: nn.Module) -> dict[str, Bank]:
    """Return the banks of a module, by their last name."""
    return {
        name.rpartition(".")[2]: child
        for name, child in module.named_modules()
        if isinstance(child, Bank)
    }


def _slots(layers: tuple[LayerPlan, ...]) -> dict[str, _Slot]:
    slots: dict[str, _Slot] = {}
    n_alpha = n_phi = n_scales = 0
    for index, layer in enumerate(layers):
        scale = None
        coefficient = 0
        if layer.has_coefficients and layer.downsample == "wavg":
            coefficient, n_alpha = n_alpha, n_alpha + layer.k
        elif layer.has_coefficients:
            coefficient, n_phi = n_phi, n_phi + 1
        elif layer.scale:
            scale, n_scales = n_scales, n_scales + 1
        slots[layer.name] = _Slot(layer, index, coefficient, scale)
    return slots
