"""The training loop of a search, which can stop between two steps and go on there."""

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingType
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npas.errors import DivergedError, NpasError
from npas.progress import shown
from npas.searching.state import Progress, load_state, save_state, set_random_states

# A state is written as often as this, besides at the end of what is interrupted.
_SECONDS_A_SAVE = 60.0


@dataclass(frozen=True, slots=True)
class SearchStep:
    """What callbacks are given after each step.

    Attributes:
        step: number of the step, from 1.
        steps: how many there will be, or None where that is not known.
        loss: of the step.
        module: that is trained.
        optimizer: that trains it; a schedule of the learning rate may set its ``param_groups``.
    """

    step: int
    steps: int | None
    loss: float
    module: nn.Module
    optimizer: torch.optim.Optimizer


class Loop:
    """The training loop, which can stop between two steps and go on there."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[Any, Any], torch.Tensor],
        what: MappingType[str, Any],
        path: Path | None,
        callbacks: tuple[Callable[[SearchStep], None], ...],
    ) -> None:
        self._module, self._optimizer, self._loss_fn = module, optimizer, loss_fn
        self._what, self._path, self._callbacks = what, path, callbacks
        self.done = Progress()

    def run(self, batches: Iterable[Any], steps: int | None, progress: bool | None) -> None:
        """Take the steps that are left."""
        states = None
        if self._path is not None and self._path.exists():
            self.done, states = load_state(self._path, self._what, self._module, self._optimizer)
        n_steps = steps if steps is not None else _length(batches)
        left = None if steps is None else max(0, steps - self.done.step)
        with _interruptible() as interrupted, shown("search", n_steps, progress) as show:
            saved = time.monotonic()
            for batch in islice(self._left(batches, states), left):
                loss = self._step(batch)
                show(self.done.step, f"loss {loss:.4g}")
                seen = SearchStep(self.done.step, n_steps, loss, self._module, self._optimizer)
                try:
                    for callback in self._callbacks:
                        callback(seen)
                except KeyboardInterrupt:
                    interrupted.set()
                if interrupted.is_set():
                    self._stop(n_steps)
                if self._path is not None and time.monotonic() - saved > _SECONDS_A_SAVE:
                    self._save(self._path)
                    saved = time.monotonic()
        if not self.done.step or (steps is not None and self.done.step < steps):
            if self._path is not None and self.done.step:
                self._save(self._path)
            raise NpasError(
                f"batches ended after {self.done.step} of "
                f"{steps if steps is not None else 'at least 1'} steps; pass steps=None to take "
                "all batches, or an iterable with more, such as itertools.chain of several epochs"
            )

    def _left(self, batches: Iterable[Any], states: Any) -> Iterator[Any]:
        """Yield the batches that were not seen, with the generators as they were left."""
        iterator = iter(batches)
        for seen in range(self.done.step):
            if next(iterator, self) is self:
                raise NpasError(
                    f"batches ended after {seen}, but {self.done.step} were seen before the "
                    "search was interrupted; it goes on with the same batches"
                )
        if states is not None:
            set_random_states(states)
        yield from iterator

    @torch.enable_grad()
    def _step(self, batch: Any) -> float:
        loss = self._loss_fn(self._module, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise NpasError(f"loss_fn must return a scalar tensor, found {found}")
        if not loss.requires_grad:
            raise NpasError(
                "loss_fn returned a loss without a gradient: it does not depend on the model it "
                "was given, or was detached"
            )
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()).all():
            raise DivergedError(
                f"the loss is {value} at step {self.done.step + 1}; {self._largest_gradients()}; "
                "use a lower learning rate in optimizer=, or look at the batch"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self.done.add(value)
        return value

    def _largest_gradients(self) -> str:
        """Say which parameters had the largest gradients in the step before."""
        norms = {
            name: float(parameter.grad.norm())
            for name, parameter in self._module.named_parameters()
            if parameter.grad is not None
        }
        if not norms:
            return "it was the first step"
        # A NaN is larger than any number.
        order = sorted(norms, key=lambda name: (norms[name] == norms[name], -norms[name]))
        largest = ", ".join(f"{name} {norms[name]:.3g}" for name in order[:3])
        return f"largest gradients in the step before: {largest}"

    def _stop(self, n_steps: int | None) -> None:
        path = self._path
        if path is None:
            with tempfile.NamedTemporaryFile(
                prefix="npas-search-", suffix=".pt", delete=False
            ) as file:
                path = Path(file.name)
        self._save(path)
        message = (
            f"search stopped after step {self.done.step}"
            f"{'' if n_steps is None else f' of {n_steps}'}; go on with the same call and "
            f"checkpoint={str(path)!r}"
        )
        print(message, file=sys.stderr, flush=True)
        raise KeyboardInterrupt(message)

    def _save(self, path: Path) -> None:
        save_state(path, self._what, self.done, self._module, self._optimizer)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is never cut; the second one raises."""
    event = threading.Event()
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if ours else None
    if before is not signal.default_int_handler:
        # Not the main thread, or a handler of the user's, who decides.
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            signal.default_int_handler(number, frame)
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None
