"""Collect: one record for every parameter that npas may allocate, and one for every other."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from npas.errors import NpasError
from npas.naming import select
from npas.passes.macs import Use, watch
from npas.passes.trace import Trace

_KINDS: dict[type, str] = {
    nn.Linear: "linear",
    nn.Bilinear: "bilinear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.Conv3d: "conv",
    nn.ConvTranspose1d: "transposed conv",
    nn.ConvTranspose2d: "transposed conv",
    nn.ConvTranspose3d: "transposed conv",
    nn.Embedding: "embedding",
    nn.EmbeddingBag: "embedding bag",
    nn.RNNBase: "recurrent",
    nn.RNNCellBase: "recurrent",
    nn.MultiheadAttention: "attention projection",
    nn.LayerNorm: "norm",
    nn.RMSNorm: "norm",
    nn.GroupNorm: "norm",
    nn.modules.batchnorm._NormBase: "norm",
}
_CONSUMERS = {
    "linear": "linear",
    "matmul": "linear",
    "mm": "linear",
    "bmm": "linear",
    "addmm": "linear",
    "einsum": "linear",
    "tensordot": "linear",
    "bilinear": "bilinear",
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "conv_transpose1d": "transposed conv",
    "conv_transpose2d": "transposed conv",
    "conv_transpose3d": "transposed conv",
    "embedding": "embedding",
    "embedding_bag": "embedding bag",
}
# Kinds whose parameters may be vectors written with more dimensions, such as [1, C, 1, 1].
_MAY_BE_VECTORS = {"parameter", "attention projection"}
_RESHAPES = {"t", "transpose", "permute", "reshape", "view", "contiguous", "flatten", "unflatten"}


@dataclass(frozen=True, slots=True)
class WeightOp:
    """A parameter that npas may allocate.

    Attributes:
        name: fully qualified name, the first where it has several.
        aliases: its other names (tied weights are one op).
        kind: linear, conv, transposed conv, embedding, embedding bag, bilinear, recurrent,
            attention projection or parameter.
        shape: of the weight.
        dtype: such as ``"float32"``.
        uses: calls that read it in one forward.
        macs: multiply-accumulates per sample, or None without example inputs.
        padding_idx: the row of an embedding that stays zero, or None.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    dtype: str
    uses: int
    macs: int | None = None
    padding_idx: int | None = None

    @property
    def n(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A parameter that is kept as it is.

    Attributes:
        name: fully qualified name.
        n_params: its elements.
        trainable: whether it counts against the budget.
        reason: why it is not allocated.
    """

    name: str
    n_params: int
    trainable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything `collect` found, in the order of ``named_parameters()``."""

    weights: tuple[WeightOp, ...]
    fixed: tuple[Fixed, ...]

    @property
    def n_fixed(self) -> int:
        """Trainable parameters that are not allocated."""
        return sum(f.n_params for f in self.fixed if f.trainable)

    @property
    def n_dense(self) -> int:
        """Unique trainable parameters of the model."""
        return self.n_fixed + sum(w.n for w in self.weights)


def collect(
    model: nn.Module,
    trace: Trace,
    *,
    target_modules: Iterable[str] | None = None,
    ignored_modules: Iterable[str] | None = None,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> Inventory:
    """List the weight ops of a model; nothing is read from the weights, so meta tensors work.

    Args:
        model: the module, real or on the meta device.
        trace: its graphs.
        target_modules: patterns (`npas.naming.matches`): only these are allocated.
        ignored_modules: patterns: these are not allocated.
        example_inputs: with ``example_kwargs``, used to count multiply-accumulates.
        example_kwargs: see ``example_inputs``.

    Raises:
        NpasError: for lazy parameters before their first call, sparse or renormalised embeddings,
            patterns that match nothing, or no weight to allocate.
    """
    names = _names(model)
    lazy = next((every[0] for parameter, every in names if is_lazy(parameter)), None)
    if lazy is not None:
        raise NpasError(
            f"{lazy} is not initialised yet (a lazy module); call the model once before"
        )
    owners = _owners(model)
    uses = weight_uses(trace, names)
    consumers = _consumer_kinds(trace)
    seen: Mapping[str, Use] = {}
    if example_inputs or example_kwargs:
        seen = _watch(model, trace, names, example_inputs, example_kwargs or {})
    weights: list[WeightOp] = []
    fixed: list[Fixed] = []
    for parameter, (name, *aliases) in names:
        use = seen.get(name)
        kind = module_kind(owners[name]) or consumers.get(name)
        kind = kind or (use.kind if use is not None else None) or "parameter"
        # Without fx's graph only a run tells what forward does not read.
        unread = trace.front_end == "structure" and use is not None and not use.reads
        n_uses = 0 if unread else uses[name]
        reason = _reason_to_keep(name, parameter, kind, n_uses, owners[name])
        if reason is not None:
            fixed.append(Fixed(name, parameter.numel(), parameter.requires_grad, reason))
            continue
        weights.append(
            WeightOp(
                name,
                tuple(aliases),
                kind,
                tuple(parameter.shape),
                str(parameter.dtype).removeprefix("torch."),
                n_uses,
                macs=None if use is None else use.macs,
                padding_idx=_padding([owners[alias] for alias in (name, *aliases)]),
            )
        )
    weights, dropped = _apply_patterns(weights, target_modules, ignored_modules)
    fixed += dropped
    if not weights:
        kept = "; ".join(f"{f.name}: {f.reason}" for f in fixed[:5]) or "it has no parameters"
        raise NpasError(
            f"{type(model).__name__} has no weight to allocate ({kept}); npas allocates trainable "
            "floating-point weights of two or more dimensions that forward uses"
        )
    for weight in weights:
        _refuse_embedding(owners[weight.name], weight.name)
    order = {name: index for index, (_, (name, *_)) in enumerate(names)}
    return Inventory(tuple(weights), tuple(sorted(fixed, key=lambda f: order[f.name])))


def weight_uses(trace: Trace, names: Sequence[tuple[nn.Parameter, list[str]]]) -> dict[str, int]:
    """Count, for each parameter's first name, the calls of one forward that read it."""
    counts: dict[str, int] = {every[0]: 0 for _, every in names}
    for graph in set(trace.graphs.values()):
        called: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                called[node.target] = called.get(node.target, 0) + 1
            elif node.op == "get_attr":
                called[node.target] = called.get(node.target, 0) + len(node.users)
        for _, every in names:
            found = sum(
                called.get(prefix, 0) for name in every for prefix in _module_prefixes(name)
            )
            counts[every[0]] = max(counts[every[0]], found)
    return counts


def _watch(
    model: nn.Module,
    trace: Trace,
    names: Sequence[tuple[nn.Parameter, list[str]]],
    example_inputs: Sequence[Any],
    example_kwargs: Mapping[str, Any],
) -> Mapping[str, Use]:
    """Return what a run does with each weight.

    Where fx has no graph it is in training mode, which reads what evaluation leaves out, such as an
    auxiliary head, unless the inputs only run in evaluation (a batch of one).
    """
    first = [every[0] for _, every in names]
    if trace.front_end == "structure":
        with contextlib.suppress(NpasError):
            run = watch(model, first, example_inputs, example_kwargs, training=True)
            if run is not None:
                return run.uses
    run = watch(model, first, example_inputs, example_kwargs)
    return {} if run is None else run.uses


def _names(model: nn.Module) -> list[tuple[nn.Parameter, list[str]]]:
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), (parameter, []))[1].append(name)
    return list(found.values())


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    owners: dict[str, nn.Module] = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        path = name.rpartition(".")[0]
        if isinstance(modules[path], ParametrizationList):
            path = path.rpartition(".parametrizations.")[0]  # the module that it is a part of
        owners[name] = modules[path]
    return owners


