"""Calls under autograd: in eager mode the gradients of a bank's layers are added up in place.

While the backward pass goes on they go to one set of buffers (`Sink`): autograd by itself would
make a gradient as large as the bank for every layer, and add them up. Graphs that are captured or
transformed use the ops' own derivatives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from npas.calls import Call, Product, Sources
from npas.kernels.accumulate import sum_dtype
from npas.kernels.registration import no_second_derivative


class Sink:
    """Where the gradients of one bank's calls in one forward pass are added up.

    Attributes:
        sources: what the weights are made from, detached.
        wanted: which of them have a gradient.
    """

    def __init__(self, sources: Sources, be_whole: Callable[[], None]) -> None:
        """Take the sources as they are, with or without gradient."""
        self._be_whole = be_whole
        self.sources = Sources(*(source.detach() for source in sources))
        self._versions = self._found_versions()
        self.wanted = tuple(source.requires_grad for source in sources)
        self._buffers: dict[int, Sources] = {}

    def _found_versions(self) -> tuple[int, ...]:
        # Those that share memory with a parameter count its changes.
        return tuple(0 if s.is_inference() else s._version for s in self.sources)

    def check(self) -> None:
        """Check that nothing was changed in place since the forward pass.

        Autograd would notice it by saved tensors, but those it frees after one backward pass, and
        what a bank makes may be needed by several: one loss after the other.

        A bank that FSDP freed is gathered again: a backward pass that another one came before.

        Raises:
            RuntimeError: if a source was changed.
        """
        self._be_whole()
        if self._versions != self._found_versions():
            raise RuntimeError(
                "a bank's parameters, needed for gradient computation, have been modified by an "
                "inplace operation since the forward pass; call backward before optimizer.step()"
            )

    def buffers(self) -> Sources:
        """Return the buffers of the backward pass that runs now."""
        # One graph may run backward twice, in part, or in two threads: each has its own.
        task = torch._C._current_graph_task_id()
        if task not in self._buffers:
            kept = sum_dtype(*self.sources)
            self._buffers[task] = Sources(
                *(
                    source.new_zeros(source.numel() if want else 0, dtype=kept)
                    for source, want in zip(self.sources, self.wanted, strict=True)
                )
            )
        return self._buffers[task]

    def take(self) -> Sources | None:
        """Return what was added up in the backward pass that runs now, and forget it."""
        return self._buffers.pop(torch._C._current_graph_task_id(), None)


class _Root(torch.autograd.Function):
    """Runs last in the backward pass: gives bank, coefficients and masks what the sink holds."""

    @staticmethod
    def forward(ctx: Any, sink: Sink, *sources: torch.Tensor) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.sink = sink
        # A token: it has no values, and ties every call to this node.
        return sources[0].new_empty(0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        del grads
        sink = ctx.sink
        found = sink.take()
        if found is None:
            return (None,) * 4
        gradients = [
            buffer.to(source.dtype) if want else None
            for buffer, source, want in zip(found, sink.sources, sink.wanted, strict=True)
        ]
        if torch.is_grad_enabled():
            gradients = [g if g is None else _Last.apply(g.requires_grad_()) for g in gradients]
        return None, *gradients


class _Last(torch.autograd.Function):
    """A gradient that was taken with create_graph=True, and must not be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        del ctx
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        del ctx, grads
        no_second_derivative("weight generation")


class _Made(torch.autograd.Function):
    """Calls whose gradients go into the sink."""

    @staticmethod
    def forward(
        ctx: Any, token: torch.Tensor, sink: Sink, calls: Sequence[Call]
    ) -> tuple[torch.Tensor, ...]:
        del token
        ctx.set_materialize_grads(False)
        ctx.sink, ctx.calls = sink, calls
        return tuple(call.make(sink.sources) for call in calls)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, None]:
        sink = ctx.sink
        sink.check()
        with torch.no_grad():
            for call, grad in zip(ctx.calls, grads, strict=True):
                if grad is not None:
                    call.accumulate(grad, sink.sources, sink.buffers())
        return None, None, None


class _Multiplied(torch.autograd.Function):
    """One product, whose gradients go into the sink, that of its rows excepted."""

    @staticmethod
    def forward(
        ctx: Any, token: torch.Tensor, rows: torch.Tensor, sink: Sink, call: Product
    ) -> torch.Tensor:
        del token
        ctx.sink, ctx.call = sink, call
        ctx.save_for_backward(rows, *sink.sources)
        return call.multiply(sink.sources, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, torch.Tensor | None, None, None]:
        ctx.sink.check()
        rows, *sources = ctx.saved_tensors
        buffers, want = ctx.sink.buffers(), ctx.needs_input_grad[1]
        with torch.no_grad():
            found = ctx.call.accumulate(grads[0], Sources(*sources), rows, buffers, want)
        if found is not None and torch.is_grad_enabled():
            found = _Last.apply(found.requires_grad_())
        return None, found, None, None


class Forward:
    """One bank in one forward pass: its sources, and the sink of their gradients."""

    def __init__(self, sources: Sources, be_whole: Callable[[], None]) -> None:
        """Tie the sources to a sink; ``be_whole`` gathers them where they are sharded."""
        self._sink = Sink(sources, be_whole)
        self._token: torch.Tensor = _Root.apply(self._sink, *sources)  # pyright: ignore

    @property
    def sources(self) -> Sources:
        """What the weights are made from, detached."""
        return self._sink.sources

    def run(self, calls: Sequence[Call]) -> tuple[torch.Tensor, ...]:
        """Return what calls make, with grad."""
        return _Made.apply(self._token, self._sink, calls)  # pyright: ignore

    def multiply(self, call: Product, input: torch.Tensor) -> torch.Tensor:
        """Return a product with a weight that is never written, with grad."""
        rows = call.rows(input)
        made: Any = _Multiplied.apply(self._token, rows, self._sink, call)
        return call.output(made, rows)
