"""From an op's parts to an op: custom ops, fake tensors, autograd, torch.func, dispatch.

Every op has three custom ops: ``npas::<name>`` generates, ``npas::<name>_accumulate`` adds the
gradients of one call to buffers, and ``npas::<name>_backward`` returns them as tensors of their
own, for graphs that are captured or transformed.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch._compile import _disable_dynamo
from torch._ops import OpOverload

from npas.kernels.accumulate import sum_dtype
from npas.kernels.backends import BACKENDS, choose
from npas.kernels.checks import check_grad
from npas.naming import check_choice

OpCall = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Definition:
    """The parts of an op.

    Attributes:
        name: of the op, and of its folder.
        tensors: names of the float tensors that have gradients, the first arguments; the bank
            first of all.
        constants: schema of the arguments that follow, such as ``"int[] table"``.
        check: takes tensors and constants, and raises for what does not fit.
        shape: takes the same, and returns the shape of the output.
        reference: takes the same and ``dtype``: the definition, which autograd differentiates.
        eager: module with ``<name>(*tensors, *constants, dtype)`` and
            ``accumulate(grad, *tensors, *constants, *buffers)``, made of PyTorch's operators.
            A buffer of no elements is a gradient that is not wanted.
        has_kernels: whether the folder has a ``triton.py`` with the same two functions.
    """

    name: str
    tensors: tuple[str, ...]
    constants: str
    check: Callable[..., None]
    shape: Callable[..., Sequence[int]]
    reference: OpCall
    eager: ModuleType
    has_kernels: bool = True

    def implementation(self, backend: str, *tensors: torch.Tensor) -> ModuleType:
        """Return the module that runs a call."""
        check_choice("backend", backend, BACKENDS)
        if self.has_kernels and choose(self.name, backend, *tensors) == "triton":
            return importlib.import_module(f"npas.kernels.{self.name}.triton")
        return self.eager


@dataclass(frozen=True, slots=True)
class Registered:
    """What calls an op; every argument by position, ``dtype`` (of `call`) and ``backend`` last.

    Attributes:
        call: returns what the op makes.
        accumulate: adds the gradients of one call to buffers.
    """

    call: OpCall
    accumulate: Callable[..., None]


def register(op: Definition) -> Registered:
    """Register an op's three custom ops, and return what calls them."""
    n = len(op.tensors)
    tensors = ", ".join(f"Tensor {name}" for name in op.tensors)
    inputs = f"{tensors}, {op.constants}"

    def forward(*args: Any) -> torch.Tensor:
        *given, dtype, backend = args
        op.check(*given)
        made = getattr(op.implementation(backend, *given[:n]), op.name)
        return made(*given, dtype or given[0].dtype)

    def forward_fake(*args: Any) -> torch.Tensor:
        *given, dtype, _ = args
        op.check(*given)
        return given[0].new_empty(op.shape(*given), dtype=dtype or given[0].dtype)

    def accumulate(grad: torch.Tensor, *args: Any) -> None:
        *given, backend = args
        given, buffers = given[:-n], given[-n:]
        op.check(*given)
        check_grad(f"{op.name}_accumulate", grad, op.shape(*given))
        implementation = op.implementation(backend, *given[:n], grad)
        implementation.accumulate(grad, *given, *buffers)

    def backward(grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        *given, needs, backend = args
        op.check(*given)
        check_grad(f"{op.name}_backward", grad, op.shape(*given))
        kept = sum_dtype(grad, *given[:n])
        buffers = [
            tensor.new_zeros(tensor.numel() if need else 0, dtype=kept)
            for need, tensor in zip(needs, given[:n], strict=True)
        ]
        op.implementation(backend, *given[:n], grad).accumulate(grad, *given, *buffers)
        return tuple(b.to(t.dtype) for b, t in zip(buffers, given[:n], strict=True))

    def backward_fake(grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        needs = args[-2]
        pairs = zip(needs, args[:n], strict=True)
        return tuple(tensor.new_empty(tensor.numel() if need else 0) for need, tensor in pairs)

    names = [f"d_{name}" for name in op.tensors]
    buffers = ", ".join(f"Tensor({chr(97 + i)}!) {name}" for i, name in enumerate(names))
    results = ", ".join(["Tensor"] * n)
    forward_op = _define(
        op.name, f"({inputs}, ScalarType? dtype, str backend) -> Tensor", forward, forward_fake
    )
    accumulate_op = _define(
        f"{op.name}_accumulate",
        f"(Tensor grad, {inputs}, {buffers}, str backend) -> ()",
        accumulate,
        lambda *args: None,
    )
    backward_op = _define(
        f"{op.name}_backward",
        f"(Tensor grad, {inputs}, bool[] needs, str backend) -> ({results})",
        backward,
        backward_fake,
    )
    call = _differentiable(forward_op, backward_op, n)

    def with_backend(*args: Any) -> torch.Tensor:
        if args[-1] == "reference":
            op.check(*args[:-2])
            return op.reference(*args[:-1])
        return forward(*args) if _is_seen_by_nobody(args[0]) else call(*args)

    def accumulate_into(grad: torch.Tensor, *args: Any) -> None:
        (accumulate if _is_seen_by_nobody(grad) else accumulate_op)(grad, *args)

    return Registered(with_backend, accumulate_into)


def _is_seen_by_nobody(tensor: torch.Tensor) -> bool:
    """Tell whether a call may leave out the dispatcher: no autograd, no mode, no transform.

    Through two layers of Python that takes 30 us in a loop, and several times that between two
    convolutions, whose data has taken the caches: 5 ms of a step of 440 ms with 17 layers.
    """
    return (
        not torch.is_grad_enabled()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and not tensor.is_meta
    )


def _define(
    name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]
) -> OpOverload:
    """Define an op that runs Python.

    `torch.library.custom_op` does the same and more: it checks what is aliased at every call, for
    25 us, which is as long as a small layer takes.
    """
    qualified = f"npas::{name}"
    torch.library.define(qualified, schema, tags=torch.Tag.needs_exact_strides)
    # Compiled code calls it too, and Dynamo must not look inside.
    torch.library.impl(qualified, "CompositeExplicitAutograd", _disable_dynamo(run))
    torch.library.register_fake(qualified, fake)
    return getattr(torch.ops.npas, name).default


def _differentiable(op: OpOverload, backward_op_def: OpOverload, n_tensors: int) -> OpCall:
    """Make an op differentiable, through its backward op, under autograd, grad and vmap."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        del output
        is_tensor = [isinstance(value, torch.Tensor) for value in inputs]
        ctx.is_tensor = is_tensor
        tensors = (value for value, it_is in zip(inputs, is_tensor, strict=True) if it_is)
        ctx.save_for_backward(*tensors)
        ctx.others = [value for value, it_is in zip(inputs, is_tensor, strict=True) if not it_is]

    def differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[:n_tensors])
        tensors, others = iter(ctx.saved_tensors), iter(ctx.others)
        *inputs, _, backend = (next(tensors if it_is else others) for it_is in ctx.is_tensor)
        found = backward_op(grad, *inputs, needs, backend)
        wanted = (d if need else None for d, need in zip(found, needs, strict=True))
        return *wanted, *(None for _ in range(len(ctx.is_tensor) - n_tensors))

    def forbid(ctx: Any, *grads: Any) -> NoReturn:
        del ctx, grads
        no_second_derivative(_name(op))

    backward_op = _transformable(backward_op_def, lambda ctx, inputs, output: None, forbid)
    return _transformable(op, save, differentiate)


def no_second_derivative(name: str) -> NoReturn:
    """Say that an op has no second derivative, and what has.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        f"{name} has no second derivative. Take the gradient without create_graph=True, compile "
        "with backend='reference' (a product: with schedule='layer'), or differentiate twice "
        "through what npas.materialize returns"
    )


def _name(op: OpOverload) -> str:
    return op._schema.name


def _transformable(op: OpOverload, save: Any, differentiate: Any) -> Callable[..., Any]:
    """Register an op's derivative, and return a call of the op that torch.func can transform."""
    torch.library.register_autograd(_name(op), differentiate, setup_context=save)
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


def _loop_over_batch(op: OpOverload) -> None:
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

    torch.library.register_vmap(_name(op), batched)
