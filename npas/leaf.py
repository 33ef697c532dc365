"""A module whose weights are generated: it makes them when they are read."""

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import fx, nn

from npas.deferred import Deferred, Multiplies, made
from npas.guards import has_hooks
from npas.recompute import LiveWeights

SOURCES = "_npas_sources"
ORDER = "_npas_order"
# Attributes of torch.nn's modules that say how large their weight is.
_SIZES = frozenset({"num_embeddings", "embedding_dim", "in_features", "out_features"})
_SIZES |= {"in_channels", "out_channels", "input_size", "hidden_size"}
# Recurrent layers list their weights beside their parameters, and call with the list.
_LISTED = "_flat_weights"


class Reads(Multiplies, Protocol):
    """A bank."""

    @property
    def live(self) -> LiveWeights:
        """The generated weights that are alive, shared by the banks of a module."""
        ...

    def read(self, layer: str, *, whole: bool = False, hold: bool = True) -> torch.Tensor:
        """Return a layer's weight."""
        ...

    def defer(self, layer: str, *, always: bool) -> Deferred | None:
        """Return what multiplies with a layer's weight, None where the weight is to be made."""
        ...


class Places(Protocol):
    """Where the ranks of a mesh have a weight."""

    def place(self, weight: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of a whole weight."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where one weight of a module comes from.

    Attributes:
        bank: what makes it.
        layer: its name in the bank.
        schedule: one of `npas.passes.schedule.SCHEDULES`.
        rows_only: whether it is an embedding of which only rows are read.
        placed: what makes it this rank's part under tensor parallelism, or None.
    """

    bank: Reads
    layer: str
    schedule: str = "layer"
    rows_only: bool = False
    placed: Places | None = None

    def make(self) -> torch.Tensor:
        """Return the weight, the one of this forward pass where it is kept."""
        weight = self.bank.read(self.layer, whole=self.schedule == "bank")
        return weight if self.placed is None else self.placed.place(weight)

    def defer(self) -> torch.Tensor | Deferred:
        """Return the weight, or what multiplies without it where that may pay."""
        plain = self.schedule in ("auto", "fused") and self.placed is None
        if not plain or torch.compiler.is_compiling():
            return self.make()
        deferred = self.bank.defer(self.layer, always=self.schedule == "fused")
        return self.bank.read(self.layer, hold=False) if deferred is None else deferred


def _linear(module: nn.Linear, weight: torch.Tensor | Deferred, input: torch.Tensor) -> Any:
    if isinstance(weight, Deferred):
        product = weight.linear(input)
        if product is not None:
            return product if module.bias is None else product + module.bias.to(product.dtype)
        weight = weight.make()
    return F.linear(input, weight, module.bias)


def _conv(module: Any, weight: torch.Tensor | Deferred, input: torch.Tensor) -> Any:
    if isinstance(weight, Deferred):
        pointwise = module.groups == 1 and not any(module._reversed_padding_repeated_twice)
        product = weight.conv1x1(input, module.stride) if pointwise else None
        if product is not None:
            if module.bias is None:
                return product
            return product + module.bias.to(product.dtype).view(-1, *(1 for _ in module.stride))
        weight = weight.make()
    return module._conv_forward(input, weight, module.bias)


# Modules whose forward is a function of the weight and the input.
_FUNCTIONAL: Mapping[type, Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
}


class Leaf(nn.Module):
    """Stands in front of a module's class: what is generated is made when it is read.

    The module keeps its name, state, hooks and methods and stays an instance of its class, as with
    ``torch.nn.utils.parametrize``. A graph may pass the weights in ``generated`` (names within the
    module -> weights), which hooks do not see. Safe to call from several threads: nothing is put
    into the module.
    """

    npas_original: type[nn.Module]
    npas_functional: Callable[..., Any] | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a class without telling the original, which may keep a list of its subclasses."""

    def __call__(
        self, *args: Any, generated: dict[str, torch.Tensor | Deferred] | None = None, **kwargs: Any
    ) -> Any:
        """Call the module, with ``generated`` in place where it is given."""
        if generated is None:
            return super().__call__(*args, **kwargs)
        if isinstance(next(iter(generated.values())), fx.Proxy):
            # fx reads a pickled graph by tracing its code, where this is one call.
            return super().__call__(*args, generated=generated, **kwargs)
        functional = self.npas_functional
        if functional is not None and not has_hooks(self):
            return functional(self, generated["weight"], *args, **kwargs)
        if torch.compiler.is_compiling():
            return super().__call__(*args, **kwargs)
        sources = sources_of(self)
        weights = {sources[name].layer: weight for name, weight in made(generated).items()}
        live = next(iter(sources.values())).bank.live
        with live.given(weights):
            return super().__call__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter) and name in sources_of(self):
            raise AttributeError(
                f"{type(self).__name__}.{name} is generated from a bank and cannot be assigned; "
                "call npas.materialize or npas.uncompile_ first to have plain weights"
            )
        if name in _SIZES and value != self.__dict__.get(name, value):
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot become {value}: its weight is generated from "
                "a bank; npas.materialize or npas.uncompile_ first, resize, and compile again"
            )
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as (class of the module, names, state): the class is made again."""
        reduced = super().__reduce_ex__(protocol)
        return _empty, (self.npas_original, tuple(sources_of(self))), *reduced[2:]


def sources_of(module: nn.Module) -> dict[str, Source]:
    """Return name within the module -> source, for the weights of its own that are generated."""
    return module.__dict__.get(SOURCES, {})


def parameter_order(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's parameters as it defined them, generated ones in place."""
    return module.__dict__.get(ORDER, tuple(module._parameters))


