"""Export: capture the root's forward with torch.export, one graph of aten operators a mode."""

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from npas.errors import TraceError, is_out_of_memory
from npas.guards import ExampleGuard, Names, first_same, has_hooks, place_of
from npas.naming import identifier
from npas.passes.trace import (
    PARTS,
    Trace,
    clone_all,
    clone_module,
    first_line,
    place,
    shares_tensors,
    without_hooks,
)
from npas.passes.verify import copies
from npas.structures import Structure, flatten, rebuild
from npas.watch import Attributes, Draws

_ROOT = "model"  # the attribute of `_Flat`
_LARGEST = 2**62


def export(
    model: nn.Module, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any] | None
) -> Trace:
    """Capture ``model.forward`` in both modes with torch.export (non-strict).

    Every size of every tensor is left free where the model allows it. Values that are not tensors,
    and arguments that are not given, are fixed: the guards send other calls to the original.

    Args:
        model: any module; it is not changed.
        example_inputs: positional inputs of forward.
        example_kwargs: keyword inputs of forward.

    Raises:
        TraceError: if there are no inputs, or torch.export cannot capture the model.
    """
    if not example_inputs and not example_kwargs:
        raise TraceError("torch.export needs example_inputs or example_kwargs")
    hooked = [n for n, module in model.named_modules() if n and has_hooks(module)]
    if hooked:
        raise TraceError(f"{hooked[0]} has hooks, which a graph of operators would not call")
    # Copies also are no inference tensors, which autograd refuses.
    example_inputs, example_kwargs = copies((tuple(example_inputs), dict(example_kwargs or {})))
    shadow = clone_module(model, shares_tensors(model))
    without_hooks(shadow)  # the compiled root runs its own
    try:
        values = _values(model, example_inputs, example_kwargs or {})
        tensors, given = flatten(list(values.values()))
        try:
            captured = _capture_modes(shadow, values, tensors)
        except Assigns:
            # What the first call alone assigns, such as a table or a flag, is no state.
            shadow = _called_once(model, example_inputs, example_kwargs or {})
            captured = _capture_modes(shadow, values, tensors)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise TraceError(
            f"torch.export cannot capture {type(model).__name__}.forward ({place(error)}): "
            f"{first_line(error)}"
        ) from error
    graphs, guards, parts = {}, {}, {}
    for mode, (program, result) in captured.items():
        graph, found = _graph(program, model, _input_names(values), "train" if mode else "eval")
        graphs[mode] = graph
        parts |= found
        guards[mode] = _guard(model, program, values, tensors, given, result)
    if str(graphs[True]) == str(graphs[False]) and guards[True] == guards[False]:
        graphs[False] = graphs[True]
    return Trace(
        graphs,
        guards,
        {},
        "export",
        parts=parts,
        n_inputs=len(example_inputs),
        keywords=tuple(example_kwargs or ()),
    )


class _Flat(nn.Module):
    """Takes and returns flat tensors, and keeps the structure of what the model returned."""

    def __init__(self, model: nn.Module, kept: "_Kept") -> None:
        super().__init__()
        self.model = model
        self.kept = kept
        self.training = model.training

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = rebuild(tensors, self.kept.given)
        attributes = Attributes(self.model)
        found = self.model(**dict(zip(self.kept.names, values, strict=True)))
        changed = attributes.changed()
        if changed is not None:
            raise Assigns(f"forward assigns {changed}, which a graph would not")
        flat, self.kept.result = flatten(found, objects=True)
        return tuple(flat)


@dataclass(slots=True)
class _Kept:
    """Beside the module, whose attributes torch.export puts back."""

    names: tuple[str, ...]
    given: Structure
    result: Structure | None = None


