"""The mapping: which layer takes its weight from which bank."""

from collections.abc import Iterable, Mapping as MappingType
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from npas.errors import NpasError, PlanError
from npas.naming import is_bank_name, nearest, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Learned:
    """How a mapping was learned (3.2), and what was learned.

    Attributes:
        method: ``"emb"`` or ``"wavg"``: whether layers are represented by phi or by alpha.
        templates: K' of the search.
        start: of its coefficients: ``"equal"`` or ``"orthogonal"``.
        steps: training steps that were run.
        seed: of the search and of k-means.
        optimizer: name of its class.
        losses: of the first and of the last step; None where the loop was the user's own.
        inertia: sum of squared distances to the nearest centre; None once edited by hand.
        silhouette: mean silhouette coefficient, from -1 to 1; None where it is not defined.
        stability: mean adjusted Rand index between clusterings of several seeds, or None where
            the number of banks was given.
        representation: layer -> its vector, in the model's order.
    """

    method: str
    templates: int
    start: str
    steps: int
    seed: int
    optimizer: str
    losses: tuple[float, float] | None
    inertia: float | None
    silhouette: float | None
    stability: float | None
    representation: MappingType[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Layer -> bank, as data: readable, diffable, usable for any budget.

    Attributes:
        banks: bank name -> the fully qualified names of its layers, in the model's order.
        source: how it was made, such as ``"by_shape"``.
        reasons: bank name -> why these layers are together.
        frozen: banks that `merge`, `split`, `pin` and `npas.cluster` leave as they are.
        learned: what a search learned, or None.
    """

    banks: MappingType[str, tuple[str, ...]]
    source: str = "mapping"
    reasons: MappingType[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    learned: Learned | None = None

    def __post_init__(self) -> None:
        """Refuse a layer that stands in two banks, and banks without layers."""
        seen: dict[str, str] = {}
        for bank, layers in self.banks.items():
            if not is_bank_name(bank):
                raise PlanError(
                    f"mapping: banks: {bank!r} must be a Python identifier, and neither a "
                    "keyword nor an attribute of nn.ModuleDict such as 'train'"
                )
            if isinstance(layers, str):
                raise PlanError(f"mapping: banks[{bank!r}] must be a list of layer names")
            if not layers:
                raise PlanError(f"mapping: banks[{bank!r}] has no layer")
            for layer in layers:
                if layer in seen:
                    raise PlanError(
                        f"mapping: {layer} is in banks {seen[layer]!r} and {bank!r}; a layer "
                        "takes its weight from one"
                    )
                seen[layer] = bank
        for bank in self.frozen:
            if bank not in self.banks:
                raise PlanError(f"mapping: frozen: {bank!r} is no bank{nearest(bank, self.banks)}")

    @property
    def bank_of(self) -> dict[str, str]:
        """Layer name -> bank name."""
        return {layer: bank for bank, layers in self.banks.items() for layer in layers}

    def check(self, names: Iterable[str]) -> None:
        """Raise a `PlanError` listing what differs, unless the mapping covers these layers."""
        wanted, have = set(names), set(self.bank_of)
        missing, extra = sorted(wanted - have), sorted(have - wanted)
        if missing or extra:
            raise PlanError(
                "the mapping was made for another model: "
                + "; ".join(
                    f"{label} {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}"
                    for label, found in (("it lacks", missing), ("it has also", extra))
                    if found
                )
            )

    def merge(self, *banks: str) -> "Mapping":
        """Return a mapping in which these banks are one, under the name of the first.

        Raises:
            NpasError: for an unknown or frozen bank, or fewer than two.
        """
        self._check_editable(banks)
        if len(set(banks)) < 2:
            raise NpasError(f"merge takes two banks or more, found {', '.join(banks) or 'none'}")
        together = tuple(x for bank, layers in self.banks.items() if bank in banks for x in layers)
        changed = {bank: layers for bank, layers in self.banks.items() if bank not in banks[1:]}
        changed[banks[0]] = together
        return self._edited(changed, {banks[0]: f"merged by hand: {', '.join(banks)}"})

    def split(self, bank: str, *patterns: str, name: str | None = None) -> "Mapping":
        """Return a mapping in which some layers of a bank have a bank to themselves.

        Args:
            bank: whose layers they are.
            patterns: which layers, as `npas.plan` takes patterns.
            name: of the new bank; the old one's with ``_split`` behind it by default.

        Raises:
            NpasError: for an unknown or frozen bank, a pattern that matches none of its layers, or
                patterns that match all.
        """
        self._check_editable([bank])
        moved = select(patterns, list(self.banks[bank]), argument="split")
        left = tuple(layer for layer in self.banks[bank] if layer not in moved)
        if not moved or not left:
            raise NpasError(
                f"split: the patterns match {len(moved)} of the {len(self.banks[bank])} layers of "
                f"bank {bank!r}; some must go and some must stay"
            )
        new = self._new_name(name or f"{bank}_split")
        chosen = tuple(layer for layer in self.banks[bank] if layer in moved)
        changed = {**self.banks, bank: left, new: chosen}
        return self._edited(changed, {new: f"split by hand from {bank}"})

    def pin(self, *patterns: str) -> "Mapping":
        """Return a mapping in which each of these layers has a bank of its own.

        Raises:
            NpasError: for a pattern that matches no layer, or a layer of a frozen bank.
        """
        pinned = select(patterns, list(self.bank_of), argument="pin")
        self._check_editable({self.bank_of[layer] for layer in pinned})
        result = self
        for layer in self._in_order():
            bank = result.bank_of[layer]
            if layer in pinned and len(result.banks[bank]) > 1:
                new = result._new_name(f"{bank}_pinned")
                rest = tuple(other for other in result.banks[bank] if other != layer)
                changed = {**result.banks, bank: rest, new: (layer,)}
                result = result._edited(changed, {new: "pinned by hand: its own bank"})
        return result

    def freeze(self, *banks: str) -> "Mapping":
        """Return a mapping whose other tools, and `npas.cluster`, leave these banks as they are.

        Raises:
            NpasError: for an unknown bank.
        """
        self._check_known(banks)
        return replace(self, frozen=tuple(b for b in self.banks if b in {*self.frozen, *banks}))

    def to_json(self) -> str:
        """Return the mapping as JSON text, the same bytes for the same mapping."""
        from npas.mapping_json import dump_mapping

        return dump_mapping(self)

    @staticmethod
    def from_json(text: str) -> "Mapping":
        """Read a mapping from JSON text, which is not trusted.

        Raises:
            PlanError: that names the field, if it is not a mapping.
        """
        from npas.mapping_json import read_mapping

        return read_mapping(text)

    def save(self, path: str | Path) -> None:
        """Write the mapping to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "Mapping":
        """Read a mapping from a file.

        Raises:
            PlanError: if the file cannot be read, is too large, or is not a mapping.
        """
        from npas.mapping_json import MOST_BYTES

        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise PlanError(f"mapping {path}: larger than {MOST_BYTES >> 20} MiB")
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"mapping {path}: {error}") from error
        try:
            return Mapping.from_json(text)
        except PlanError as error:
            said = str(error).removeprefix("mapping: ")
            raise PlanError(f"mapping {path}: {said}") from error

    def summary(self) -> str:
        """Return the mapping in a few lines of text: a line a bank."""
        counts = f"{len(self.bank_of)} layers in {len(self.banks)} banks"
        lines = [f"{counts}, {self.source}"]
        if self.learned is not None:
            found = self.learned
            known = {
                "inertia": found.inertia,
                "silhouette": found.silhouette,
                "stability over seeds": found.stability,
            }
            lines.append(
                f"{found.steps} steps, {found.templates} templates, seed {found.seed}; "
                + ", ".join(f"{n} {v:.3g}" for n, v in known.items() if v is not None)
            )
        for bank, layers in self.banks.items():
            shown = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if layers[4:] else "")
            frozen = " (frozen)" if bank in self.frozen else ""
            lines.append(f"  {bank}{frozen}: {shown}: {self.reasons.get(bank, '')}")
        return "\n".join(lines)

    def plot(self) -> "Figure":
        """Draw layers against banks, and how alike layers are if learned (needs ``npas[plot]``)."""
        from npas.plot import plot_mapping

        return plot_mapping(self)

    def _edited(
        self, banks: MappingType[str, tuple[str, ...]], reasons: MappingType[str, str]
    ) -> "Mapping":
        order = {layer: i for i, layer in enumerate(self._in_order())}
        arranged = {b: tuple(sorted(layers, key=order.__getitem__)) for b, layers in banks.items()}
        learned = self.learned and replace(
            self.learned, inertia=None, silhouette=None, stability=None
        )
        kept = {bank: text for bank, text in self.reasons.items() if bank in arranged}
        return Mapping(arranged, self.source, {**kept, **reasons}, self.frozen, learned)

    def _in_order(self) -> tuple[str, ...]:
        """Return the layers in the model's order where it is known, else bank by bank."""
        learned = () if self.learned is None else tuple(self.learned.representation)
        return learned if set(learned) >= set(self.bank_of) else tuple(self.bank_of)

    def _new_name(self, wanted: str) -> str:
        name = wanted
        while name in self.banks:
            name += "_"
        return name

    def _check_known(self, banks: Iterable[str]) -> None:
        for bank in banks:
            if bank not in self.banks:
                raise NpasError(f"mapping: {bank!r} is no bank{nearest(bank, self.banks)}")

    def _check_editable(self, banks: Iterable[str]) -> None:
        self._check_known(banks)
        for bank in banks:
            if bank in self.frozen:
                raise NpasError(f"mapping: bank {bank!r} is frozen and stays as it is")
