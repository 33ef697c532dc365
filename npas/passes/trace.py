"""Trace: capture the root's forward with torch.fx, one graph a mode."""

import copy
import inspect
import keyword
import traceback
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from npas.errors import NpasError, TraceError, is_out_of_memory
from npas.guards import CALL_HOOKS, ArgumentGuard, Guard, Names, has_hooks
from npas.watch import Attributes, Draws

HOOKS = (
    *CALL_HOOKS,
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


# Where what the graphs read and the model does not hold stands in the compiled module.
PARTS = "npas.parts"


@dataclass(frozen=True, slots=True)
class Trace:
    """What the front end saw.

    Attributes:
        graphs: the graph of ``forward`` in training (True) and in evaluation (False) mode; one
            object under both keys where the two are the same.
        guards: which calls the graph of each mode answers.
        leaves: path of each submodule that was kept whole -> why.
        front_end: ``"fx"``, ``"export"``, ``"opaque"``, or ``"structure"`` for a graph that lists
            modules in the order of their definition and only serves the planner.
        parts: tensors and subgraphs that the graphs read and the model does not hold, by name.
        n_inputs: positional example inputs that were given.
        keywords: keyword example inputs that were given.
    """

    graphs: Mapping[bool, fx.Graph]
    guards: Mapping[bool, Guard]
    leaves: Mapping[str, str]
    front_end: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    n_inputs: int = 0
    keywords: tuple[str, ...] = ()


def clone_module(model: nn.Module, tensors: Mapping[int, torch.Tensor]) -> nn.Module:
    """Copy a module with its parameters and buffers replaced, and nothing of them copied.

    Args:
        model: any module; it is not changed.
        tensors: ``id(tensor)`` -> replacement, for every parameter and buffer of the model.

    Raises:
        NpasError: if something the module holds cannot be copied.
    """
    memo: dict[int, Any] = {key: value for key, value in tensors.items()}
    for module in model.modules():
        memo |= loose_tensors(module)
        # A deep copy of a hook that is a bound method would copy the object it reports to.
        held = module.__dict__
        memo |= {id(held[name]): copy.copy(held[name]) for name in HOOKS if name in held}
    try:
        copied = copy.deepcopy(model, memo)
        rebind_hooks(copied, {id(m): memo[id(m)] for m in model.modules() if id(m) in memo})
        return copied
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise NpasError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); npas "
            "never changes the model it is given, so it needs copy.deepcopy(model) to work"
        ) from error