def _values(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return argument name -> example, in the order of the signature."""
    signature = inspect.signature(model.forward)
    bound = signature.bind(*args, **kwargs).arguments
    values: dict[str, Any] = {}
    for name, value in bound.items():
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_KEYWORD:
                values |= value
            case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.POSITIONAL_ONLY:
                raise TraceError(f"argument {name} has no name of its own")
            case _:
                values[name] = value
    return values


class Assigns(TraceError):
    """A forward that assigns attributes."""


def _called_once(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> nn.Module:
    """Return a copy, of parameters and buffers too, that was called in both modes."""
    shadow = without_hooks(clone_all(model))
    for mode in (True, False):
        given = copies((tuple(args), dict(kwargs)))
        with torch.no_grad():
            shadow.train(mode)
            shadow(*given[0], **given[1])
    return shadow


def _capture_modes(
    shadow: nn.Module, values: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> dict[bool, tuple[Any, Structure]]:
    captured: dict[bool, tuple[Any, Structure]] = {}
    for mode in (True, False):
        shadow.train(mode)
        captured[mode] = _capture(shadow, values, tensors)
    return captured


def _capture(
    shadow: nn.Module, values: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> tuple[Any, Structure]:
    kept = _Kept(tuple(values), flatten(list(values.values()))[1])
    flat = _Flat(shadow, kept)
    free = tuple({d: torch.export.Dim.AUTO for d in range(t.dim())} for t in tensors)
    draws = Draws(of_torch=False)
    # torch.export prints what it has of a graph that fails.
    with warnings.catch_warnings(), _quiet(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.export.export(flat, tuple(tensors), dynamic_shapes=(free,), strict=False)
    if draws.any():
        raise TraceError("forward draws random numbers that a graph would repeat")
    assert kept.result is not None, "torch.export did not run the module"
    return program, kept.result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export's remarks on constants and sizes from the user: guards look after them."""
    loggers = [logging.getLogger(n) for n in ("torch.export", "torch._export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _input_names(values: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for name, value in values.items():
        count = len(flatten(value)[0])
        names += (
            [identifier(name)] if count == 1 else [f"{identifier(name)}_{i}" for i in range(count)]
        )
    return names


def _graph(
    program: Any, model: nn.Module, names: Sequence[str], mode: str
) -> tuple[fx.Graph, dict[str, Any]]:
    """Return a plain graph over the model's own names, and what it reads besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module(check_guards=False)
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    parts: dict[str, Any] = {}
    placeholders = iter(names)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            node.target = node.name = next(placeholders)
        elif node.op == "get_attr":
            _point(node, module, model, parts, mode)
            if node.users:
                # Where it is used first, so that a weight is generated there.
                min(node.users, key=order.__getitem__).prepend(node)
        node.meta = {}
    graph.lint()
    return graph, parts


def _point(
    node: fx.Node, module: nn.Module, model: nn.Module, parts: dict[str, Any], mode: str
) -> None:
    """Let a node read from the model, or from a part that is kept with it."""
    target = str(node.target)
    own = target.removeprefix(f"{_ROOT}.")
    if own != target and _resolve(model, own) is not None:
        node.target = own
        return
    name = f"{mode}_{identifier(target)}"
    value = _resolve(module, target)
    parts[name] = value.detach().clone() if isinstance(value, torch.Tensor) else value
    node.target = f"{PARTS}.{name}"


def _resolve(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _guard(
    model: nn.Module,
    program: Any,
    values: Mapping[str, Any],
    tensors: Sequence[torch.Tensor],
    given: Structure,
    result: Structure,
) -> ExampleGuard:
    signature = inspect.signature(model.forward).parameters
    fakes = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    fakes = fakes[len(fakes) - len(tensors) :]
    shapes = tuple(
        tuple(int(str(size)) if str(size).isdigit() else str(size) for size in fake.shape)
        for fake in fakes
    )
    ranges = {
        str(symbol): (int(max(0, bounds.lower)), _upper(bounds.upper))
        for symbol, bounds in program.range_constraints.items()
    }
    return ExampleGuard(
        names=Names.of(model.forward, *values),
        given=tuple(values),
        defaults={n: p.default for n, p in signature.items() if p.default is not p.empty},
        structure=given,
        shapes=shapes,
        places=tuple(place_of(t) for t in tensors),
        ranges=ranges,
        conditions=" and ".join(f"({_over_sizes(text)})" for text in program._guards_code),
        result=result,
        same=first_same(tensors),
    )


def _over_sizes(text: str) -> str:
    """Write a condition of torch.export over the sizes of `_Flat`'s inputs."""
    return re.sub(r"L\['tensors'\]\[(\d+)\]\.size\(\)", r"sizes[\1]", text)


def _upper(bound: Any) -> int:
    try:
        return int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return _LARGEST
