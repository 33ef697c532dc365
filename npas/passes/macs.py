"""Multiply-accumulates of every weight, counted on meta tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from npas.errors import NpasError
from npas.passes.trace import clone_module


def count_macs(
    model: nn.Module,
    names: Sequence[str],
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any],
) -> dict[str, int | None]:
    """Count the multiply-accumulates per sample in which each weight takes part.

    The model runs once on meta tensors; an aten operator is booked to the weight whose storage it
    reads, so views (transposed, chunked) count for their weight. Lookups cost none.

    Args:
        model: the module; it is not changed.
        names: weights to count for.
        example_inputs: positional inputs; the first tensor's first dimension is the batch.
        example_kwargs: keyword inputs.

    Returns:
        name -> count; None for all where the model does not run on meta tensors.

    Raises:
        NpasError: if the inputs do not fit the model.
    """
    tensors = {id(t): _meta(t) for t in [*model.parameters(), *model.buffers()]}
    shadow = clone_module(model, tensors).eval()
    parameters = dict(shadow.named_parameters(remove_duplicate=False))
    owners = {parameters[name].untyped_storage()._cdata: name for name in names}
    args, kwargs = tree_map(_meta, (tuple(example_inputs), dict(example_kwargs)))
    samples = _batch(example_inputs, example_kwargs)
    counter = _Counter(owners)
    try:
        # With grad on, nn.TransformerEncoder takes its ordinary path instead of a fused one.
        with torch.enable_grad(), counter:
            shadow(*args, **kwargs)
    except Exception as error:
        if _depends_on_values(error):
            return dict.fromkeys(names)
        raise NpasError(
            f"example inputs do not run through {type(model).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return {name: counter.macs.get(name, 0) // samples for name in names}


class _Counter(TorchDispatchMode):
    def __init__(self, owners: Mapping[int, str]) -> None:
        super().__init__()
        self._owners = owners
        self.macs: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        if func is torch.ops.aten._trilinear.default:
            self._book(_trilinear_macs(*args), args)
        elif formula is not None:
            flops = formula(*args, **kwargs, out_val=out)
            self._book(flops // 2, (args, kwargs))
        return out

    def _book(self, macs: int, values: Any) -> None:
        for leaf in tree_leaves(values):
            if isinstance(leaf, torch.Tensor):
                name = self._owners.get(leaf.untyped_storage()._cdata)
                if name is not None:
                    self.macs[name] = self.macs.get(name, 0) + macs


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
    return value.detach().to("meta") if isinstance(value, torch.Tensor) else value


def _batch(example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any]) -> int:
    for leaf in tree_leaves((tuple(example_inputs), dict(example_kwargs))):
        if isinstance(leaf, torch.Tensor) and leaf.dim() > 0:
            return max(1, leaf.shape[0])
    return 1


def _depends_on_values(error: Exception) -> bool:
    # "Cannot copy out of meta tensor", "Tensor.item() cannot be called on meta tensors", ...
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()