def rebind_hooks(root: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Let hooks that are methods of a model's own modules belong to the copies of these.

    Args:
        root: whose hooks, and those below it, are looked at.
        new: id of a module -> what stands for it now.
    """
    for module in root.modules():
        for name in CALL_HOOKS:
            hooks = module.__dict__.get(name) or {}
            for key, hook in hooks.items():
                owner = getattr(hook, "__self__", None)
                if id(owner) in new and isinstance(hook, types.MethodType):
                    hooks[key] = types.MethodType(hook.__func__, new[id(owner)])


def clone_all(model: nn.Module) -> nn.Module:
    """Copy a module with its parameters and buffers."""
    held = (*model.parameters(), *model.buffers())
    return clone_module(model, {id(tensor): clone_tensor(tensor) for tensor in held})


def clone_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor without its history; a parameter stays one."""
    copied = tensor.detach().clone(memory_format=torch.preserve_format)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied


def check_forwards(model: nn.Module) -> None:
    """Check that no module's forward was replaced on the object, which a copy would share.

    Raises:
        NpasError: if one was.
    """
    for path, module in model.named_modules():
        if "forward" in module.__dict__:
            raise NpasError(
                f"{path or 'the model'} has a forward of its own, put on the object: a copy would "
                "call the original through it. Use npas.compile_, or define it in a class"
            )


def loose_tensors(module: nn.Module) -> dict[int, torch.Tensor]:
    """Return id -> copy of tensors with a history that a module holds as plain attributes.

    The hooks of the older weight_norm and spectral_norm leave the weight that they made there, and
    deepcopy refuses it.
    """
    held = [v for v in module.__dict__.values() if isinstance(v, torch.Tensor) and not v.is_leaf]
    return {id(tensor): tensor.detach().clone() for tensor in held}


def without_hooks(shadow: nn.Module) -> nn.Module:
    """Drop the user's call hooks from a copy that is run to look at it.

    Those of torch.nn.utils stay: they make weights.
    """
    for module in shadow.modules():
        for name in CALL_HOOKS:
            hooks = module.__dict__.get(name) or {}
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch.nn.utils"):
                    del hooks[key]
    return shadow


def shares_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Return the replacements for `clone_module` that keep every parameter, and copy buffers."""
    tensors: dict[int, torch.Tensor] = {id(p): p for p in model.parameters()}
    tensors.update({id(b): b.detach().clone() for b in model.buffers()})
    return tensors


def trace(
    model: nn.Module,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> Trace:
    """Capture ``model.forward`` in both modes; submodules that defeat fx become opaque leaves.

    Arguments of forward that have a constant default and are not among the examples keep that
    default: the guards refuse another value, and the original's forward answers such a call.

    Args:
        model: any module; it is not changed.
        example_inputs: positional example inputs, used for their number alone.
        example_kwargs: keyword example inputs, used for their names alone.

    Raises:
        TraceError: if the root's own forward defeats fx.
    """
    opaque: dict[type[nn.Module], str] = {}
    while True:
        shadow = clone_module(model, shares_tensors(model))
        constants = _constant_arguments(shadow, len(example_inputs), set(example_kwargs or ()))
        graphs: dict[bool, fx.Graph] = {}
        parts: dict[str, Any] = {}
        leaves: dict[str, str] = {}
        changed: str | None = None
        for training in (True, False):
            shadow.train(training)
            attributes, draws = Attributes(shadow), Draws()
            graphs[training], kept = _trace_with_retry(shadow, constants, opaque)
            if draws.any():
                raise TraceError(
                    f"{type(model).__name__}.forward draws random numbers that a graph of fx would "
                    "repeat; draw them in a module that is called, such as nn.Dropout"
                )
            parts |= _constants(graphs[training], shadow, model)
            leaves.update(kept)
            changed = changed or attributes.changed(but="_tensor_constant")
            if changed is not None:
                break  # the next trace would meet what this one left there
        if changed is None:
            break
        owner = shadow.get_submodule(changed.rpartition(".")[0])
        if owner is shadow or type(owner) in opaque:
            raise TraceError(
                f"{type(model).__name__}.forward assigns {changed}, which a graph of fx would not"
            )
        opaque[type(owner)] = f"defeats fx: forward assigns {changed}"
    if str(graphs[True]) == str(graphs[False]):
        graphs[False] = graphs[True]
    names, arguments = Names.of(shadow.forward), inspect.signature(shadow.forward).parameters
    defaulted = {name for name, argument in arguments.items() if argument.default is None}
    starred = any(argument.kind is argument.VAR_POSITIONAL for argument in arguments.values())
    guard = ArgumentGuard(names, constants, frozenset(defaulted - constants.keys()), starred)
    return Trace(
        graphs,
        {True: guard, False: guard},
        leaves,
        "fx",
        parts,
        n_inputs=len(example_inputs),
        keywords=tuple(example_kwargs or ()),
    )


class _Tracer(fx.Tracer):
    """fx's tracer, with opaque classes, buffers as proxies, and the place of a failure."""

    proxy_buffer_attributes = True

    def __init__(self, opaque: Mapping[type[nn.Module], str] | None = None) -> None:
        # Without arguments too: fx makes one to unpickle a GraphModule.
        super().__init__()
        self._opaque = opaque or {}
        self._depth = _autocast_depth()
        self.kept: dict[str, str] = {}
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in self._opaque:
            self.kept[module_qualified_name] = self._opaque[type(m)]
            return True
        if has_hooks(m):
            self.kept[module_qualified_name] = "has hooks, which run only where it is called"
            return True
        leaf = super().is_leaf_module(m, module_qualified_name)
        if leaf and next(m.children(), None) is not None:
            self.kept[module_qualified_name] = "a module of torch.nn with parts, called whole"
        return leaf

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not torch.is_grad_enabled() or _autocast_depth() != self._depth:
            raise TraceError("fx does not record torch.no_grad() and torch.autocast regions")
        return super().create_node(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise


def _autocast_depth() -> int:
    """Return how many autocast regions are entered."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _trace_with_retry(
    shadow: nn.Module, constants: Mapping[str, Any], opaque: dict[type[nn.Module], str]
) -> tuple[fx.Graph, dict[str, str]]:
    while True:
        tracer = _Tracer(opaque)
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                # fx has no assertion for a constant text and says so; it gets ours below.
                warnings.filterwarnings("ignore", "Was not able to add assertion")
                graph = tracer.trace(shadow, dict(constants) or None)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            where = place(error)
            if tracer.failed is None or type(tracer.failed) in opaque:
                raise TraceError(
                    f"fx cannot trace {type(shadow).__name__}.forward ({where}): "
                    f"{type(error).__name__}: {error}. Move the part that depends on values into "
                    "a submodule, or wrap the model in a module whose forward calls it: npas keeps "
                    "what fx cannot trace as an opaque leaf"
                ) from error
            # The whole class at once: one retry a class instead of one a block.
            opaque[type(tracer.failed)] = f"defeats fx ({where}): {first_line(error)}"
            continue
        _restore_argument_names(graph, shadow, constants)
        _refuse_keywords(graph)
        return graph, tracer.kept


def _constants(graph: fx.Graph, shadow: nn.Module, model: nn.Module) -> dict[str, torch.Tensor]:
    """Move tensors that tracing made and put on the root to where `Trace.parts` stand."""
    found: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and "." not in name and not hasattr(model, name):
            constant = found[name] = getattr(shadow, name)
            if isinstance(constant, torch.Tensor) and constant.requires_grad:
                raise TraceError(
                    f"{type(model).__name__}.forward computes with parameters that fx does not "
                    "see, such as those of parameters()"
                )
            node.target = f"{PARTS}.{name}"
    return found


def _constant_arguments(model: nn.Module, n_given: int, named: set[str]) -> dict[str, Any]:
    constants: dict[str, Any] = {}
    for index, (name, parameter) in enumerate(inspect.signature(model.forward).parameters.items()):
        default = parameter.default
        constant = default is None or isinstance(default, bool | int | float | str)
        if constant and index >= n_given and name not in named:
            constants[name] = default
    return constants


def _restore_argument_names(
    graph: fx.Graph, model: nn.Module, constants: Mapping[str, Any]
) -> None:
    # fx numbers the placeholders of constant arguments ("mask_1"), which breaks calls by keyword,
    # and asserts their values, which the guard checks before.
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names = list(inspect.signature(model.forward).parameters)
    for node in reversed(list(graph.nodes)):
        said = node.args[1] if node.op == "call_function" and len(node.args) == 2 else None
        if isinstance(said, str) and "has been specialized to have value" in said:
            compared = list(node.all_input_nodes)
            graph.erase_node(node)
            for source in compared:
                if source.op == "call_function" and not source.users:
                    graph.erase_node(source)
    for node, name in zip(placeholders, names, strict=True):
        if name in constants:
            node.target = name


def _refuse_keywords(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            words = [part for part in str(node.target).split(".") if keyword.iskeyword(part)]
            if words:
                raise TraceError(
                    f"{node.target}: fx cannot write the name {words[0]!r}, a Python keyword, "
                    "into code; rename the submodule"
                )


def place(error: BaseException) -> str:
    """Return where an error was raised, in the user's code if any of it was running."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != "<string>"]
    theirs = [f for f in frames if not f.filename.startswith(ours)] or frames
    last = theirs[-1]
    return f"{Path(last.filename).name}:{last.lineno}, in {last.name}"


def first_line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
