"""Calibrate: set the gains once from a forward pass, so that activations keep their scale."""

import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from npas.bank import Bank, banks_of
from npas.calibrate_sums import branch_factor
from npas.errors import NpasError, TraceError, is_out_of_memory
from npas.guards import Guard
from npas.leaf import sources_of
from npas.passes.export import export
from npas.passes.rewrite import BANKS, rewrite_graph
from npas.passes.trace import PARTS, Trace, clone_module, first_line, shares_tensors, without_hooks
from npas.passes.visible import visible_share
from npas.plan import Plan

# Corrections at one operation: a bias makes its output's scale not quite linear in the gain.
ROUNDS = 3
_ATEN = torch.ops.aten
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_ADDS |= {_ATEN.add.Tensor, _ATEN.add_.Tensor}
# What may stand between a projection and its sum: it passes the scale on.
_PASSES = {F.dropout, "view", "reshape", "flatten", "unflatten", "transpose", "permute"}
_PASSES |= {"contiguous", torch.flatten, torch.transpose, torch.permute, torch.reshape}
_PASSES |= {_ATEN.dropout.default, _ATEN.view.default, _ATEN.reshape.default, _ATEN.clone.default}
_PASSES |= {_ATEN.transpose.int, _ATEN.permute.default, _ATEN.flatten.using_ints}
_PASSES |= {_ATEN.contiguous.default, _ATEN.unflatten.int, _ATEN.unsqueeze.default}
_PASSES |= {_ATEN.squeeze.dim, _ATEN.dropout_.default}
# By a number or by a parameter: what scales a branch.
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_PRODUCTS |= {_ATEN.mul.Tensor, _ATEN.mul_.Tensor}
# What gives its input a scale of its own.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_NORM_CALLS = {F.layer_norm, F.rms_norm, F.group_norm, F.batch_norm, F.instance_norm}
_NORM_CALLS |= {_ATEN.layer_norm.default, _ATEN.rms_norm.default, _ATEN.group_norm.default}
_NORM_CALLS |= {_ATEN.batch_norm.default, _ATEN.instance_norm.default}


def calibration_trace(model: nn.Module, analysis: Trace, plan: Plan, batch: Any) -> Trace | None:
    """Return the graph to calibrate on: one in which every weight is read by an operation.

    That is fx's, or where modules that it calls whole have parts with generated weights, or there
    is none, torch.export's. It need not be the graph that is run afterwards.

    Args:
        model: the original.
        analysis: from `npas.passes.structure.analyse`.
        plan: of its layers.
        batch: a tensor, a tuple of positional or a dict of keyword inputs.

    Returns:
        The graph, or None where neither can see the operations.
    """
    is_fx = analysis.front_end == "fx"
    if is_fx and visible_share(analysis, plan) == 1.0:
        return analysis
    try:
        return export(model, *forward_inputs(batch))
    except TraceError:
        return analysis if is_fx else None


@torch.no_grad()
def measure_graph(model: nn.Module, trace: Trace, batch: Any) -> dict[str, float]:
    """Return node -> standard deviation of every floating-point value of the original.

    Args:
        model: the original; it is not changed.
        trace: from `calibration_trace`.
        batch: as there.

    Raises:
        NpasError: if the batch does not run through the model.
    """
    shadow = clone_module(model, shares_tensors(model)).train(model.training)
    without_hooks(shadow)
    original = _Measure(shadow, trace.graphs[model.training], trace.parts)
    with _fixed_randomness(model):
        _run(original, trace.guards[model.training], model, batch)
    return original.spreads


@torch.no_grad()
def correct_graph(
    module: nn.Module,
    plan: Plan,
    trace: Trace,
    spreads: Mapping[str, float],
    batch: Any,
    drawn: Collection[str] = (),
) -> tuple[str, ...]:
    """Rescale gains so that every operation's output has the original's standard deviation.

    Equal weights do not make equal activations where many layers share windows: their outputs
    correlate, and residual sums grow. The operations run in order, each with the gains set before
    it. Where an output is only added to an earlier value, the sum is matched too: by the sign of a
    weight that was drawn at random, and by as much of its scale as that takes.

    Args:
        module: the compiled module; its gains and bank scales change, its buffers do not.
        plan: of its layers.
        trace: from `calibration_trace`.
        spreads: from `measure_graph`.
        batch: as there.
        drawn: layers whose weights may as well have the other sign.

    Returns:
        The layers that were left alone: those whose weight no operation reads alone (recurrent
        layers, modules that are called whole).
    """
    before = copies_of_buffers(module)
    generated = {
        f"{path}.{name}" if path else name: source.layer
        for path, owner in module.named_modules(remove_duplicate=False)
        for name, source in sources_of(owner).items()
    }
    graph = rewrite_graph(trace.graphs[module.training], plan, generated, frozenset())
    try:
        with _fixed_randomness(module):
            correct = _Correct(module, graph, trace.parts, spreads, frozenset(drawn))
            _run(correct, trace.guards[module.training], module, batch)
    finally:
        restore_buffers(module, before)
    normalise_gains(banks_of(module).values())
    return tuple(layer for layer in dict.fromkeys(generated.values()) if layer not in correct.done)


