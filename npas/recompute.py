"""Recomputation: generated weights are not kept for the backward pass but made again there."""

import contextlib
import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from npas.calls import Sources
from npas.generation import Forward


class Generates(Protocol):
    """A bank."""

    @property
    def computes_coefficients(self) -> bool:
        """Whether its coefficients are more than a parameter that is read."""
        ...

    def sources(self) -> Sources:
        """Return what its weights are made from."""
        ...

    def be_whole(self) -> None:
        """Gather it if it is sharded."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How to make a generated weight again.

    Attributes:
        make: returns the weight, with grad disabled.
        sources: what it is made from.
        versions: version counters of the sources when it was first made.
        name: of the layer, for messages.
    """

    make: Callable[[], torch.Tensor]
    sources: tuple[torch.Tensor, ...]
    versions: tuple[int, ...]
    name: str

    def check(self) -> None:
        """Check that the sources are what they were.

        Raises:
            RuntimeError: if one was changed in place since.
        """
        if tuple(source._version for source in self.sources) != self.versions:
            raise RuntimeError(
                f"the bank of {self.name} was changed in place between forward and backward; call "
                "backward before optimizer.step(), or compile with recompute=False"
            )

    def __call__(self) -> torch.Tensor:
        """Make the weight again.

        Raises:
            RuntimeError: if a source was changed in place since.
        """
        self.check()
        with torch.no_grad():
            return self.make()


# Weights that modules read on their own are held until this many others were made: code often asks
# a weight for its dtype or shape and reads it again at once.
_HELD = 2


class _Pass(threading.local):
    """What one thread's forward pass has made so far.

    Attributes:
        banks: how each bank takes part, by its id; None outside a pass.
        given: layer -> weight that a graph has made for the module that it calls.
        recent: the last weights that were read, each with its layer and state.
        kept: (layer, state) -> weight, of those that are read again.
        seen: (layer, state) of all that were read.
        hooks: what packs saved tensors in this pass.
        learns: whether what is read again is remembered.
    """

    def __init__(self) -> None:
        self.given: dict[str, torch.Tensor] = {}
        self.start(None)

    def start(self, banks: dict[int, Forward] | None) -> dict[str, Any]:
        """Begin with nothing made; return what there was."""
        old = {n: v for n, v in self.__dict__.items() if n != "given"}
        self.banks = banks
        self.recent: deque[tuple[object, torch.Tensor]] = deque(maxlen=_HELD)
        self.kept: dict[object, torch.Tensor] = {}
        self.seen: set[object] = set()
        self.hooks: object = None
        self.learns = True
        return old

    def restore(self, old: dict[str, Any]) -> None:
        """Go on with what `start` returned."""
        self.__dict__.update(old)


