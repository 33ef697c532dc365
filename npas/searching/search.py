"""Learn which layers share (3.2): a short training of the model with one small bank for all."""

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping as MappingType, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npas.arguments import check_keywords, check_model
from npas.budget import parse_budget
from npas.compiled import subclass
from npas.errors import NpasError
from npas.leaf import Source, take_over_all
from npas.mapping import Mapping
from npas.naming import as_tuple, check_choice
from npas.passes.collect import Inventory, collect
from npas.passes.structure import analyse
from npas.passes.trace import clone_all
from npas.passes.verify import steady
from npas.planning import resolve
from npas.progress import shown
from npas.searching.bank import METHODS, STARTS, SearchBank
from npas.searching.cluster import check_groups, cluster
from npas.searching.state import (
    Progress,
    load_state,
    save_state,
    seeded,
    set_random_states,
)
from npas.tools import param_groups

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
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


@torch.inference_mode(False)
def search_model(
    model: nn.Module,
    *,
    method: str = "emb",
    templates: int = 8,
    start: str = "equal",
    target_modules: Iterable[str] | None = None,
    ignored_modules: Iterable[str] | None = None,
    example_inputs: Sequence[Any] = (),
    example_kwargs: MappingType[str, Any] | None = None,
) -> nn.Module:
    """Return a copy of a model to train in a loop of your own, for `cluster` afterwards (3.2).

    All its layers take their weights from one bank as large as the largest of them: a weight is a
    learned sum of K' even templates, resized bilinearly to the weight's matrix [out, rest]. It
    starts at the scale of the original; numbers are drawn from torch's global generator.

    Args:
        model: any module, with weights on a real device; it is not changed.
        method: ``"emb"``: a layer is represented by its embedding phi [24]; ``"wavg"``: by its
            coefficients alpha [K'] (3.1.1).
        templates: K'.
        start: ``"equal"``: all layers start with the same coefficients, so that what tells them
            apart is what was learned; ``"orthogonal"``: as the paper starts, where a short search
            mostly finds the start again (docs/search.md).
        target_modules: patterns: only these weights, as for `npas.plan`.
        ignored_modules: patterns: not these weights.
        example_inputs: positional inputs of forward, by which kinds are told where there is no
            graph of fx.
        example_kwargs: keyword inputs of forward.

    Raises:
        NpasError: for arguments that do not fit, or a model with fewer than two layers.
    """
    module, _ = _search_model(
        model,
        method,
        templates,
        start,
        target_modules,
        ignored_modules,
        as_tuple(example_inputs),
        example_kwargs,
    )
    return module


@torch.inference_mode(False)
def search(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[Any, Any], torch.Tensor],
    *,
    groups: int | str = "auto",
    method: str = "emb",
    steps: int | None = None,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    budget: str | int | float | None = None,
    templates: int = 8,
    start: str = "equal",
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callable[[SearchStep], None]] = (),
    progress: bool | None = None,
    target_modules: Iterable[str] | None = None,
    ignored_modules: Iterable[str] | None = None,
    example_inputs: Sequence[Any] = (),
    example_kwargs: MappingType[str, Any] | None = None,
) -> Mapping:
    """Learn which layers should share a bank (3.2): `search_model`, training, and `cluster`.

    The paper spends 10 to 15% of the training time on it. The same seed, batches and number of
    threads give the same mapping, byte for byte. Ctrl-C ends the step, saves, says how to go on,
    and raises KeyboardInterrupt; going on gives the mapping that an uninterrupted search gives.

    Args:
        model: any module, with weights on a real device; it is not changed.
        batches: what to train on; a search that goes on skips the batches that were seen, so they
            must come in the same order again (numbers that they draw from global generators are
            seeded by ``seed``).
        loss_fn: ``loss_fn(model, batch) -> scalar``.
        groups: number of banks, or ``"auto"``: see `cluster`.
        method: ``"emb"`` or ``"wavg"``: see `search_model`.
        steps: how many; None is all batches.
        optimizer: makes the optimizer from parameter groups, such as
            ``lambda groups: torch.optim.SGD(groups, lr=0.1)``; AdamW at 1e-3 by default.
        seed: of the start, of what is drawn during training, and of k-means.
        budget: that the mapping is for, which ``groups="auto"`` needs: more banks than it can
            feed are merged. Without it, as many as the model's parameters feed.
        templates: K': see `search_model`.
        start: of the coefficients: see `search_model`.
        checkpoint: file to save the state to (every minute, and when interrupted), and to go on
            from if it is there; removed at the end. Without it an interrupted search is saved to
            the folder for temporary files.
        callbacks: called after each step with a `SearchStep`.
        progress: whether to draw a progress bar on standard error; None: where that is a terminal.
        target_modules: patterns: only these weights, as for `npas.plan`.
        ignored_modules: patterns: not these weights.
        example_inputs: as for `search_model`.
        example_kwargs: as for `search_model`.

    Raises:
        NpasError: for arguments that do not fit, batches that end early, a loss that is no scalar,
            has no gradient, or is not finite.
        CheckpointError: if the checkpoint cannot be written, or is that of another search.
    """
    _check(batches, loss_fn, groups, steps, optimizer, seed, budget)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.parent.is_dir():
        raise NpasError(f"checkpoint={str(checkpoint)!r}: the folder {path.parent} is not there")
    with seeded(seed):
        module, inventory = _search_model(
            model,
            method,
            templates,
            start,
            target_modules,
            ignored_modules,
            as_tuple(example_inputs),
            example_kwargs,
        )
        check_groups(groups, len(inventory.weights))
        # "largest" lets every bank hold its largest layer, as a budget of 100% does.
        found_share = None if budget is None else resolve(parse_budget(budget), inventory)[1]
        share = 1.0 if found_share is None else max(found_share, sys.float_info.min)
        optimizer = optimizer or (lambda groups: torch.optim.AdamW(groups, lr=1e-3))
        made = optimizer(param_groups(module))
        if not isinstance(made, torch.optim.Optimizer):
            raise NpasError(
                f"optimizer made a {type(made).__name__}; it must return a torch optimizer"
            )
        what = {
            "layers": [[w.name, list(w.shape)] for w in inventory.weights],
            "method": method,
            "templates": templates,
            "start": start,
            "seed": seed,
            "optimizer": type(made).__name__,
        }
        loop = _Loop(module.train(), made, loss_fn, what, path, tuple(callbacks))
        loop.run(batches, steps, progress)
    found = cluster(module, groups, seed=seed, share=share)
    assert found.learned is not None
    losses = (loop.done.losses[0], loop.done.losses[1])
    learned = replace(
        found.learned, steps=loop.done.step, optimizer=type(made).__name__, losses=losses
    )
    if path is not None:
        path.unlink(missing_ok=True)
    return replace(found, learned=learned)


