"""What npas did, pass by pass, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass: its name, how long it took, and what it did to the graph."""

    name: str
    ms: float
    nodes_added: int = 0
    nodes_erased: int = 0


@dataclass(frozen=True, slots=True)
class LayerStart:
    """How one layer starts.

    Attributes:
        std: standard deviation of the original weight (its root mean square where that is 0).
        gain: the fixed scale the layer carries; negative where the weight would otherwise be that
            of a layer which reads the same elements.
        start: ``"original"`` (the weight of the model), ``"generated"`` (drawn at random),
            ``"copied"`` (the model's as far as others that share its elements leave it),
            ``"fitted"`` (nearest to the model's), ``"zero"``, or ``"fan-in"`` for a weight that was
            zero and has neither a coefficient nor a scalar that could start at zero.
        lost: what was special in the original weight and does not hold at the start, such as
            ``"orthogonal"``; see `npas.special.special`. Empty if nothing is.
    """

    std: float
    gain: float
    start: str
    lost: str = ""


@dataclass(frozen=True, slots=True)
class FitError:
    """How far fitted weights are from the original's, of a layer, a bank or all.

    Attributes:
        relative: norm of the difference over that of the original: 0 exact, 1 as good as zeros. Of
            several layers the root mean square of theirs: each counts the same, as in the fit.
        weighted: the same where each element counts by what its input carries, about the relative
            error of what the layer puts out; None where the fit had no batches.
    """

    relative: float
    weighted: float | None = None

    @staticmethod
    def mean(errors: Sequence["FitError"]) -> "FitError":
        """Return the error of several layers together."""
        weighted = [error.weighted for error in errors if error.weighted is not None]
        return FitError(_rms([e.relative for e in errors]), _rms(weighted) if weighted else None)

    def __str__(self) -> str:
        """Return the relative errors as text."""
        weighted = "" if self.weighted is None else f" ({self.weighted:.4f} weighted)"
        return f"relative error {self.relative:.4f}{weighted}"


def _rms(values: Sequence[float]) -> float:
    return (sum(value**2 for value in values) / len(values)) ** 0.5


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit to weights came to.

    Attributes:
        layers: layer -> its error.
        banks: bank -> the error of its layers.
        total: of all.
        rounds: generated bank -> rounds of alternation; 0 where it made the weights already.
    """

    layers: Mapping[str, FitError]
    banks: Mapping[str, FitError]
    total: FitError
    rounds: Mapping[str, int]

    def lines(self) -> list[str]:
        """Return the errors as lines of text."""
        lines = [f"fit: {self.total}"]
        lines += [f"fit of bank {name}: {error}" for name, error in self.banks.items()]
        return lines + [f"fit of {name}: {error}" for name, error in self.layers.items()]


@dataclass(frozen=True, slots=True)
class Report:
    """How a module was compiled.

    Attributes:
        front_end: which front end captured the root: ``"fx"``, ``"export"``, ``"opaque"``, or
            ``"in place"`` for what `npas.compile_` changed, which has no graph.
        leaves: path of each submodule kept whole -> why (the root's is the empty path).
        tried: what became of each front end that was tried, in order.
        visible: share of the allocated weights' elements that the graphs generate; the modules
            make the others when they read them.
        submodules: path -> front end that its operations were captured by, and why.
        passes: in the order they ran.
        starts: layer -> how it starts; empty on meta tensors.
        fit: errors of the generated weights, where they were fitted to pretrained ones.
        notes: what a user may want to know, such as parameters that are kept as they are.
        fallbacks: why a call ran the original's forward instead of the graph -> how many did.
    """

    front_end: str
    leaves: Mapping[str, str]
    passes: tuple[PassRecord, ...]
    tried: tuple[str, ...] = ()
    visible: float = 0.0
    submodules: Mapping[str, str] = field(default_factory=dict)
    starts: Mapping[str, LayerStart] = field(default_factory=dict)
    fit: Fit | None = None
    notes: tuple[str, ...] = ()
    fallbacks: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the report as text."""
        share = f"{self.visible:.0%} of the allocated weights in its graph"
        lines = [f"front end: {self.front_end}, {share}", *(f"tried {what}" for what in self.tried)]
        lines += [f"opaque leaf {path or '(root)'}: {why}" for path, why in self.leaves.items()]
        for record in self.passes:
            changed = record.nodes_added or record.nodes_erased
            nodes = f", +{record.nodes_added} -{record.nodes_erased} nodes" if changed else ""
            lines.append(f"{record.name}: {record.ms:.1f} ms{nodes}")
        lines += [
            f"{name}: starts {start.start}, std {start.std:.4g}, gain {start.gain:.4g}"
            + (f", was {start.lost}" if start.lost else "")
            for name, start in self.starts.items()
        ]
        lines += [] if self.fit is None else self.fit.lines()
        lines += [
            f"ran without the graph {count} times: {why}" for why, count in self.fallbacks.items()
        ]
        return "\n".join((*lines, *self.notes))
