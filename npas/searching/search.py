"""Learn which layers share (3.2): a short training of the model with one small bank for all."""

import sys
from collections.abc import Callable, Iterable, Mapping as MappingType, Sequence
from dataclasses import replace
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
from npas.searching.bank import METHODS, STARTS, SearchBank
from npas.searching.cluster import check_groups, cluster
from npas.searching.loop import Loop, SearchStep
from npas.searching.state import seeded
from npas.tools import param_groups

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


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
        NpasError: for arguments that do not fit, batches that end early, a loss that is no scalar
            or has no gradient.
        DivergedError: if the loss, or what was learned, is not finite.
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
        loop = Loop(module.train(), made, loss_fn, what, path, tuple(callbacks))
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
