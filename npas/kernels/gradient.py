"""Autograd for the ops: a forward op, its backward op, and no second derivative."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch._library.custom_ops import CustomOpDef

OpCall = Callable[..., torch.Tensor]


def empty_gradients(needs: Sequence[bool], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what a backward op returns, with no values: an empty tensor where not needed."""
    pairs = zip(needs, tensors, strict=True)
    return tuple(tensor.new_empty(tensor.numel() if need else 0) for need, tensor in pairs)


def register_gradient(op: CustomOpDef, backward_op_def: CustomOpDef, n_tensors: int) -> OpCall:
    """Make an op differentiable, through its backward op, under autograd, grad and vmap.

    The backward op takes the gradient, the op's own arguments without the last (``dtype``), and a
    list of flags that say which of ``n_tensors`` gradients are needed; it returns as many.

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
        needs = list(ctx.needs_input_grad[:n_tensors])
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        inputs = (next(tensors if it_is else others) for it_is in ctx.is_tensor)
        found = backward_op(grad, *inputs, needs)
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
