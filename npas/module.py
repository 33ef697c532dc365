"""The compiled module: an fx.GraphModule with one graph a mode."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from npas.plan import Plan
from npas.recompute import (
    LiveWeights,
    can_recompute,
    can_recompute_compiled,
    can_sink,
    recompute_compiled,
    recompute_scope,
)
from npas.report import Report


class Shapeshifter(fx.GraphModule):
    """A network whose weights are generated from banks (Shapeshifter Network of the paper).

    It has the original's submodules, parameter and buffer names, attributes and hooks; the banks
    stand under ``npas.banks``. ``print(ssn.code)`` shows the forward of the current mode.
    """

    def __init__(
        self,
        root: nn.Module,
        graphs: Mapping[bool, fx.Graph],
        *,
        original: type[nn.Module],
        plan: Plan,
        report: Report,
        live: LiveWeights,
        recompute: bool,
        how: Mapping[str, Any],
    ) -> None:
        """Take over a prepared copy of the original, which must not be used otherwise.

        Args:
            root: the copy, with leaves and banks in place.
            graphs: the graph of each mode; one object under both keys where they are the same.
            original: class of the original root.
            plan: what was compiled.
            report: how it was compiled.
            live: the generated weights that are alive, shared with the banks.
            recompute: whether generated weights are made again for the backward pass.
            how: what `npas.load` needs to compile the same again, as JSON values.
        """
        super().__init__(nn.Module(), fx.Graph(), class_name=original.__name__)
        self.__dict__.update(root.__dict__)
        names = tuple(root.__dict__)
        self._npas = _State(original, plan, report, live, recompute, names, dict(how))
        self._graphs = dict(graphs)
        self.graph = self._graphs[self.training]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run forward, keeping recipes instead of generated weights for the backward pass."""
        if not can_sink():
            if self._npas.recompute and can_recompute_compiled():
                return recompute_compiled(super().__call__, args, kwargs)
            return super().__call__(*args, **kwargs)
        live = self._npas.live
        with live.forward_pass():
            if not self._npas.recompute or not can_recompute():
                return super().__call__(*args, **kwargs)
            with recompute_scope(live):
                return super().__call__(*args, **kwargs)

    def train(self, mode: bool = True) -> "Shapeshifter":
        """Set the mode, and the graph that belongs to it."""
        super().train(mode)
        if self._graphs[mode] is not self.graph:
            self.graph = self._graphs[mode]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shapeshifter":
        """Copy everything; fx's own copy keeps only what the current graph uses."""
        result = Shapeshifter.__new__(Shapeshifter)
        memo[id(self)] = result
        for name, value in self.__dict__.items():
            if name not in ("_graph", "_graphs"):
                result.__dict__[name] = copy.deepcopy(value, memo)
        result._adopt({mode: copy.deepcopy(graph) for mode, graph in self._graphs.items()})
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the state, and each graph as fx does it: as generated code."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("_graph", "_graphs")}
        carriers = {mode: fx.GraphModule(self, graph) for mode, graph in self._graphs.items()}
        names = {mode: [node.name for node in g.nodes] for mode, g in self._graphs.items()}
        self.recompile()
        return _rebuild, (state, carriers, names)

    def _adopt(self, graphs: Mapping[bool, fx.Graph]) -> None:
        same = str(graphs[True]) == str(graphs[False])
        self._graphs = {True: graphs[True], False: graphs[True] if same else graphs[False]}
        self.graph = self._graphs[self.training]


class _State:
    """What npas keeps with a compiled module."""

    def __init__(
        self,
        original: type[nn.Module],
        plan: Plan,
        report: Report,
        live: LiveWeights,
        recompute: bool,
        attributes: tuple[str, ...],
        how: dict[str, Any],
    ) -> None:
        self.original = original
        self.plan = plan
        self.report = report
        self.live = live
        self.recompute = recompute
        self.attributes = attributes
        self.how = how


def _rebuild(
    state: dict[str, Any],
    carriers: Mapping[bool, fx.GraphModule],
    names: Mapping[bool, list[str]],
) -> Shapeshifter:
    for mode, carrier in carriers.items():
        # fx traces the code again, and names the nodes after what they call.
        for node, name in zip(carrier.graph.nodes, names[mode], strict=True):
            node.name = name
    result = Shapeshifter.__new__(Shapeshifter)
    result.__dict__.update(state)
    result._adopt({mode: carrier.graph for mode, carrier in carriers.items()})
    return result