_Buffers = list[tuple[nn.Module, dict[str, tuple[torch.Tensor, torch.Tensor]]]]


def copies_of_buffers(module: nn.Module) -> _Buffers:
    """Return the buffers of every module below, and copies of them; banks excepted."""
    return [
        (m, {n: (b, b.clone()) for n, b in m._buffers.items() if b is not None})
        for m in module.modules()
        if not isinstance(m, Bank)
    ]


def restore_buffers(module: nn.Module, before: _Buffers) -> None:
    """Put buffers back: those that were written to, replaced or added."""
    for owner, buffers in before:
        for name in [n for n, b in owner._buffers.items() if b is not None and n not in buffers]:
            del owner._buffers[name]
        for name, (buffer, copied) in buffers.items():
            buffer.copy_(copied)
            owner._buffers[name] = buffer


@contextmanager
def _fixed_randomness(module: nn.Module) -> Iterator[None]:
    """Draw the same numbers in the original and the compiled module: the same dropout in both."""
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        yield


@torch.no_grad()
def normalise_gains(banks: Iterable[Bank]) -> None:
    """Move the geometric mean of each bank's gains into its scale; its weights stay the same."""
    for bank in banks:
        mean = bank.gain.double().abs().log().mean().exp()
        bank.theta.mul_(mean.to(bank.theta.dtype))
        bank.set_gains(bank.gain / mean)


class _OverParts(fx.Interpreter):
    """Runs a graph over a module, and over parts that the module need not hold."""

    def __init__(
        self, module: nn.Module, parts: Mapping[str, Any], graph: fx.Graph, collect: bool = True
    ) -> None:
        super().__init__(module, garbage_collect_values=collect, graph=graph)
        self._parts = parts

    def fetch_attr(self, target: str) -> Any:
        if target.startswith(f"{PARTS}."):
            return self._parts[target.removeprefix(f"{PARTS}.")]
        return super().fetch_attr(target)


class _Measure(_OverParts):
    """Runs a graph and keeps the standard deviation of every floating-point value."""

    def __init__(self, module: nn.Module, graph: fx.Graph, parts: Mapping[str, Any]) -> None:
        super().__init__(module, parts, graph)
        self.spreads: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if is_float(result):
            self.spreads[n.name] = float(result.float().std(correction=0))
        return result


@dataclass(frozen=True, slots=True)
class _Branch:
    """An operation whose output only goes into a sum, and what stands between them."""

    layer: str
    bank: Bank
    nodes: tuple[fx.Node, ...]
    random_state: torch.Tensor