def _module_prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[:end]) for end in range(1, len(parts) + 1))]


def module_kind(owner: nn.Module) -> str | None:
    """Return the kind that a module's class gives its weights, if it does."""
    return next((_KINDS[base] for base in type(owner).__mro__ if base in _KINDS), None)


def _consumer_kinds(trace: Trace) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in trace.graphs[True].nodes:
        if node.op == "get_attr":
            for consumer in _consumers(node):
                if consumer in _CONSUMERS:
                    found.setdefault(str(node.target), _CONSUMERS[consumer])
    return found


def _consumers(node: fx.Node) -> Iterable[str]:
    for user in node.users:
        target = user.target
        label = target if isinstance(target, str) else getattr(target, "__name__", "")
        if target is getattr and user.args[1] in ("T", "mT"):
            label = "transpose"
        if label in _RESHAPES and user.args and user.args[0] is node:
            yield from _consumers(user)
        else:
            yield label


def _reason_to_keep(
    name: str, parameter: nn.Parameter, kind: str, n_uses: int, owner: nn.Module
) -> str | None:
    if not parameter.requires_grad:
        return "frozen"
    if isinstance(owner, torch.jit.ScriptModule):
        return "held by a scripted module"
    if type(parameter.data) is not torch.Tensor:
        return f"a {type(parameter.data).__name__} (quantised or packed), not a plain tensor"
    if parameter.layout != torch.strided:
        return f"of layout {str(parameter.layout).removeprefix('torch.')}"
    if not parameter.is_floating_point():
        return f"of dtype {str(parameter.dtype).removeprefix('torch.')}"
    if kind == "norm":
        return "scale or shift of a normalisation"
    if parameter.dim() < 2:
        return "of fewer than two dimensions"
    if (kind in _MAY_BE_VECTORS or ".parametrizations." in name) and parameter.numel() == max(
        parameter.shape
    ):
        return "a vector: one dimension longer than 1"
    if parameter.numel() == 0:
        return "empty"
    if n_uses == 0:
        return "not used by forward"
    return None


def _apply_patterns(
    weights: list[WeightOp],
    target_modules: Iterable[str] | None,
    ignored_modules: Iterable[str] | None,
) -> tuple[list[WeightOp], list[Fixed]]:
    names = [w.name for w in weights]
    chosen = set(names)
    if target_modules is not None:
        chosen = select(_as_list(target_modules), names, argument="target_modules")
    ignored = (
        select(_as_list(ignored_modules), names, argument="ignored_modules")
        if ignored_modules is not None
        else set()
    )
    kept = [w for w in weights if w.name in chosen and w.name not in ignored]
    dropped = [
        Fixed(
            w.name,
            w.n,
            True,
            "in ignored_modules" if w.name in ignored else "not in target_modules",
        )
        for w in weights
        if w.name not in chosen or w.name in ignored
    ]
    return kept, dropped


def _as_list(patterns: Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _padding(owners: list[nn.Module]) -> int | None:
    """Return the row that stays zero: the padding row, if nothing but padded lookups reads it."""
    found = {getattr(owner, "padding_idx", None) for owner in owners}
    return found.pop() if len(found) == 1 else None


def _refuse_embedding(owner: nn.Module, name: str) -> None:
    if getattr(owner, "sparse", False) is True:
        raise NpasError(
            f"{name} asks for sparse gradients, which a shared bank cannot have; set sparse=False "
            f"or leave it out with ignored_modules=[{name!r}]"
        )
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and owner.max_norm is not None:
        raise NpasError(
            f"{name} has max_norm={owner.max_norm}, which rewrites the weight in place; set "
            f"max_norm=None or leave it out with ignored_modules=[{name!r}]"
        )
