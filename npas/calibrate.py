"""Calibrate: set the gains once from a forward pass, so that activations keep their scale."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from npas.bank import Bank
from npas.errors import NpasError
from npas.module import Shapeshifter
from npas.passes.rewrite import BANKS
from npas.passes.trace import Trace, clone_module

# Corrections at one operation: a bias makes its output's scale not quite linear in the gain.
_ROUNDS = 3
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@torch.no_grad()
def calibrate_gains(ssn: Shapeshifter, model: nn.Module, trace: Trace, batch: Any) -> None:
    """Rescale gains so that every operation's output has the original's standard deviation.

    Equal weights do not make equal activations where many layers share windows: their outputs
    correlate, and residual sums grow. The operations run in order, each with the gains set before
    it. Where an output is only added to an earlier value, the sum is what is matched.

    Args:
        ssn: the compiled module; its gains and bank scales change, its buffers do not.
        model: the original.
        trace: the original's graphs.
        batch: a tensor, a tuple of positional or a dict of keyword inputs.

    Raises:
        NpasError: if the batch does not run through the model.
    """
    mode = ssn.training
    args, kwargs = _inputs(batch)
    tensors: dict[int, torch.Tensor] = {id(p): p for p in model.parameters()}
    tensors |= {id(b): b.clone() for b in model.buffers()}
    shadow = clone_module(model, tensors).train(mode)
    before = {name: buffer.clone() for name, buffer in ssn.named_buffers()}
    original = _Measure(shadow, trace.graphs[mode])
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        _run(original, model, args, kwargs)
        torch.set_rng_state(state)  # the same dropout in both
        _run(_Correct(ssn, original.spreads), model, args, kwargs)
    for name, buffer in ssn.named_buffers():
        if not name.startswith("npas."):
            buffer.copy_(before[name])
    for bank in ssn.modules():
        if isinstance(bank, Bank):
            mean = bank.gain.double().log().mean().exp()
            bank.theta.mul_(mean.to(bank.theta.dtype))
            bank.set_gains(bank.gain / mean)


class _Measure(fx.Interpreter):
    """Runs a graph and keeps the standard deviation of every floating-point value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.spreads: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if _is_float(result):
            self.spreads[n.name] = float(result.float().std(correction=0))
        return result


class _Correct(fx.Interpreter):
    """Runs the compiled graph and corrects the gain at every operation that reads one weight."""

    def __init__(self, ssn: Shapeshifter, spreads: Mapping[str, float]) -> None:
        super().__init__(ssn, garbage_collect_values=False)
        self._spreads = spreads
        self._layers = _layers_by_node(ssn)
        self._done: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        read = [self._layers[node] for node in n.all_input_nodes if node in self._layers]
        if "rows" in n.kwargs:
            read = [self._layers[n]]
        elif n in self._layers:
            return result
        if len(read) != 1 or read[0][1] in self._done or not _is_float(result):
            return result
        bank, layer = read[0]
        self._done.add(layer)
        for _ in range(_ROUNDS):
            factor = self._factor(n, result)
            if factor is None:
                break
            bank.scale_gain(layer, factor)
            for node, found in self._layers.items():
                if found[1] == layer and node in self.env:
                    self.env[node] = bank.generate(layer)
            result = super().run_node(n)
        return result

    def _factor(self, node: fx.Node, result: torch.Tensor) -> float | None:
        """Return what the gain must be multiplied by, or None where nothing can be told."""
        own = float(result.float().std(correction=0))
        target = self._spreads.get(node.meta.get("origin", node.name), 0.0)
        if own <= 0 or target <= 0:
            return None
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user is not None and user.target in _ADDS and user.name in self._spreads:
            others = [other for other in user.all_input_nodes if other is not node]
            value = self.env.get(others[0]) if len(others) == 1 else None
            if isinstance(value, torch.Tensor) and value.shape == result.shape:
                return _sum_factor(value.float(), result.float(), self._spreads[user.name])
        return target / own


def _sum_factor(value: torch.Tensor, branch: torch.Tensor, target: float) -> float:
    """Return c > 0 so that std(value + c * branch) comes nearest to the target."""
    value, branch = value - value.mean(), branch - branch.mean()
    a = float(branch.square().mean())
    b = float((value * branch).mean())
    c = float(value.square().mean()) - target**2
    root = b * b - a * c
    best = (-b + root**0.5) / a if root > 0 else -b / a
    # A branch is never turned off: a gain near 0 would hardly learn.
    return max(best, 0.1)


def _layers_by_node(ssn: Shapeshifter) -> dict[fx.Node, tuple[Bank, str]]:
    found: dict[fx.Node, tuple[Bank, str]] = {}
    whole: dict[fx.Node, Bank] = {}
    graph: Any = ssn.graph
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(f"{BANKS}."):
            bank = ssn.get_submodule(str(node.target))
            assert isinstance(bank, Bank)
            if node.args:
                found[node] = (bank, str(node.args[0]))
            else:
                whole[node] = bank
        elif node.op == "call_function" and node.args and node.args[0] in whole:
            found[node] = (whole[node.args[0]], str(node.args[1]))
    return found


def _inputs(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, dict):
        return (), batch
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _run(interpreter: fx.Interpreter, model: nn.Module, args: Any, kwargs: Any) -> None:
    graph: Any = interpreter.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    values = list(args)
    for node in placeholders[len(values) :]:
        if node.target in kwargs:
            values.append(kwargs[node.target])
        elif node.args:
            values.append(node.args[0])
    try:
        interpreter.run(*values)
    except Exception as error:
        raise NpasError(
            f"calibrate: the batch does not run through {type(model).__name__}: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1
