"""What each column of a weight carries: second moments of the layers' inputs on a few batches."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from npas.calibrate import copies_of_buffers, forward_inputs, restore_buffers
from npas.errors import NpasError, is_out_of_memory
from npas.passes.trace import clone_module, first_line, shares_tensors, without_hooks

# What no input reached on these batches counts a hundredth of the mean, not nothing: it may later.
_DAMPING = 0.01
# Sum over the samples of an input, of what each element of the weight is multiplied with, and the
# number of samples.
_Seen = tuple[torch.Tensor, int]


@torch.no_grad()
def second_moments(model: nn.Module, batches: Iterable[Any]) -> dict[str, torch.Tensor]:
    """Run batches through a model and return what each element of its weights is multiplied with.

    Of a linear layer or a convolution the mean square of each input channel, of an embedding each
    row's share of the lookups, with one more of every row: what the squared error of an element
    adds to that of the layer's output, where channels are taken as uncorrelated.

    Args:
        model: the original; it runs in evaluation, on copies of its buffers, and is not changed.
        batches: each a tensor, a tuple of positional or a dict of keyword inputs.

    Returns:
        name of a parameter -> moments of a shape that broadcasts to its own, for those that some
        linear layer, convolution or embedding read.

    Raises:
        NpasError: if there is no batch, or one does not run through the model.
    """
    shadow = without_hooks(clone_module(model, shares_tensors(model))).eval()
    before = copies_of_buffers(shadow)
    names = {id(p): name for name, p in shadow.named_parameters() if p.dim() >= 2}
    watch = _Watch(names)
    count = 0
    try:
        for batch in _iterate(batches):
            args, kwargs = forward_inputs(batch)
            try:
                with watch:
                    shadow(*args, **kwargs)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                raise NpasError(
                    f"fit_batches: batch {count} does not run through {type(model).__name__}: "
                    f"{first_line(error)}; a batch is a tensor, a tuple of positional or a dict of "
                    "keyword inputs, without labels"
                ) from error
            count += 1
    finally:
        restore_buffers(shadow, before)
    if not count:
        raise NpasError("fit_batches: there is no batch in it")
    found = {name: total / max(1, samples) for name, (total, samples) in watch.seen.items()}
    broken = [name for name, moments in found.items() if not bool(moments.isfinite().all())]
    if broken:
        raise NpasError(
            f"fit_batches: the input of {broken[0]} is NaN or infinite on these batches"
        )
    return {name: (m + _DAMPING * m.mean()).float() for name, m in found.items() if bool(m.any())}


def check_batches(batches: object) -> None:
    """Raise an `NpasError` for what is one batch and not several."""
    if isinstance(batches, torch.Tensor | Mapping | tuple | str) or not isinstance(
        batches, Iterable
    ):
        raise NpasError(
            f"fit_batches is a {type(batches).__name__}; it must be a list of batches (or another "
            "iterable that is not a tuple): [batch] for one"
        )


def _iterate(batches: Iterable[Any]) -> Iterable[Any]:
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise NpasError(f"fit_batches: reading a batch failed: {first_line(error)}") from error
        yield batch


class _Watch(TorchFunctionMode):
    """Sees every call of an operator that reads a weight, whatever module makes it."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.seen: dict[str, _Seen] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _READS.get(func)
        if read is None:
            return func(*args, **kwargs)
        given = [*args, *(kwargs[n] for n in ("input", "weight") if n in kwargs)]
        for value in given:
            name = self._names.get(id(value))
            if name is not None:
                total, samples = self.seen.get(name) or _before(func, value)
                more, n = read(given, value, kwargs)
                self.seen[name] = (total + more, samples + n)
        return func(*args, **kwargs)


def _before(func: Any, weight: torch.Tensor) -> _Seen:
    """Return what stands for nothing seen: of an embedding one lookup of each row.

    Most words are in no batch of a few; by their share alone they would count next to nothing.
    """
    if func is not F.embedding:
        return torch.zeros((), dtype=torch.float64, device=weight.device), 0
    return weight.new_ones(len(weight), 1, dtype=torch.float64), len(weight)


def _squares(x: torch.Tensor, channel: int) -> _Seen:
    """Return the sum of squares of each channel, in float64, and the number of positions."""
    moved = x.detach().movedim(channel, -1)
    sums = moved.float().square().flatten(0, -2).sum(dim=0, dtype=torch.float64)
    return sums, x.numel() // x.shape[channel]


def _linear(given: list[Any], weight: torch.Tensor, kwargs: Any) -> _Seen:
    del weight, kwargs
    return _squares(given[0], -1)


def _product(given: list[Any], weight: torch.Tensor, kwargs: Any) -> _Seen:
    """Of x @ weight: rows of the weight are the input's channels."""
    del kwargs
    place = next(i for i, value in enumerate(given) if value is weight)
    if place == 0 or weight.dim() != 2:
        return torch.zeros(weight.shape, dtype=torch.float64, device=weight.device), 0
    sums, n = _squares(given[place - 1], -1)
    return sums[:, None], n


def _conv(dimensions: int, transposed: bool) -> Callable[[list[Any], torch.Tensor, Any], _Seen]:
    def read(given: list[Any], weight: torch.Tensor, kwargs: Any) -> _Seen:
        del kwargs
        sums, n = _squares(given[0], -1 - dimensions)
        ones = (1,) * dimensions
        if transposed:  # [in, out / groups, ...]
            return sums.view(-1, 1, *ones), n
        inside = weight.shape[1]
        groups = len(sums) // inside
        if groups == 1:
            return sums.view(1, -1, *ones), n
        rows = sums.view(groups, inside).repeat_interleave(weight.shape[0] // groups, dim=0)
        return rows.view(*rows.shape, *ones), n

    return read


def _embedding(given: list[Any], weight: torch.Tensor, kwargs: Any) -> _Seen:
    del kwargs
    ids = next(value for value in given if value is not weight)
    counts = torch.bincount(ids.flatten(), minlength=len(weight)).double()
    return counts[:, None], ids.numel()


_READS: Mapping[Any, Callable[[list[Any], torch.Tensor, Any], _Seen]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    torch.addmm: _product,
    torch.mm: _product,
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.__matmul__: _product,
    **{getattr(F, f"conv{d}d"): _conv(d, False) for d in (1, 2, 3)},
    **{getattr(F, f"conv_transpose{d}d"): _conv(d, True) for d in (1, 2, 3)},
}