def take_over(module: nn.Module, sources: Mapping[str, Source]) -> None:
    """Let a module make some of its parameters from banks, in place.

    Args:
        module: any module; its parameters of these names are dropped.
        sources: name within the module -> source.
    """
    module.__dict__.setdefault(ORDER, tuple(module._parameters))
    for name in sources:
        del module._parameters[name]
    module.__dict__[SOURCES] = {**sources_of(module), **sources}
    module.__dict__.pop(_LISTED, None)
    module.__class__ = leaf_class(type(module), tuple(sources_of(module)))


def take_over_all(root: nn.Module, sources: Mapping[str, Source]) -> None:
    """Let the modules of a model make their weights from banks, in place.

    Args:
        root: any module.
        sources: every fully qualified name of a generated weight -> source.
    """
    owners: dict[str, dict[str, Source]] = {}
    for name, source in sources.items():
        owner, _, local = name.rpartition(".")
        owners.setdefault(owner, {})[local] = source
    changed: set[int] = set()
    for path, found in owners.items():
        module = root.get_submodule(path)
        if id(module) not in changed:
            changed.add(id(module))
            take_over(module, found)


def give_back(module: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
    """Make a module the plain one again, in place.

    Args:
        module: one that `take_over` changed.
        weights: name within the module -> parameter, for every weight that was generated.
    """
    listed = _LISTED in vars(type(module))
    module.__class__ = type(module).npas_original  # pyright: ignore
    del module.__dict__[SOURCES]
    order = module.__dict__.pop(ORDER)
    if listed:
        module.__dict__[_LISTED] = [None] * len(module._flat_weights_names)  # pyright: ignore
    for name, weight in weights.items():
        # By assignment, which recurrent layers follow in the list that they keep.
        setattr(module, name, weight)
    held = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({name: held.pop(name) for name in order if name in held} | held)
    if listed:
        for name in module._flat_weights_names:  # pyright: ignore
            setattr(module, name, getattr(module, name))


def leaf_class(original: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Return a subclass, of the same name, whose weights of these names are generated.

    There is one for each as long as anything uses it; Python lists a class's subclasses.
    """
    for known in original.__subclasses__():
        if known.__dict__.get("npas_names") == names:
            return known
    members: dict[str, Any] = {name: _property(name) for name in names}
    if issubclass(original, nn.RNNBase):
        members[_LISTED] = property(_list_weights, lambda module, weights: None)
    # A hook may make "weight" from another parameter (the older weight_norm and spectral_norm).
    functional = _FUNCTIONAL.get(original) if "weight" in names else None
    rows = original is nn.Embedding and "weight" in names
    members["npas_functional"] = functional and staticmethod(functional)
    members["forward"] = _forward(original, functional, rows)
    members |= {"npas_names": names, "npas_original": original, "__doc__": original.__doc__}
    members |= {"__module__": original.__module__, "__qualname__": original.__qualname__}
    return types.new_class(
        original.__name__, (Leaf, original), exec_body=lambda space: space.update(members)
    )


def _property(name: str) -> property:
    def read(module: nn.Module) -> torch.Tensor:
        sources = sources_of(module)
        # Without sources it is one that ``type(module)(...)`` made, a plain one.
        if name not in sources:
            raise AttributeError(name)
        return sources[name].make()

    return property(read)


def _list_weights(module: Any) -> list[torch.Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _forward(
    original: type[nn.Module], functional: Callable[..., Any] | None, rows: bool
) -> Callable[..., Any]:
    @functools.wraps(original.forward)
    def forward(self: Any, *args: Any, generated: Any = None, **kwargs: Any) -> Any:
        if SOURCES not in self.__dict__:
            return original.forward(self, *args, **kwargs)
        if functional is not None:
            weight = generated["weight"] if generated else self.__dict__[SOURCES]["weight"].defer()
            return functional(self, weight, *args, **kwargs)
        if rows:
            source = self.__dict__[SOURCES]["weight"]
            if source.rows_only and source.placed is None:
                return source.bank(source.layer, rows=args[0] if args else kwargs["input"])
        return original.forward(self, *args, **kwargs)

    return forward


def _empty(original: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls = leaf_class(original, names)
    return cls.__new__(cls)
