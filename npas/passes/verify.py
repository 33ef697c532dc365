"""Verify: does a captured graph compute what the original computes, outputs and gradients?"""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from npas.errors import NpasError, TraceError, is_out_of_memory
from npas.guards import has_hooks
from npas.passes.materialize import materialize
from npas.passes.trace import Trace, clone_module, first_line, without_hooks
from npas.structures import flatten

# Operators that are run in another order may round differently; nothing else may differ.
_RELATIVE = 1e-4
_SEED = 873_251
# What generated and baked weights may differ by: in single precision, and in half.
_LOOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOOSE_HALF = 0.02


def compare(
    model: nn.Module,
    found: Trace | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    exact: bool = False,
    hooks: bool = False,
) -> str:
    """Run the original and its graphs on the same inputs, with the same random numbers.

    Both run on copies: neither the model nor its buffers and gradients are changed.

    Args:
        model: the original.
        found: its graphs, or None to run the original alone.
        args: positional example inputs.
        kwargs: keyword example inputs.
        exact: whether outputs that differ within rounding are refused too; gradients, which are
            summed in another order, may.
        hooks: whether to keep the model's hooks; without them if it runs so: they may be anything.

    Returns:
        How they compare, in words.

    Raises:
        TraceError: if a graph computes something else, or refuses the inputs.
        NpasError: if the inputs do not run through the original, or it changes its parameters.
    """
    parameters = {
        id(p): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    same, failed = True, {}
    for mode in (True, False):
        original = _clone(model, parameters, hooks)
        original.train(mode)
        try:
            expected = _run(original, original, args, kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failed[mode] = error
            continue
        _refuse_changes(model, parameters)
        if found is not None:
            root = _clone(model, parameters, hooks)
            root.train(mode)
            result = _run_graph(found, root, args, kwargs)
            same &= _same(expected, result, found.front_end, mode, exact=exact)
    if len(failed) == 2 and not hooks and any(map(has_hooks, model.modules())):
        return compare(model, found, args, kwargs, exact=exact, hooks=True)
    if len(failed) == 2:
        raise NpasError(
            f"example inputs do not run through {type(model).__name__}: {first_line(failed[False])}"
        ) from failed[False]
    left_out = "".join(
        f"; not compared in {_mode(mode)}, where they fail ({first_line(error)})"
        for mode, error in failed.items()
    )
    if found is None:
        return "the original's own forward"
    how = "bit for bit" if same else "within rounding"
    return f"outputs and gradients on the example inputs are the original's, {how}{left_out}"


def _run_graph(
    found: Trace, root: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> "_Outcome":
    try:
        return _run(_graph_call(root, found, root.training), root, args, kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise TraceError(
            f"the graph of {found.front_end} does not run on the example inputs: "
            f"{first_line(error)}"
        ) from error


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def check_generation(ssn: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> None:
    """Check a module without a graph against the dense module that its banks make now.

    Nothing is compared without example inputs, or on the meta device.

    Args:
        ssn: the compiled module; its buffers are left as they are.
        args: positional example inputs.
        kwargs: keyword example inputs.

    Raises:
        NpasError: if it computes something else, because forward reaches its weights in a way that
            does not generate them, or changes them.
    """
    tensors = (*ssn.parameters(), *ssn.buffers(), *tree_leaves((args, kwargs)))
    meta = any(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in tensors)
    if meta or not (args or kwargs):
        return
    try:
        dense, generated = materialize(ssn), copy.deepcopy(ssn)
        before = {name: p.detach().clone() for name, p in dense.named_parameters()}
        expected = _evaluate(dense, args, kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return  # it cannot be copied, or evaluated with these inputs
    # A weight that is a view of its bank would take the change, and nothing would differ.
    for name, parameter in dense.named_parameters():
        if not _is_equal(before[name], parameter):
            raise _changed(name, ssn)
    try:
        found = _evaluate(generated, args, kwargs)
        wrong = "" if _is_near(expected, found) else "it computes something else"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        wrong = first_line(error)
    if wrong:
        raise NpasError(
            f"{type(ssn).__name__}.forward does not work with generated weights ({wrong}): it may "
            "run through parameters(), which are the banks, or write to a weight's .data; leave "
            "such weights out with ignored_modules="
        )


def _evaluate(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> "_Outcome":
    without_hooks(module).eval()
    with steady(module):
        found = _run(module, module, args, kwargs or {})
    return {name: value for name, value in found.items() if name.startswith("output")}


def _is_near(expected: "_Outcome", found: "_Outcome") -> bool:
    if expected.keys() != found.keys():
        return False
    for name, value in expected.items():
        other = found[name]
        assert value is not None and other is not None
        if value.shape != other.shape:
            return False
        if value.is_floating_point() and value.numel():
            loose = _LOOSE.get(value.dtype, _LOOSE_HALF)
            scale = loose * _largest(value)
            if not torch.allclose(value, other, rtol=loose, atol=scale, equal_nan=True):
                return False
    return True


@contextmanager
def steady(model: nn.Module) -> Iterator[None]:
    """Leave every random generator as it was: torch's, NumPy's and Python's."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


# What one run gave: outputs, gradients and buffers, by name.
_Outcome = Mapping[str, torch.Tensor | None]


def _clone(model: nn.Module, parameters: Mapping[int, nn.Parameter], hooks: bool) -> nn.Module:
    buffers = {id(b): b.detach().clone() for b in model.buffers()}
    copied = clone_module(model, {**parameters, **buffers})
    return copied if hooks else without_hooks(copied)


def _graph_call(root: nn.Module, found: Trace, mode: bool) -> Callable[..., Any]:
    """Return a function that calls a graph over the root's tensors, through its guard."""
    if found.parts:
        root.npas = nn.Module()
        root.npas.parts = nn.Module()
        for name, part in found.parts.items():
            setattr(root.npas.parts, name, part)
    module, guard = fx.GraphModule(root, found.graphs[mode]), found.guards[mode]

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs, named = guard.inputs(args, kwargs)
        return guard.outputs(module(*inputs, **named))

    return call


def _run(
    call: Callable[..., Any], root: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> _Outcome:
    given = copies((tuple(args), dict(kwargs)))
    # Not 0: what a trace drew must not be what is drawn here.
    torch.manual_seed(_SEED)
    random.seed(_SEED)
    np.random.seed(_SEED)
    with torch.set_grad_enabled(root.training):
        result = call(*given[0], **given[1])
        result = list(result) if isinstance(result, Iterator) else result
        outputs, _ = flatten(result, objects=True)
    made = {f"output {i}": value for i, value in enumerate(outputs)}
    made |= {f"buffer {n}": b for n, b in root.named_buffers() if not n.startswith("npas.")}
    # What is masked with an infinity takes part in no gradient, which would be NaN everywhere.
    losses = [
        t.float().nan_to_num(0, 0, 0).square().mean() for t in made.values() if t.requires_grad
    ]
    wanted = {n: p for n, p in root.named_parameters() if p.requires_grad}
    if not (losses and wanted):
        return made
    total = torch.stack(losses).sum()
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return made | {f"gradient of {n}": g for n, g in zip(wanted, grads, strict=True)}


def copies(values: Any) -> Any:
    """Copy the tensors of inputs; what was one tensor stays one."""
    made: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in made:
            made[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
        return made[id(value)]

    return tree_map(copied, values)


def _refuse_changes(model: nn.Module, parameters: Mapping[int, nn.Parameter]) -> None:
    for name, parameter in model.named_parameters():
        run = parameters[id(parameter)]
        # A write through .data does not count as a new version.
        if run._version or not _is_equal(run, parameter):
            raise _changed(name, model)


def _changed(name: str, model: nn.Module) -> NpasError:
    return NpasError(
        f"{name} is changed in place by {type(model).__name__}.forward; a weight that is generated "
        f"cannot be. Move the change out of forward, or leave the weight out with "
        f"ignored_modules=[{name!r}]"
    )


def _same(expected: _Outcome, found: _Outcome, front_end: str, mode: bool, *, exact: bool) -> bool:
    """Compare two runs; return whether they are equal bit for bit."""
    equal = True
    where = _mode(mode)
    if expected.keys() != found.keys():
        raise TraceError(f"the graph of {front_end} returns something else in {where}")
    for name, value in expected.items():
        other = found[name]
        if value is None or other is None:
            same = value is other
        elif value.shape != other.shape or value.dtype != other.dtype:
            same = False
        elif _is_equal(value, other):
            continue
        else:
            equal = False
            scale = _largest(value) if value.is_floating_point() else 0.0
            rounds = value.is_floating_point() and not (exact and name.startswith("output"))
            same = rounds and torch.allclose(
                value, other, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True
            )
        if not same:
            raise TraceError(f"the graph of {front_end} gives another {name} in {where}")
    return equal


def _is_equal(value: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether tensors of one shape have the same values, where NaN is one."""
    if torch.equal(value, other):
        return True
    both_nan = (value != value) & (other != other)
    return bool(both_nan.any()) and bool(((value == other) | both_nan).all())


def _largest(value: torch.Tensor) -> float:
    """Return the largest magnitude of what is finite: masked logits are -inf."""
    return float(value.detach().abs().nan_to_num(0, 0, 0).max())
