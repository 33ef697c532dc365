"""What every op needs: the dtype it sums in, its argument checks, its missing second derivative."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._library.custom_ops import CustomOpDef

OpCall = Callable[..., torch.Tensor]


def sum_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """Return the dtype in which sums are kept: float32, or float64 where an input has it."""
    found = torch.float32
    for tensor in tensors:
        found = torch.promote_types(found, tensor.dtype)
    return found


@contextmanager
def autocast_off(tensor: torch.Tensor) -> Iterator[None]:
    """Keep autocast from casting matrix-vector products inside an op to bfloat16.

    An op's own kernel still runs with autocast's dispatch key on: `torch.mv` on two float32
    tensors would return bfloat16 there.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


def check_vectors(op: str, **tensors: torch.Tensor) -> None:
    """Check that tensors are one-dimensional, floating and on one device.

    Raises:
        ValueError: naming the op, the argument, what was found and what is required.
    """
    device = next(iter(tensors.values())).device
    for name, tensor in tensors.items():
        if tensor.dim() != 1 or not tensor.dtype.is_floating_point or tensor.device != device:
            raise ValueError(
                f"{op}: {name} must be a one-dimensional floating tensor on {device}, found "
                f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
            )


def check_scalar(op: str, coef: torch.Tensor) -> None:
    """Check that an upsampled layer has exactly one coefficient.

    Raises:
        ValueError: if ``coef`` is not of shape [1].
    """
    if coef.numel() != 1:
        raise ValueError(f"{op}: coef must have shape [1], found {tuple(coef.shape)}")


def check_grad(op: str, grad: torch.Tensor, shape: Sequence[int]) -> None:
    """Check the gradient that a backward op is given.

    Raises:
        ValueError: if its shape is not that of the forward op's output.
    """
    if tuple(grad.shape) != tuple(shape):
        raise ValueError(f"{op}: grad must have shape {tuple(shape)}, found {tuple(grad.shape)}")


def check_ids(op: str, ids: torch.Tensor, device: torch.device, n: int, cols: int) -> None:
    """Check the rows that are looked up of a weight of ``n`` elements.

    Their values are read on the CPU only: elsewhere that would wait for the device.

    Raises:
        ValueError: if ``ids`` has the wrong dtype or device, or ``cols`` does not divide ``n``.
        IndexError: if an id is not a row of the weight.
    """
    if cols < 1 or n % cols:
        raise ValueError(f"{op}: cols must divide the weight's {n} elements, found {cols}")
    if ids.dtype not in (torch.int64, torch.int32) or ids.device != device:
        raise ValueError(
            f"{op}: ids must be int64 or int32 on {device}, found {ids.dtype} on {ids.device}"
        )
    if device.type != "cpu" or isinstance(ids, FakeTensor) or not ids.numel():
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= n // cols:
        raise IndexError(
            f"{op}: ids must lie between 0 and {n // cols - 1}, the rows of the weight, found "
            f"{low} to {high}"
        )


def register_gradient(op: CustomOpDef, backward_op_def: CustomOpDef, n_tensors: int) -> OpCall:
    """Make an op differentiable, through its backward op, under autograd, grad and vmap.

    The backward op takes the gradient, the op's own arguments without the last (``dtype``), and
    ``n_tensors`` flags that say which gradients are needed; it returns ``n_tensors`` gradients.

    Args:
        op: the forward op, whose first ``n_tensors`` arguments have gradients.
        backward_op_def: its backward op.
        n_tensors: how many those are.

    Returns:
        What calls the op: with every argument, by position.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        del output
        is_tensor = [isinstance(value, torch.Tensor) for value in inputs]
        ctx.is_tensor = is_tensor[:-1]
        tensors = (value for value, it_is in zip(inputs, is_tensor, strict=True) if it_is)
        ctx.save_for_backward(*tensors)
        ctx.others = [value for value, it_is in zip(inputs, is_tensor, strict=True) if not it_is]

    def differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needs = ctx.needs_input_grad[:n_tensors]
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        inputs = (next(tensors if it_is else others) for it_is in ctx.is_tensor)
        found = backward_op(grad, *inputs, *needs)
        wanted = (d if need else None for d, need in zip(found, needs, strict=True))
        return *wanted, *(None for _ in range(len(ctx.is_tensor) + 1 - n_tensors))

    def forbid(ctx: Any, *grads: Any) -> NoReturn:
        del ctx, grads
        raise NotImplementedError(
            f"{op._qualname} has no second derivative. Take the gradient without "
            "create_graph=True, or differentiate twice through what npas.materialize returns"
        )

    backward_op = _transformable(backward_op_def, lambda ctx, inputs, output: None, forbid)
    return _transformable(op, save, differentiate)


def _transformable(op: CustomOpDef, save: Any, differentiate: Any) -> Callable[..., Any]:
    """Register an op's derivative, and return a call of the op that torch.func can transform."""
    op.register_autograd(differentiate, setup_context=save)
    _loop_over_batch(op)

    # The autograd.Function that register_autograd makes has no setup_context, so torch.func.grad
    # refuses it (torch 2.13); this one is the same with one.
    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(op)
        setup_context = staticmethod(save)
        backward = staticmethod(differentiate)

    def call(*args: Any) -> Any:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return Transformed.apply(*args)
        return op(*args)

    return call


def _loop_over_batch(op: CustomOpDef) -> None:
    """Let vmap call an op once for each element of the batch."""

    def batched(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def element(value: Any, dim: Any, index: int) -> Any:
            return value.select(dim, index) if isinstance(dim, int) else value

        found = [
            op(*(element(v, dim, i) for v, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(found[0], torch.Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0,) * len(found[0])

    op.register_vmap(batched)
