"""What one forward does with every weight, seen on meta tensors."""

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from npas.errors import NpasError, is_out_of_memory
from npas.guards import has_hooks
from npas.passes.trace import clone_all, clone_module, without_hooks

# What an aten operator makes of a weight that it reads.
_KINDS = {
    "mm": "linear",
    "addmm": "linear",
    "bmm": "linear",
    "baddbmm": "linear",
    "_grouped_mm": "linear",
    "_trilinear": "bilinear",
    "embedding": "embedding",
    "_embedding_bag": "embedding bag",
}


@dataclass(slots=True)
class Use:
    """What one run of the model does with a weight.

    Attributes:
        macs: multiply-accumulates per sample.
        reads: operators that read it, views excepted.
        kind: what the first of them makes of it (``"linear"``, ...), or None.
        lookups: those of the reads that look up rows of it.
        rows: rows that they look up per sample.
        fixed_rows: rows that they look up for all samples together (positions), told apart by the
            first size of the indices where the batch has more than one sample.
    """

    macs: int = 0
    reads: int = 0
    kind: str | None = None
    lookups: int = 0
    rows: int = 0
    fixed_rows: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a model does.

    Attributes:
        uses: weight -> what was done with it.
        macs: multiply-accumulates per sample, those between activations (attention) included.
    """

    uses: Mapping[str, Use]
    macs: int


def watch(
    model: nn.Module,
    names: Sequence[str],
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any],
    *,
    training: bool = False,
    hooks: bool = False,
) -> Run | None:
    """Run a model once on meta tensors and see what becomes of each weight.

    An aten operator is booked to the weight whose storage it reads, so views (transposed, chunked)
    count for their weight. Lookups cost no multiply-accumulates.

    Args:
        model: the module; it is not changed.
        names: weights to count for.
        example_inputs: positional inputs; the first tensor's first dimension is the batch.
        example_kwargs: keyword inputs.
        training: the mode to run it in.
        hooks: whether to keep the model's hooks; without them if it runs so: they may be anything.

    Returns:
        What was done with the weights; None where the model does not run on meta tensors.

    Raises:
        NpasError: if the inputs do not fit the model.
    """
    tensors = {id(t): _meta(t) for t in [*model.parameters(), *model.buffers()]}
    shadow = clone_module(model, tensors)
    if not hooks:
        without_hooks(shadow)
    shadow.train(training)
    parameters = dict(shadow.named_parameters(remove_duplicate=False))
    owners = {parameters[name].untyped_storage()._cdata: name for name in names}
    args, kwargs = tree_map(_meta, (tuple(example_inputs), dict(example_kwargs)))
    samples = _batch(example_inputs, example_kwargs)
    counter = _Counter(owners, samples)
    try:
        # With grad on, nn.TransformerEncoder takes its ordinary path instead of a fused one.
        with torch.enable_grad(), warnings.catch_warnings(), counter:
            warnings.simplefilter("ignore")
            result = shadow(*args, **kwargs)
            if isinstance(result, Iterator):
                deque(result, maxlen=0)  # a generator runs as it is read
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if not hooks and any(map(has_hooks, model.modules())):
            given = example_inputs, example_kwargs
            return watch(model, names, *given, training=training, hooks=True)
        if _depends_on_values(error) or _runs(model, example_inputs, example_kwargs):
            return None
        raise NpasError(
            f"example inputs do not run through {type(model).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    for use in counter.uses.values():
        use.macs //= samples
        use.rows //= samples
    return Run(counter.uses, counter.macs // samples)


class _Counter(TorchDispatchMode):
    def __init__(self, owners: Mapping[int, str], samples: int) -> None:
        super().__init__()
        self._owners = owners
        self._samples = samples
        self.uses = {name: Use() for name in owners.values()}
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        read = self._weights(*args, *kwargs.values())
        read = read - self._weights(out) if read else read
        macs = 0
        if func is torch.ops.aten._trilinear.default:
            macs = _trilinear_macs(*args)
        elif formula is not None:
            macs = formula(*args, **kwargs, out_val=out) // 2
        self.macs += macs
        kind = _kind(func, args)
        for name in read:
            use = self.uses[name]
            use.macs += macs
            use.reads += 1
            use.kind = use.kind or kind
            if kind == "embedding":
                self._look_up(use, args[1])
        return out

    def _look_up(self, use: Use, indices: torch.Tensor) -> None:
        use.lookups += 1
        if indices.dim() and indices.shape[0] == self._samples:
            use.rows += indices.numel()
        else:
            use.fixed_rows += indices.numel()

    def _weights(self, *values: Any) -> set[str]:
        """Return the weights whose storage is among the arguments or results of an operator."""
        found: set[str] = set()
        for value in values:
            if isinstance(value, torch.Tensor):
                if value.layout == torch.strided:
                    name = self._owners.get(value.untyped_storage()._cdata)
                    if name is not None:
                        found.add(name)
            elif isinstance(value, list | tuple):
                found |= self._weights(*value)
        return found


def _kind(func: Any, args: Any) -> str | None:
    name = func._overloadpacket.__name__
    if name == "convolution":
        return "transposed conv" if args[6] else "conv"
    return _KINDS.get(name)


def _trilinear_macs(
    left: torch.Tensor,
    weight: torch.Tensor,
    right: torch.Tensor,
    expand_left: list[int],
    expand_weight: list[int],
    expand_right: list[int],
    *_: Any,
) -> int:
    """Return the products that nn.Bilinear sums, for which torch has no formula."""
    sizes: list[tuple[int, ...]] = []
    operands = ((left, expand_left), (weight, expand_weight), (right, expand_right))
    for tensor, dimensions in operands:
        for dimension in sorted(dimensions):
            tensor = tensor.unsqueeze(dimension)
        sizes.append(tuple(tensor.shape))
    return math.prod(torch.broadcast_shapes(*sizes))


def _meta(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.detach().to("meta"), requires_grad=value.requires_grad)
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to("meta").requires_grad_(value.requires_grad)


def _batch(example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any]) -> int:
    for leaf in tree_leaves((tuple(example_inputs), dict(example_kwargs))):
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            return max(1, leaf.shape[0])
    return 1


def _runs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a copy of a real model runs: some operators only fail on meta tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(tensor.is_meta for tensor in (*tensors, *inputs)):
        return False
    try:
        with torch.no_grad():
            shadow = clone_all(model)
            shadow.eval()
            shadow(*args, **kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def _depends_on_values(error: Exception) -> bool:
    # "Cannot copy out of meta tensor", "Tensor.item() cannot be called on meta tensors", ...
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()
