"""A bank at run time: one shared flat parameter, and the weights made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from npas.autocast import autocast_dtype
from npas.calls import (
    Call,
    Combine,
    CombineRows,
    Factors,
    Interpolate,
    Product,
    Sources,
    TileMask,
    TileMaskRows,
    Window,
)
from npas.deferred import Deferred
from npas.kernels.backends import choose
from npas.kernels.combine.table import AVERAGE, starts
from npas.kernels.combine_linear.cost import fusing_pays
from npas.kernels.combine_linear.op import supported
from npas.passes.demand import EMBEDDING
from npas.plan import LayerPlan, Plan
from npas.recompute import LiveWeights, Recipe, can_recompute, can_sink, is_vmapped
from npas.sharding import gather, in_fsdp, is_sharded, summed
from npas.slots import Slot, slots_of

# Their operators run in autocast's dtype, so the weight is made in it and not cast again.
_AUTOCAST_KINDS = frozenset({"linear", "conv", "transposed conv"})


@dataclass(frozen=True, slots=True)
class _Cache:
    key: object
    storages: list[torch.UntypedStorage]
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Launch:
    """A call that makes weights together, and which."""

    call: Call
    layers: tuple[LayerPlan, ...]
    sizes: tuple[int, ...]


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
    # The gains that were noted last, and their version.
    _noted: tuple[torch.Tensor, int] | None = None
    # The versions of its parameters where it took part in a pass with grad, in evaluation.
    _learns_at: tuple[int, ...] | None = None
    # Of the class too: a module that was pickled before has none.
    _calls: tuple[object, torch.Tensor, Sequence[_Launch]] | None = None

    #: Whether fully_shard made the class.
    _in_fsdp = False
    #: Mesh of ranks that use parts of the weights (`npas.tensor_parallel`), or None.
    summed_over: Any = None
    #: Whether FSDP had one of its parameters, which it writes without counting that as a change.
    _was_sharded = False

    def __init__(
        self,
        plan: Plan,
        name: str,
        *,
        device: torch.device,
        live: LiveWeights,
        rows_only: frozenset[str] = frozenset(),
        backend: str = "auto",
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
        self._slots: Mapping[str, Slot] = slots_of(layers)
        self._ones: tuple[bool, ...] = (False,) * len(layers)
        self._unit_gain = False
        self._live = live
        self._rows_only = rows_only
        self._chosen = backend
        self._cache: _Cache | None = None

    @property
    def _backend(self) -> str:
        # Our operators have no batching rules; what their definitions are made of has.
        return "reference" if is_vmapped() else self._chosen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; not through FSDP's hooks, which would gather and free for each layer."""
        self._follow_gains()
        if self._in_fsdp:
            self.be_whole()
            return self.forward(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Note whether fully_shard makes the class."""
        super().__init_subclass__(**kwargs)
        cls._in_fsdp = in_fsdp(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        """Note where a parameter becomes a shard, as ``fully_shard`` of any unit around does."""
        if name in self.__dict__.get("_parameters", ()) and is_sharded(value):
            self.__dict__["_was_sharded"] = True
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return the sizes for ``print``."""
        return f"{self.theta.numel():,} elements, {len(self._slots)} layers"

    def forward(
        self,
        layer: str | None = None,
        rows: torch.Tensor | None = None,
        *,
        input: torch.Tensor | None = None,
        stride: Sequence[int] = (),
        defer: str | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor] | Deferred:
        """Generate one weight, looked-up rows or a product of one, or all weights of the bank.

        Args:
            layer: name of the layer, or None for all.
            rows: int64 of any shape: rows of the layer's weight.
            input: what to multiply with the weight of a linear layer, or of a convolution of one
                element a channel pair: see `fuses`.
            stride: of the convolution, along each spatial axis; empty for a linear layer.
            defer: ``"pays"`` or ``"always"``: return a `Deferred` in place of a weight that would
                be made now, to be fused where that pays, or wherever it is possible.

        Returns:
            The weight in its layer's shape; ``[*rows.shape, columns]`` with rows; the product; or
            layer name -> weight.
        """
        if input is not None:
            assert layer is not None
            return self._product(self._slots[layer], input, stride)
        if rows is not None:
            assert layer is not None
            return self._rows(self._slots[layer], rows)
        cached = layer is None or (layer not in self._rows_only and self._may_cache())
        if cached and not torch.is_grad_enabled():
            weights = self._all_without_grad()
            return weights if layer is None else weights[layer]
        if layer is None:
            return self._generate_all()
        if self._live.makes_whole and layer not in self._rows_only:
            return self._live.read(layer, self._state(), self._generate_all, hold=False)
        if defer is not None:
            deferred = self.defer(layer, always=defer == "always")
            if deferred is not None:
                return deferred
        return self._weight(self._slots[layer])

    @property
    def live(self) -> LiveWeights:
        """The generated weights that are alive, shared by the banks of a module."""
        return self._live

    def read(self, layer: str, *, whole: bool = False, hold: bool = True) -> torch.Tensor:
        """Return a layer's weight for a module that reads it on its own.

        Args:
            layer: name of the layer.
            whole: whether to make all weights of the bank with it, and keep them for the pass.
            hold: whether it may be read again at once.
        """
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self(layer)
        whole = (whole or self._live.makes_whole) and layer not in self._rows_only
        again = self._slots[layer].layer.uses > 1
        make = self if whole else lambda: {layer: self(layer)}
        return self._live.read(layer, self._state(), make, again=again, hold=hold)

    def _state(self) -> tuple[bool, torch.dtype | None]:
        """Return what a weight depends on besides the bank: grad mode and autocast's dtype."""
        return torch.is_grad_enabled(), self._autocast()

    def defer(self, layer: str, *, always: bool = False) -> Deferred | None:
        """Return what multiplies with a layer's weight, None where the weight is to be made.

        Args:
            layer: name of the layer.
            always: whether to multiply without the weight wherever that is possible.
        """
        self.be_whole()
        if self._live.makes_whole or (self._may_cache() and not torch.is_grad_enabled()):
            return None
        if not self._can_fuse(self._slots[layer], always=always):
            return None
        return Deferred(self, layer, always=always)

    def fuses(self, layer: str, input: torch.Tensor, rows: int, *, always: bool = False) -> bool:
        """Tell whether a layer's product with ``input`` is made without writing its weight.

        Args:
            layer: of a weight that is read as a matrix [out, in].
            input: what it is multiplied with.
            rows: of the input, as a matrix.
            always: whether to do so even where it does not pay.
        """
        slot, dtype = self._slots[layer], self._autocast() or input.dtype
        if not self._can_fuse(slot, always=always) or dtype != self._dtype(slot.layer):
            return False
        training, device = torch.is_grad_enabled(), self.theta.device
        size = slot.layer.k, slot.layer.n, dtype.itemsize
        return always or fusing_pays(rows, *size, training=training, device=device)

    def _can_fuse(self, slot: Slot, *, always: bool) -> bool:
        """Tell whether a product may be made without the weight, whatever its input."""
        layer = slot.layer
        # Only the kernels gain: fusing_pays knows that of the device.
        if not always and self.theta.device.type != "cuda":
            return False
        if not layer.k or layer.padding_idx is not None or self._is_view(slot):
            return False
        if not supported(slot.row):
            return False
        has_kernels = self._backend != "reference"
        return always or (has_kernels and choose("bank", self._backend, self.theta) == "triton")

    def train(self, mode: bool = True) -> "Bank":
        """Set the mode; going back to training drops the cached weights."""
        super().train(mode)
        self.refresh()
        self._learns_at = None
        return self

    def refresh(self) -> None:
        """Drop the cached weights of evaluation."""
        self._cache = None

    def set_gains(self, gains: torch.Tensor) -> None:
        """Set the fixed scale of each layer.

        Args:
            gains: [layers] not 0.
        """
        with torch.no_grad():
            self.gain.copy_(gains)
        self.note_gains()

    def scale_gain(self, layer: str, factor: float) -> None:
        """Multiply the fixed scale of one layer."""
        with torch.no_grad():
            self.gain[self._slots[layer].index] *= factor
        self.note_gains()

    def generate(self, layer: str) -> torch.Tensor:
        """Return a layer's weight, made now and in the bank's dtype, with grad where enabled."""
        self._follow_gains()
        slot = self._slots[layer]
        return self._finish(slot.layer, self._run(self._call([slot], self.theta.dtype)))

    def layer_names(self) -> tuple[str, ...]:
        """Return the names of the bank's layers, in the order of ``gain``."""
        return tuple(self._slots)

    def slot_of(self, layer: str) -> tuple[LayerPlan, int, int | None]:
        """Return a layer's plan, its offset in alpha or row in phi, and its place in scale."""
        slot = self._slots[layer]
        return slot.layer, slot.coefficient, slot.scale

    def note_gains(self) -> None:
        """Take note that gains were written from outside."""
        # Read once, not in forward: on a GPU that would wait for the device. Not by attribute: fx
        # traces those when it reads a pickled graph.
        gain: Any = self._buffers["gain"]
        version = -1 if gain.is_inference() else gain._version
        ones = [False] * len(gain) if gain.is_meta else (gain == 1).tolist()
        self._ones = tuple(ones)
        self._unit_gain = all(ones)
        self._calls = None
        self.refresh()
        self._noted = gain, version  # last: an interrupt before is as if nothing was noted

    def _follow_gains(self) -> None:
        """Note gains that were written from outside: by DDP, a checkpoint, functional_call."""
        gain = self._buffers["gain"]
        if (
            not torch.compiler.is_compiling()
            and type(gain) is torch.Tensor
            and not gain.is_inference()
            and not self._has_noted(gain)
            and not torch._C._are_functorch_transforms_active()
        ):
            self.note_gains()

    def _has_noted(self, gain: torch.Tensor) -> bool:
        noted = self._noted
        return noted is not None and noted[0] is gain and noted[1] == gain._version

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.note_gains()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None, "_calls": None, "_noted": None}

    def sources(self) -> Sources:
        """Return what the weights are made from, with grad where enabled."""
        self.be_whole()
        if not self.training and can_sink():
            self._note_learning()
        empty = self.theta.new_empty(0)
        parts: list[torch.Tensor] = [] if self.alpha is None else [self.alpha]
        if self.phi is not None:
            assert self.projection is not None and self.bias is not None
            # Written as a sum: a matrix product would run in bf16 under autocast.
            product = (self.phi[:, None, :] * self.projection).sum(dim=2) + self.bias
            parts.append(product.flatten())
        for slot in self._slots.values():
            if slot.scale is not None:
                assert self.scale is not None
                k = max(1, slot.layer.k)
                parts.append((self.scale[slot.scale] / k).expand(k))
        # With one kind of coefficient, the usual case, they are read where they are.
        coef = empty if not parts else parts[0] if len(parts) == 1 else torch.cat(parts)
        found = Sources(self.theta, coef, empty if self.mask is None else self.mask)
        return found if self.summed_over is None else summed(found, self.summed_over)

    def _note_learning(self) -> None:
        """Cache nothing from here on, until a change is counted or the mode is set.

        A gradient may follow, and then a step of a fused optimizer, which PyTorch does not count.
        """
        if any(p.requires_grad for p in self.parameters(recurse=False)):
            self._learns_at = self._versions()
            self.refresh()

    def _versions(self) -> tuple[int, ...]:
        held = self.parameters(recurse=False)
        return tuple(0 if p.is_inference() else p._version for p in held)

    def be_whole(self) -> None:
        """Gather the bank if it is sharded; its dtype may change with that."""
        if is_sharded(self.theta):
            gather(self)

    @property
    def computes_coefficients(self) -> bool:
        """Whether its coefficients are more than a parameter that is read."""
        return self.phi is not None or self.scale is not None

    def coefficients(self) -> dict[str, torch.Tensor]:
        """Return what the templates of each layer are multiplied with, apart from its gain.

        Returns:
            layer -> [K_i], for the layers that have templates.
        """
        coef = self.sources().coef
        found: dict[str, torch.Tensor] = {}
        for name, slot in self._slots.items():
            if slot.offset == AVERAGE:
                found[name] = self.theta.new_full((slot.layer.k,), 1 / max(1, slot.layer.k))
            else:
                found[name] = coef[slot.offset : slot.offset + slot.layer.k]
        return {name: values for name, values in found.items() if len(values)}

    def _run(self, call: Call) -> torch.Tensor:
        """Make what a call makes, with grad where enabled."""
        return self._run_all([call])[0]

    def _run_all(self, calls: Sequence[Call]) -> Sequence[torch.Tensor]:
        """Make what calls make, with grad where enabled."""
        if self._backend != "reference" and can_sink():
            return self._live.forward_of(self).run(calls)
        sources = self.sources()
        return [call.make(sources) for call in calls]

    def _product(self, slot: Slot, input: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
        layer = slot.layer
        gain = None if self._unit_gain else self._gains([slot])
        dtype = self._dtype(layer)
        call = Product(slot.row, gain, layer.shape[0], stride, dtype, self._backend)
        input = input.to(dtype)
        if self._backend != "reference" and can_sink():
            return self._live.forward_of(self).multiply(call, input)
        rows = call.rows(input)
        return call.output(call.multiply(self.sources(), rows), rows)

    def _is_view(self, slot: Slot) -> bool:
        return self._ones[slot.index] and slot.layer.k == 1 and slot.scale is None

    def _gains(self, slots: Sequence[Slot]) -> torch.Tensor:
        first, last = slots[0].index, slots[-1].index
        if last - first == len(slots) - 1:
            return self.gain[first : last + 1]
        return self.gain[torch.tensor([slot.index for slot in slots], device=self.gain.device)]

    def _call(self, slots: Sequence[Slot], dtype: torch.dtype) -> Call:
        """Return the call that makes the weights of layers that one op can make together."""
        layer = slots[0].layer
        if self._is_view(slots[0]) and dtype == self.theta.dtype:
            return Window(layer.base, layer.n)
        if layer.k:
            table = tuple(chain.from_iterable(slot.row for slot in slots))
            gain = None if self._unit_gain else self._gains(slots)
            return Combine(table, gain, dtype, self._backend)
        if layer.upsample == "inter":
            columns = layer.n // layer.shape[0]
            factors = self._factors(slots)
            return Interpolate(layer.shape[0], columns, factors, dtype, self._backend)
        sizes = [slot.layer.n for slot in slots]
        masked = layer.upsample == "mask"
        return TileMask(sizes, self._factors(slots), masked, dtype, self._backend)

    def _factors(self, slots: Sequence[Slot]) -> Factors:
        return Factors(self._gains(slots), tuple(slot.offset for slot in slots))

    def _finish(self, layer: LayerPlan, flat: torch.Tensor) -> torch.Tensor:
        weight = flat.view(layer.shape)
        if layer.padding_idx is None:
            return weight
        empty = weight.new_zeros(layer.shape[1:])
        return torch.select_scatter(weight, empty, 0, layer.padding_idx)

    def _weight(self, slot: Slot) -> torch.Tensor:
        dtype = self._dtype(slot.layer)
        call = self._call([slot], dtype)
        weight = self._finish(slot.layer, self._run(call))
        if weight.requires_grad and not isinstance(call, Window) and can_recompute():
            tensors = tuple(self._tensors())
            versions = tuple(tensor._version for tensor in tensors)

            def make() -> torch.Tensor:
                return self._finish(slot.layer, call.make(self.sources()))

            self._live.add(weight, Recipe(make, tensors, versions, slot.layer.name))
        return weight

    def _rows(self, slot: Slot, rows: torch.Tensor) -> torch.Tensor:
        layer, dtype = slot.layer, self.theta.dtype
        columns = layer.n // layer.shape[0]
        if layer.upsample == "inter" and not layer.k:
            weight = self._run(self._call([slot], dtype)).view(layer.shape[0], columns)
            found = weight[rows].view(*rows.shape, *layer.shape[1:])
        elif layer.k:
            gain = None if self._unit_gain else self._gains([slot])
            found = self._run(CombineRows(slot.row, gain, columns, rows, dtype, self._backend))
        else:
            factors, masked = self._factors([slot]), layer.upsample == "mask"
            found = self._run(
                TileMaskRows(layer.n, factors, masked, columns, rows, dtype, self._backend)
            )
        if layer.padding_idx is not None:
            found = found.masked_fill((rows == layer.padding_idx).unsqueeze(-1), 0)
        return found

    def _dtype(self, layer: LayerPlan) -> torch.dtype:
        autocast = self._autocast()
        return autocast if autocast and layer.kind in _AUTOCAST_KINDS else self.theta.dtype

    def _autocast(self) -> torch.dtype | None:
        return autocast_dtype(self.theta.device)

    def _tensors(self) -> list[torch.Tensor]:
        held = (tensor for tensor in self._parameters.values() if tensor is not None)
        return [*held, self.gain]

    def _may_cache(self) -> bool:
        # Inference tensors have no version counter, so a change in them cannot be seen.
        return not (
            self.training
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or any(source.is_inference() for source in self._tensors())
            or self._was_sharded
            or (self._learns_at is not None and self._learns_at == self._versions())
        )

    def _all_without_grad(self) -> dict[str, torch.Tensor]:
        if not self._may_cache():
            return self._generate_all()
        sources = self._tensors()
        # Where a parameter begins counts too: vector_to_parameters makes it a part of another
        # tensor, which is no new version of it, and the rows of a matrix have one storage.
        key = (
            self._autocast(),
            torch.is_inference_mode_enabled(),
            tuple((t._version, t.storage_offset(), t.untyped_storage()._cdata) for t in sources),
        )
        found = self._cache  # read once: another thread may drop it
        if found is None or found.key != key:
            # An address is one storage's only as long as that lives, and a parameter may let go of
            # its own (`parameter.data = other`).
            storages = [source.untyped_storage() for source in sources]
            found = self._cache = _Cache(key, storages, self._generate_all())
        return found.weights

    def _generate_all(self) -> dict[str, torch.Tensor]:
        """Generate every weight in as few launches as there are ops.

        Of one dtype, all that have templates are made together, all that are tiled with masks, and
        all that are tiled without. Embeddings of which only rows are read are left out: made
        whole, they would cost the memory of the dense weight.
        """
        launches = self._launches()
        weights: dict[str, torch.Tensor] = {}
        made = self._run_all([launch.call for launch in launches])
        for launch, flat in zip(launches, made, strict=True):
            for layer, piece in zip(launch.layers, _cut(flat, launch.sizes), strict=True):
                weights[layer.name] = self._finish(layer, piece)
        return {name: weights[name] for name in self._slots if name in weights}

    def _launches(self) -> Sequence[_Launch]:
        """Return the calls that make every weight, the same ones as long as they hold."""
        key = self._autocast(), self.theta.dtype, self._backend
        found = self._calls
        if found is not None and found[0] == key and found[1] is self.gain:
            return found[2]
        fused: dict[object, list[Slot]] = {}
        for name, slot in self._slots.items():
            if name in self._rows_only:
                continue
            dtype = self._dtype(slot.layer)
            alone = (slot.layer.upsample == "inter" and not slot.layer.k) or self._is_view(slot)
            mode = name if alone else slot.layer.upsample if not slot.layer.k else "templates"
            fused.setdefault((dtype, mode), []).append(slot)
        launches = tuple(
            _Launch(
                self._call(slots, self._dtype(slots[0].layer)),
                tuple(slot.layer for slot in slots),
                tuple(slot.layer.n for slot in slots),
            )
            for slots in fused.values()
        )
        self._calls = key, self.gain, launches
        return launches


def banks_of(module: nn.Module) -> dict[str, Bank]:
    """Return the banks of a module, by their last name."""
    return {
        name.rpartition(".")[2]: child
        for name, child in module.named_modules()
        if isinstance(child, Bank)
    }


def _cut(flat: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Return the weights in what an op has made of several."""
    places, end = starts(sizes)
    if not flat.requires_grad or len(sizes) == 1:
        return [flat[first : first + n] for first, n in zip(places, sizes, strict=True)]
    # One split, whose gradient is written once. That of a slice is as large as all weights, with
    # zeros around, and autograd adds those up: 57 ms for a step of EmbNet where this takes 26. The
    # "unsafe" one may be changed in place, as a slice may: nothing else reads what it is cut from.
    lengths = [end - first for first, end in zip(places, (*places[1:], end), strict=True)]
    cuts = [part for n, length in zip(sizes, lengths, strict=True) for part in (n, length - n)]
    return list(torch.unsafe_split_with_sizes(flat, cuts))[::2]