class LiveWeights:
    """The generated weights that are alive now, by storage, and the banks of a forward pass.

    One object a compiled module, shared by its banks; copies and pickles start empty.

    Attributes:
        whole: whether a bank makes all of its weights when a pass with grad reads the first.
    """

    def __init__(self, whole: bool = False) -> None:
        """Start with none."""
        self.whole = whole
        self._recipes: dict[int, tuple[weakref.ref[torch.Tensor], int, Recipe]] = {}
        self._pass = _Pass()
        self._reused: set[str] = set()

    @contextlib.contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Let every bank take part once in what this thread runs inside."""
        outer = self._pass.start({})
        self.note_hooks()
        # Activation checkpointing around the pass runs it again, and must find it the same.
        self._pass.learns = self._pass.hooks is None
        try:
            yield
        finally:
            self._pass.restore(outer)

    def note_hooks(self) -> None:
        """Remember what packs saved tensors in this pass from here on."""
        self._pass.hooks = _pack_hook()

    @property
    def makes_whole(self) -> bool:
        """Whether a bank's weights are made together here: in eager mode, in a pass with grad."""
        if not (self.whole and can_sink()):  # asked first: a compiler knows what it says
            return False
        return self._pass.banks is not None and not self._is_checkpointed()

    def _is_checkpointed(self) -> bool:
        """Tell whether this thread is inside of something that will be run again on its own.

        Activation checkpointing compares what is saved, so that nothing may come from outside.
        """
        return _pack_hook() is not self._pass.hooks

    @contextlib.contextmanager
    def given(self, weights: dict[str, torch.Tensor]) -> Iterator[None]:
        """Let `read` return these weights (by layer) to what this thread runs inside."""
        outer = self._pass.given
        self._pass.given = outer | weights
        try:
            yield
        finally:
            self._pass.given = outer

    def read(
        self,
        layer: str,
        state: object,
        make: Callable[[], dict[str, torch.Tensor]],
        *,
        again: bool = False,
        hold: bool = True,
    ) -> torch.Tensor:
        """Return a layer's weight, made once a forward pass where it is read several times.

        That a weight is read again is found out in the first pass that does so, and remembered.
        Others are dropped soon, so that not all are alive at once.

        Args:
            layer: its name.
            state: what it depends on besides the bank: grad mode and autocast's dtype.
            make: makes it, and others that are to be kept with it until the pass ends.
            again: whether it is known to be read again.
            hold: whether it may be read again at once.
        """
        here, key = self._pass, (layer, state)
        if layer in here.given:
            return here.given[layer]
        if here.banks is None or self._is_checkpointed():
            return make()[layer]
        for found, weight in (*here.recent, (key, here.kept.get(key))):
            if found == key and weight is not None:
                return weight
        weights = make()
        if key in here.seen and here.learns:
            self._reused.add(layer)
        here.seen.add(key)
        reused = here.learns and layer in self._reused
        if again or reused or len(weights) > 1:
            here.kept.update({(name, state): weight for name, weight in weights.items()})
        elif hold:
            here.recent.append((key, weights[layer]))
        return weights[layer]

    def forward_of(self, bank: Generates) -> Forward:
        """Return how a bank takes part in the forward pass that this thread runs.

        What is checkpointed takes part in the pass around it: with a sink of its own each part
        would add a gradient as large as the bank. But coefficients that are computed are computed
        inside, since checkpointing compares what is saved with what is saved when it runs again.
        """
        banks = self._pass.banks
        if banks is None or (bank.computes_coefficients and self._is_checkpointed()):
            return Forward(bank.sources(), bank.be_whole)
        if id(bank) not in banks:
            banks[id(bank)] = Forward(bank.sources(), bank.be_whole)
        return banks[id(bank)]

    def __deepcopy__(self, memo: dict[int, Any]) -> "LiveWeights":
        """Return an empty one: a copy of a module has generated nothing yet."""
        return memo.setdefault(id(self), LiveWeights(self.whole))

    def __reduce__(self) -> tuple[type, tuple[bool]]:
        """Pickle as an empty one."""
        return LiveWeights, (self.whole,)

    def add(self, weight: torch.Tensor, recipe: Recipe) -> None:
        """Remember a weight for as long as its tensor lives.

        A storage address can be used again once the weight is gone, so the entry goes with it.
        """
        key = weight.untyped_storage()._cdata
        gone = weakref.ref(weight, lambda _: self._recipes.pop(key, None))
        self._recipes[key] = (gone, weight._version, recipe)

    def find(self, tensor: torch.Tensor) -> Recipe | None:
        """Return the recipe of the weight that a tensor is a view of, if it is one."""
        if tensor.layout != torch.strided:
            return None  # a sparse tensor has no storage of its own
        found = self._recipes.get(tensor.untyped_storage()._cdata)
        if found is None or found[0]() is None or tensor._version != found[1]:
            return None  # changed in place, a weight is not what its recipe makes
        return found[2]


@dataclass(frozen=True, slots=True)
class _Packed:
    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


# What is packed instead of a tensor that is no generated weight: (what the hook outside made of it,
# None), or (the tensor, its version). A tuple, since it is one for every tensor that is saved: an
# object of a class takes 0.4 us more, of 12 for each convolution with its norm.
_Kept = tuple[Any, int | None]