class _Correct(_OverParts):
    """Runs the compiled graph and corrects the gain at every operation that reads one weight."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        parts: Mapping[str, Any],
        spreads: Mapping[str, float],
        drawn: frozenset[str],
    ) -> None:
        super().__init__(module, parts, graph, collect=False)
        self._spreads = spreads
        self._drawn = drawn
        self._layers = _layers_by_node(module, graph)
        self.done: set[str] = set()
        self._branches: dict[fx.Node, list[_Branch]] = {}

    def run_node(self, n: fx.Node) -> Any:
        for branch in self._branches.pop(n, ()):
            self._correct_sum(n, branch)
        state = torch.get_rng_state()
        result = super().run_node(n)
        read = [self._layers[node] for node in n.all_input_nodes if node in self._layers]
        if "rows" in n.kwargs:
            read = [self._layers[n]]
        elif n in self._layers:
            return result
        if len(read) != 1 or read[0][1] in self.done or not is_float(result):
            return result
        bank, layer = read[0]
        self.done.add(layer)
        target = self._spreads.get(n.meta.get("origin", n.name), 0.0)
        for _ in range(ROUNDS):
            own = float(result.float().std(correction=0))
            if own > 0 and target > 0:
                self._scale(bank, layer, target / own)
                torch.set_rng_state(state)
                result = super().run_node(n)
        nodes, total = self._way_to_sum(n)
        if total is not None:
            self._branches.setdefault(total, []).append(_Branch(layer, bank, nodes, state))
        return result

    def _scale(self, bank: Bank, layer: str, factor: float) -> None:
        bank.scale_gain(layer, factor)
        for node, found in self._layers.items():
            if found[1] == layer and node in self.env:
                self.env[node] = bank.generate(layer)

    def _way_to_sum(self, node: fx.Node) -> tuple[tuple[fx.Node, ...], fx.Node | None]:
        """Return the operations from a node to the sum it only goes into, if that is to match."""
        nodes = [node]
        while len(nodes[-1].users) == 1:
            user = next(iter(nodes[-1].users))
            if user.target in _ADDS and len(user.all_input_nodes) == 2:
                known = user.name in self._spreads
                return tuple(nodes), user if known and not self._between_norms(user) else None
            if self._passed_on(user) is None:
                break
            nodes.append(user)
        return tuple(nodes), None

    def _between_norms(self, total: fx.Node) -> bool:
        """Tell whether a sum is that of a post-norm block: what is added to was normed, and it is.

        Nothing accumulates there, and the sum's scale does not matter, but that of its parts does.
        """

        def normed(node: fx.Node) -> bool:
            while (source := self._passed_on(node)) is not None:
                node = source
            return self._norms(node)

        return all(map(self._norms, total.users)) and any(map(normed, total.all_input_nodes))

    def _norms(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.submodules[str(node.target)], _NORMS)
        return node.target in _NORM_CALLS

    def _passed_on(self, node: fx.Node) -> fx.Node | None:
        """Return the input in whose scale a node's output is linear, if it has one."""
        moving = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(moving) != 1:
            return None
        (source,) = moving
        if node.op == "call_module":
            module = self.submodules[str(node.target)]
            passes = isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
        elif node.target in _PRODUCTS:
            passes = node.args.count(source) == 1  # not its square
        else:
            passes = node.target in _PASSES and len(node.all_input_nodes) == 1
        return source if passes else None

    def _correct_sum(self, total: fx.Node, branch: _Branch) -> None:
        """Scale a branch before its sum runs, which may write into an operand."""
        last = branch.nodes[-1]
        other = next(node for node in total.all_input_nodes if node is not last)
        now, moved = torch.get_rng_state(), 0.0
        signs = (1, -1) if branch.layer in self._drawn else (1,)
        for _ in range(ROUNDS):
            value, found = self.env[other], self.env[last]
            same = is_float(value) and is_float(found) and value.shape == found.shape
            target = self._spreads[total.name]
            if not same or target <= 0 or float(found.float().std(correction=0)) <= 0:
                break
            sign, shift = branch_factor(value.float(), found.float(), target, moved, signs)
            moved, signs = moved + shift, (1,)
            self._scale(branch.bank, branch.layer, sign * math.exp(shift))
            torch.set_rng_state(branch.random_state)
            for node in branch.nodes:
                self.env[node] = super().run_node(node)
        torch.set_rng_state(now)


def _layers_by_node(module: nn.Module, graph: fx.Graph) -> dict[fx.Node, tuple[Bank, str]]:
    found: dict[fx.Node, tuple[Bank, str]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target).startswith(f"{BANKS}."):
            bank = module.get_submodule(str(node.target))
            assert isinstance(bank, Bank)
            found[node] = (bank, str(node.args[0]))
    return found


def forward_inputs(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a calibration batch as positional and keyword inputs of forward."""
    if isinstance(batch, dict):
        return (), batch
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _run(interpreter: fx.Interpreter, guard: Guard, model: nn.Module, batch: Any) -> None:
    args, kwargs = forward_inputs(batch)
    graph: Any = interpreter.graph
    try:
        args, kwargs = guard.inputs(args, kwargs)
        values = list(args)
        for node in [n for n in graph.nodes if n.op == "placeholder"][len(values) :]:
            if node.target in kwargs:
                values.append(kwargs[node.target])
            elif node.args:
                values.append(node.args[0])
        interpreter.run(*values)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise NpasError(
            f"calibrate: the batch does not run through {type(model).__name__}: {first_line(error)}"
        ) from error


def is_float(value: object) -> bool:
    """Tell whether a value has a standard deviation: more than one floating-point number."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1