class _Loop:
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
            raise NpasError(
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


class _Searched(nn.Module):
    """Stands in front of the class of a search model's root, whose items the bank is not."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a class without telling the original, which may keep a list of its subclasses."""


def _search_model(
    model: nn.Module,
    method: str,
    templates: int,
    start: str,
    target_modules: Iterable[str] | None,
    ignored_modules: Iterable[str] | None,
    inputs: tuple[Any, ...],
    kwargs: MappingType[str, Any] | None,
) -> tuple[nn.Module, Inventory]:
    check_choice("method", method, METHODS)
    check_choice("start", start, STARTS)
    if isinstance(templates, bool) or not isinstance(templates, int) or not 2 <= templates <= 4096:
        raise NpasError(f"templates={templates!r} must be a whole number, at least 2")
    check_keywords(kwargs)
    check_model(model)
    with steady(model):
        analysis = analyse(model, len(inputs), tuple(kwargs or ()))
        inventory = collect(
            model,
            analysis,
            target_modules=target_modules,
            ignored_modules=ignored_modules,
            example_inputs=inputs,
            example_kwargs=kwargs,
        )
    weights = inventory.weights
    if len(weights) < 2:
        raise NpasError(
            f"{type(model).__name__} has {len(weights)} layers that npas allocates; a search "
            "needs two that could share"
        )
    _check_weights(model, [weight.name for weight in weights])
    module = clone_all(model)
    bank = SearchBank(weights, dict(module.named_parameters()), method, templates, start)
    names = {name: w.name for w in weights for name in (w.name, *w.aliases)}
    take_over_all(module, {name: Source(bank, layer) for name, layer in names.items()})
    module.npas = nn.ModuleDict({"search": bank})
    module.__class__ = subclass(type(module), _Searched)
    return module, inventory


def _check_weights(model: nn.Module, names: Sequence[str]) -> None:
    if hasattr(model, "npas"):
        raise NpasError("the model has an attribute 'npas', where the bank would stand")
    parameters = dict(model.named_parameters())
    devices = {parameters[name].device for name in names}
    if len(devices) > 1 or next(iter(devices)).type == "meta":
        found = ", ".join(sorted(str(device) for device in devices))
        raise NpasError(f"the weights are on {found}; a search needs them on one real device")
    for name in names:
        if not bool(torch.isfinite(parameters[name]).all()):
            raise NpasError(f"{name} holds values that are not finite")


def _check(
    batches: Any, loss_fn: Any, groups: Any, steps: Any, optimizer: Any, seed: Any, budget: Any
) -> None:
    if not isinstance(batches, Iterable) or isinstance(batches, str):
        raise NpasError(f"batches is a {type(batches).__name__}; it must be an iterable of batches")
    if not callable(loss_fn):
        raise NpasError(f"loss_fn={loss_fn!r} must be a function: loss_fn(model, batch) -> scalar")
    if isinstance(optimizer, torch.optim.Optimizer):
        raise NpasError(
            "optimizer is made already, of other parameters; pass a function that makes it, such "
            "as lambda groups: torch.optim.SGD(groups, lr=0.1)"
        )
    if optimizer is not None and not callable(optimizer):
        raise NpasError(f"optimizer={optimizer!r} must make an optimizer from parameter groups")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise NpasError(f"steps={steps!r} must be a whole number, at least 1, or None for all")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise NpasError(f"seed={seed!r} must be a whole number from 0 to 2**32 - 1")
    check_groups(groups, sys.maxsize)
    if budget is not None:
        parse_budget(budget)


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None