class _MadeAgain:
    """Weights of one forward pass that are made again; it lives as long as the pass's graph."""

    def __init__(self) -> None:
        self._saved: dict[Recipe, int] = {}
        self._left: dict[Recipe, int] = {}
        self._held: dict[Recipe, torch.Tensor] = {}

    def note(self, recipe: Recipe) -> None:
        """Count an operation that saves the weight."""
        self._saved[recipe] = self._saved.get(recipe, 0) + 1

    def get(self, recipe: Recipe) -> torch.Tensor:
        """Return the weight, and hold it while operations are left that need it."""
        left = self._left.pop(recipe, self._saved[recipe]) - 1
        weight = self._held.pop(recipe, None)
        if weight is None:
            weight = recipe()
        else:
            recipe.check()
        if left > 0:  # otherwise a retained graph begins again
            self._held[recipe], self._left[recipe] = weight, left
        return weight


@contextlib.contextmanager
def recompute_scope(live: LiveWeights) -> Iterator[None]:
    """Save recipes instead of generated weights in every operation run inside.

    A weight that several operations save (each step of a recurrent layer) is made again once and
    held from the first of them that needs it to the last. Other tensors go to the hooks that were
    active outside (activation checkpointing, offloading), or are kept as they are, with autograd's
    own check for changes in place.
    """
    outer = _outer_hooks()
    again = _MadeAgain()

    def pack(tensor: torch.Tensor) -> _Packed | _Kept:
        recipe = live.find(tensor)
        if recipe is not None:
            again.note(recipe)
            return _Packed(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))
        if outer is not None:
            return outer[0](tensor), None
        return tensor, tensor._version

    def unpack(packed: _Packed | _Kept) -> torch.Tensor:
        if isinstance(packed, _Packed):
            return again.get(packed.recipe).as_strided(packed.size, packed.stride, packed.offset)
        value, version = packed
        if version is None:
            assert outer is not None
            return outer[1](value)
        if value._version != version:
            raise RuntimeError(
                "a tensor needed for the backward pass was changed in place: its version is "
                f"{value._version}, expected {version}"
            )
        return value

    with saved_tensors_hooks(pack, unpack):
        live.note_hooks()
        yield


def _pack_hook() -> object:
    """Return what packs saved tensors now, if anything does."""
    hooks = _outer_hooks() if _autograd()._saved_tensors_hooks_is_enabled() else None
    return None if hooks is None else hooks[0]


def _outer_hooks() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return the pack and unpack hooks that are active, if any."""
    return _autograd()._top_saved_tensors_default_hooks(True)


def _autograd() -> Any:
    return getattr(torch._C, "_autograd")  # noqa: B009 (missing from torch's stubs)


def is_vmapped() -> bool:
    """Tell whether torch.func.vmap runs what runs."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009 (missing from torch's stubs)
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)


def can_sink() -> bool:
    """Tell whether gradients can be added up in place: eager mode, with grad, no torch.func."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def can_recompute() -> bool:
    """Tell whether saved-tensor hooks work here: where `can_sink` holds, and none forbids them."""
    return can_sink() and _autograd()._saved_tensors_hooks_is_enabled()


def can_recompute_compiled() -> bool:
    """Tell whether a graph is being compiled that will have a backward pass."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
    )


def recompute_compiled(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call something so that the compiled backward pass makes its generated weights again.

    Saved-tensor hooks break a compiled graph; selective activation checkpointing does not. It
    keeps the results of every operation but ours.
    """
    return checkpoint(call, *args, use_reentrant=False, context_fn=_selective, **kwargs)


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    del ctx, args, kwargs
    ours = getattr(op, "namespace", None) == "npas"
    return CheckpointPolicy.MUST_RECOMPUTE if ours else CheckpointPolicy.MUST_SAVE


_selective = functools.partial(create_selective_checkpoint_contexts, _policy)
