"""The compiled module: an fx.GraphModule with one graph a mode."""

import copy
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph_module import _forward_from_src

from npas.compiled import Compiled, State, subclass
from npas.errors import NpasError
from npas.graph_pickle import dump, load
from npas.guards import Guard, Never, Refused
from npas.leaf import ORDER, SOURCES, leaf_class, sources_of
from npas.passes.trace import rebind_hooks
from npas.watch import Watch

# What belongs to a graph, and is made again with it.
_OF_GRAPH = ("_graph", "_graphs", "_code", "_runs")
_OF_NPAS = ("_fx_own", "_npas", "_guards", "_watch")
# Attributes of a Shapeshifter that a model may not have for its own.
RESERVED = {name for name in dir(fx.GraphModule) if not name.startswith("__")}
RESERVED -= set(dir(nn.Module))
RESERVED |= {*_OF_GRAPH, *_OF_NPAS, "graph", "code", "run_graph", "run_original"}
RESERVED |= {"original_attributes"}


class Shapeshifter(Compiled, fx.GraphModule):
    """A network whose weights are generated from banks (Shapeshifter Network of the paper).

    It is an instance of the original's class too, with its submodules, parameter and buffer names,
    attributes, methods and hooks; the banks stand under ``npas.banks``. ``print(ssn.code)`` shows
    the graph of the current mode. A call that the graph was not made for (another value of an
    argument that was fixed, hooks on a module that it runs through, parts in another mode) runs
    the original's forward, whose modules generate their weights on their own: the result is the
    same, and `npas.report` counts such calls.
    """

    _fx_own: frozenset[str]
    _graph: fx.Graph
    _runs: dict[bool, Callable[..., Any]]

    def __init__(
        self,
        root: nn.Module,
        graphs: Mapping[bool, fx.Graph],
        guards: Mapping[bool, Guard],
        state: State,
        watched: Sequence[nn.Module] = (),
    ) -> None:
        """Take over a prepared copy of the original, which must not be used otherwise.

        Args:
            root: the copy, with leaves and banks in place.
            graphs: the graph of each mode; one object under both keys where they are the same.
            guards: which calls the graph of each mode answers.
            state: what npas keeps with the module.
            watched: modules that the graphs run through without calling them.
        """
        super().__init__(nn.Module(), fx.Graph(), class_name=state.original.__name__)
        self.__dict__["_fx_own"] = frozenset(self.__dict__) - frozenset(root.__dict__)
        _become(self, type(root))
        self.__dict__.update(root.__dict__)
        rebind_hooks(self, {id(root): self})
        self._npas = state
        self._guards: Mapping[bool, Guard] = dict(guards)
        own = (*_OF_GRAPH, *self._fx_own, *_OF_NPAS, SOURCES, ORDER)
        exported = not all(guard.compiles for guard in guards.values())
        self._watch = Watch(self, watched, but=own, of_dtype=exported)
        self._adopt(graphs)

    @property
    def graph(self) -> fx.Graph:
        """The graph of the current mode."""
        if torch.compiler.is_exporting():
            return _exported_call(self)
        return self._graph

    @graph.setter
    def graph(self, g: fx.Graph) -> None:
        self._graph = g
        g.owning_module = self
        self.recompile()

    def recompile(self) -> Any:
        """Write the code of the graph of the current mode, which runs behind its guard."""
        code = self._graph.python_code(root_module="self")
        self._code = code.src
        # The code stays with the module, not with its class as in fx: modules of one kind can then
        # be stacked (torch.func.stack_module_state), and changing the mode writes nothing.
        run = _forward_from_src(code.src, code.globals, {})
        self.__dict__.setdefault("_runs", {})[self.training] = run
        return code

    def train(self, mode: bool = True) -> "Shapeshifter":
        """Set the mode, and the graph that belongs to it."""
        super().train(mode)
        if self._graph is not self._graphs[mode]:
            self.graph = self._graphs[mode]
        return self

    def run_original(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the original's forward, whose modules generate their weights when they read them."""
        return self._npas.original.forward(self, *args, **kwargs)

    def run_graph(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph of the current mode, without asking its guard."""
        return self._runs[self.training](self, *args, **kwargs)

    def __copy__(self) -> "Shapeshifter":
        """Return a module that shares everything with this one."""
        result = _empty(self._npas.original, tuple(sources_of(self)))
        result.__dict__.update(self.__dict__)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shapeshifter":
        """Copy everything; fx's own copy keeps only what the current graph uses."""
        result = _empty(self._npas.original, tuple(sources_of(self)))
        memo[id(self)] = result
        for name, value in self.__dict__.items():
            if name not in _OF_GRAPH:
                result.__dict__[name] = copy.deepcopy(value, memo)
        result._adopt({mode: copy.deepcopy(graph) for mode, graph in self._graphs.items()})
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the state, and each graph as fx does it: as generated code."""
        state = {k: v for k, v in self.__dict__.items() if k not in _OF_GRAPH}
        made = self._npas.original, tuple(sources_of(self))
        if self._npas.report.front_end == "opaque":
            return _rebuild, (*made, state, None, None)
        if self._npas.report.front_end == "export":
            rows = {mode: dump(graph) for mode, graph in self._graphs.items()}
            return _rebuild, (*made, state, rows, None)
        carriers = {mode: fx.GraphModule(self, graph) for mode, graph in self._graphs.items()}
        names = {mode: [node.name for node in g.nodes] for mode, g in self._graphs.items()}
        return _rebuild, (*made, state, carriers, names)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as `__reduce__` says."""
        return self.__reduce__()

    def original_attributes(self) -> dict[str, Any]:
        """Return what the original would hold: everything that is not fx's or npas's own."""
        hidden = {*self._fx_own, *_OF_GRAPH, *_OF_NPAS}
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def _adopt(self, graphs: Mapping[bool, fx.Graph]) -> None:
        same = graphs[True] is graphs[False] or str(graphs[True]) == str(graphs[False])
        self._graphs = {True: graphs[True], False: graphs[True] if same else graphs[False]}
        mode = self.training
        for training in (not mode, mode):  # the current one last
            self.__dict__["training"] = training
            if training is mode or not same:
                self.graph = self._graphs[training]
        if same:
            self._runs[not mode] = self._runs[mode]


def opaque_graph() -> fx.Graph:
    """Return a graph of one call: that of the original's forward."""
    graph = fx.Graph()
    args = graph.create_node("placeholder", "*args", name="args")
    kwargs = graph.create_node("placeholder", "**kwargs", name="kwargs")
    graph.output(graph.create_node("call_module", "run_original", (args, kwargs), name="out"))
    return graph


def _exported_call(module: Shapeshifter) -> fx.Graph:
    """Return the graph that non-strict torch.export runs: one call of forward, behind its guard.

    torch.export does not call a GraphModule but interprets its graph, with keyword arguments handed
    over as positional ones. Their names are in the frame that does so, two frames up.
    """
    names: tuple[str, ...] | None = None
    for depth in (2, 3):
        frame = sys._getframe(depth)
        if frame.f_code.co_filename.endswith("_trace.py") and "kwargs" in frame.f_locals:
            names = tuple(frame.f_locals["kwargs"])
    if names is None:
        raise NpasError(
            "this torch.export does not say which arguments were given by keyword; export with "
            "strict=True, or what npas.compile_ or npas.materialize made"
        )
    graph = fx.Graph()
    args = graph.create_node("placeholder", "*args", name="args")

    def call(values: Sequence[Any]) -> Any:
        first = len(values) - len(names)
        return module(*values[:first], **dict(zip(names, values[first:], strict=True)))

    graph.output(graph.create_node("call_function", call, (args,)))
    return graph


def _shapeshifter_class(base: type[nn.Module]) -> type[Shapeshifter]:
    original = getattr(base, "npas_original", base)

    @functools.wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        state, guard = self._npas, self._guards[self.training]
        compiling = torch.compiler.is_compiling()
        if isinstance(guard, Never) or (compiling and not guard.compiles):
            return original.forward(self, *args, **kwargs)
        try:
            self._watch.check(self.training)
            inputs, named = guard.inputs(args, kwargs)
        except Refused as refused:
            if not compiling:
                reason = str(refused)
                state.fallbacks[reason] = state.fallbacks.get(reason, 0) + 1
            return original.forward(self, *args, **kwargs)
        return guard.outputs(self.run_graph(*inputs, **named))

    return subclass(base, Shapeshifter, forward=forward)


def _become(module: Any, base: type[nn.Module]) -> None:
    module.__class__ = _shapeshifter_class(base)


def _empty(original: type[nn.Module], names: tuple[str, ...]) -> Any:
    result = Shapeshifter.__new__(Shapeshifter)
    _become(result, leaf_class(original, names) if names else original)
    return result


def _rebuild(
    original: type[nn.Module],
    names_of_weights: tuple[str, ...],
    state: dict[str, Any],
    carriers: Mapping[bool, Any] | None,
    names: Mapping[bool, list[str]] | None,
) -> Shapeshifter:
    result = _empty(original, names_of_weights)
    result.__dict__.update(state)
    if carriers is None:
        graph = opaque_graph()
        result._adopt({True: graph, False: graph})
        return result
    if names is None:
        result._adopt({mode: load(rows) for mode, rows in carriers.items()})
        return result
    for mode, carrier in carriers.items():
        # fx traces the code again, and names the nodes after what they call.
        for node, name in zip(carrier.graph.nodes, names[mode], strict=True):
            node.name = name
    result._adopt({mode: carrier.graph for mode, carrier in carriers.items()})
    return result


def reserved_names(model: nn.Module) -> list[str]:
    """Return what a model has and a graph module has for its own, such as ``graph`` or ``code``."""
    if isinstance(model, fx.GraphModule):
        return []
    held = (model.__dict__, model._parameters, model._buffers, model._modules)
    names = set(dir(type(model))).union(*held)
    return sorted(names & RESERVED)
