"""The compiled module: an fx.GraphModule with one graph a mode."""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from npas.compiled import Compiled, State, subclass
from npas.graph_pickle import dump, load
from npas.guards import Guard, Never, Refused, check_modules
from npas.leaf import leaf_class, sources_of

# What fx sets whenever it writes the code.
_OF_FX = ("_graph", "_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec")


class Shapeshifter(Compiled, fx.GraphModule):
    """A network whose weights are generated from banks (Shapeshifter Network of the paper).

    It is an instance of the original's class too, with its submodules, parameter and buffer names,
    attributes, methods and hooks; the banks stand under ``npas.banks``. ``print(ssn.code)`` shows
    the graph of the current mode. A call that the graph was not made for (another value of an
    argument that was fixed, hooks on a module that it runs through, parts in another mode) runs
    the original's forward, whose modules generate their weights on their own: the result is the
    same, and `npas.report` counts such calls.
    """

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
        own = set(self.__dict__) - set(root.__dict__)
        _become(self, type(root))
        self.__dict__.update(root.__dict__)
        self._npas = state
        self._npas_own = (*own, "_npas", "_npas_own", "_guards", "_watched", "_graphs")
        self._guards = dict(guards)
        self._watched = list(watched)
        self._graphs = dict(graphs)
        self.graph = self._graphs[self.training]

    def recompile(self) -> Any:
        """Write the code of the graph, and put it behind its guard."""
        code = super().recompile()
        if "_npas" not in self.__dict__:
            return code  # while fx's own __init__ runs
        cls: Any = type(self)
        cls.run_graph = cls.forward
        cls.forward = _guarded(self._npas.original)
        return code

    def train(self, mode: bool = True) -> "Shapeshifter":
        """Set the mode, and the graph that belongs to it."""
        super().train(mode)
        if self._graphs[mode] is not self.graph:
            self.graph = self._graphs[mode]
        return self

    def run_original(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the original's forward, whose modules generate their weights when they read them."""
        return self._npas.original.forward(self, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shapeshifter":
        """Copy everything; fx's own copy keeps only what the current graph uses."""
        result = _empty(self._npas.original, tuple(sources_of(self)))
        memo[id(self)] = result
        for name, value in self.__dict__.items():
            if name not in ("_graph", "_graphs"):
                result.__dict__[name] = copy.deepcopy(value, memo)
        result._adopt({mode: copy.deepcopy(graph) for mode, graph in self._graphs.items()})
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the state, and each graph as fx does it: as generated code."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("_graph", "_graphs")}
        made = self._npas.original, tuple(sources_of(self))
        if self._npas.report.front_end == "opaque":
            return _rebuild, (*made, state, None, None)
        if self._npas.report.front_end == "export":
            rows = {mode: dump(graph) for mode, graph in self._graphs.items()}
            return _rebuild, (*made, state, rows, None)
        carriers = {mode: fx.GraphModule(self, graph) for mode, graph in self._graphs.items()}
        names = {mode: [node.name for node in g.nodes] for mode, g in self._graphs.items()}
        self.recompile()
        return _rebuild, (*made, state, carriers, names)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as `__reduce__` says."""
        return self.__reduce__()

    def original_attributes(self) -> dict[str, Any]:
        """Return what the original would hold: everything that is not fx's or npas's own."""
        hidden = {*self._npas_own, *_OF_FX}
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def _adopt(self, graphs: Mapping[bool, fx.Graph]) -> None:
        same = str(graphs[True]) == str(graphs[False])
        self._graphs = {True: graphs[True], False: graphs[True] if same else graphs[False]}
        self.graph = self._graphs[self.training]


def opaque_graph() -> fx.Graph:
    """Return a graph of one call: that of the original's forward."""
    graph = fx.Graph()
    args = graph.create_node("placeholder", "*args", name="args")
    kwargs = graph.create_node("placeholder", "**kwargs", name="kwargs")
    graph.output(graph.create_node("call_module", "run_original", (args, kwargs), name="out"))
    return graph


def _guarded(original: type[nn.Module]) -> Any:
    @functools.wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        state, guard = self._npas, self._guards[self.training]
        compiling = torch.compiler.is_compiling()
        if isinstance(guard, Never) or (compiling and not guard.compiles):
            return original.forward(self, *args, **kwargs)
        try:
            check_modules(self._watched, self.training)
            inputs, named = guard.inputs(args, kwargs)
        except Refused as refused:
            if not compiling:
                reason = str(refused)
                state.fallbacks[reason] = state.fallbacks.get(reason, 0) + 1
            return original.forward(self, *args, **kwargs)
        return guard.outputs(self.run_graph(*inputs, **named))

    return forward


def _become(module: Any, original: type[nn.Module]) -> None:
    # A class for each module: fx keeps the generated code on it.
    module.__class__ = subclass(original, Shapeshifter)


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
