"""The Plan: the whole decision, as frozen data keyed by fully qualified names."""

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from npas.errors import PlanError
from npas.naming import nearest
from npas.passes.collect import Fixed
from npas.passes.demand import BankCost, Block, Demand, bank_cost, is_ordinary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table
    from torch import nn

    from npas.plan_diff import Change

DOWNSAMPLE = ("wavg", "emb", "avg", "rr")
UPSAMPLE = ("mask", "inter", "repeat")


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Where one layer's weight comes from.

    Attributes:
        name: fully qualified name of the weight, the first where it has several.
        aliases: its other names.
        kind: as `npas.passes.collect.WeightOp`.
        shape: of the weight.
        dtype: of the weight and its bank.
        uses: calls that read it in one forward.
        macs: multiply-accumulates per sample, or None where unknown.
        padding_idx: embedding row that stays zero, or None.
        bank: name of its bank.
        downsample: how templates are combined: wavg, emb (3.1.1), avg or rr (B.2).
        upsample: how a bank that is too small is stretched: mask, inter (3.1.2) or repeat (B.4).
        scale: whether a learnable scalar multiplies a weight that has no coefficient.
        base: first element of its first template in the bank.
        stride: elements from one template to the next, 0 where it has one.
        k: its templates K_i; 0 where it is upsampled from the whole bank.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    dtype: str
    uses: int
    macs: int | None
    padding_idx: int | None
    bank: str
    downsample: str
    upsample: str
    scale: bool
    base: int
    stride: int
    k: int

    @property
    def n(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)

    @property
    def block(self) -> Block:
        """Its windows in the bank."""
        return Block(self.base, self.stride, self.k)

    @property
    def demand(self) -> Demand:
        """Its request to the allocator, with what it got as the limit."""
        return Demand(self.n, 0, self.downsample, self.upsample, max(1, self.k), self.scale)

    @property
    def is_pointwise(self) -> bool:
        """Whether its input is multiplied with it as a matrix: linear, or a 1x1 convolution."""
        return self.kind == "linear" or (
            self.kind == "conv" and all(size == 1 for size in self.shape[2:])
        )

    @property
    def has_coefficients(self) -> bool:
        """Whether it combines templates with coefficients that are learned."""
        return self.k >= 2 and self.downsample in ("wavg", "emb")

    @property
    def mode(self) -> str:
        """How its weight is made, in a word: ``emb x4``, ``mask``, ``window``."""
        if self.k == 0:
            return self.upsample
        return f"{self.downsample} x{self.k}" if self.k >= 2 else "window"


@dataclass(frozen=True, slots=True)
class BankPlan:
    """One shared flat parameter.

    Attributes:
        name: a Python identifier.
        size: elements N.
        dtype: of its elements.
        layers: the layers that take their weights from it, in the model's order.
        reason: why they are together.
    """

    name: str
    size: int
    dtype: str
    layers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Plan:
    """Which layer takes its weight from where, within a parameter budget.

    Attributes:
        budget: as the user wrote it.
        budget_params: the same, in trainable parameters.
        groups: the mapping strategy.
        k: most templates a layer may have.
        seed: of the random choices in the mapping.
        n_dense: trainable parameters of the input model.
        banks: in the order of their first layers.
        layers: in the model's order.
        fixed: parameters that are kept as they are, with the reason.
    """

    budget: str
    budget_params: int
    groups: str
    k: int
    seed: int
    n_dense: int
    banks: tuple[BankPlan, ...]
    layers: tuple[LayerPlan, ...]
    fixed: tuple[Fixed, ...]

    @cached_property
    def layer_by_name(self) -> MappingType[str, LayerPlan]:
        """Layers by first name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def bank_by_name(self) -> MappingType[str, BankPlan]:
        """Banks by name."""
        return {bank.name: bank for bank in self.banks}

    @cached_property
    def costs(self) -> MappingType[str, BankCost]:
        """Trainable parameters of each bank, by what they are."""
        found: dict[str, BankCost] = {}
        for bank in self.banks:
            layers = self.layers_of(bank.name)
            demands = [layer.demand for layer in layers]
            found[bank.name] = bank_cost(demands, [layer.block for layer in layers], bank.size)
        return found

    @property
    def n_fixed(self) -> int:
        """Trainable parameters that are not allocated."""
        return sum(f.n_params for f in self.fixed if f.trainable)

    @property
    def n_params(self) -> int:
        """Trainable parameters of the compiled model."""
        return self.n_fixed + sum(cost.total for cost in self.costs.values())

    @property
    def params(self) -> MappingType[str, int]:
        """Trainable parameters by what they are; they add up to `n_params`."""
        costs = self.costs.values()
        return {
            "banks": sum(cost.elements for cost in costs),
            "coefficients": sum(cost.coefficients + cost.scales for cost in costs),
            "layer embeddings": sum(cost.embeddings + cost.projection for cost in costs),
            "masks": sum(cost.masks for cost in costs),
            "kept as they are": self.n_fixed,
        }

    @property
    def n_macs(self) -> int | None:
        """Multiply-accumulates per sample in which the layers take part, where known."""
        counts = [layer.macs for layer in self.layers]
        return None if None in counts else sum(c for c in counts if c is not None)

    @property
    def generation_macs(self) -> int:
        """Multiply-accumulates that generate every weight once (sum of K_i n_i)."""
        return sum(
            layer.n * max(1, layer.k) for layer in self.layers if not self.is_ordinary(layer.bank)
        )

    def layer(self, name: str) -> LayerPlan:
        """Return a layer by any of its names.

        Raises:
            PlanError: if there is none.
        """
        for layer in self.layers:
            if name in (layer.name, *layer.aliases, layer.name.rpartition(".")[0]):
                return layer
        kept = next((fixed for fixed in self.fixed if fixed.name == name), None)
        if kept is not None:
            raise PlanError(f"{name} is kept as it is ({kept.reason}); nothing generates it")
        names = [layer.name for layer in self.layers]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        hint = nearest(name, names) or f"; it has {', '.join(names[:3])}{more}"
        raise PlanError(f"the plan has no layer {name!r}{hint}")

    def layers_of(self, bank: str) -> tuple[LayerPlan, ...]:
        """Return the layers of a bank, in the model's order."""
        return tuple(self.layer_by_name[name] for name in self.bank_by_name[bank].layers)

    def is_ordinary(self, bank: str) -> bool:
        """Tell whether one layer fills the bank exactly: an ordinary parameter, no generation."""
        return bank in self._ordinary

    @cached_property
    def _ordinary(self) -> frozenset[str]:
        return frozenset(
            bank.name
            for bank in self.banks
            if is_ordinary([layer.n for layer in self.layers_of(bank.name)], bank.size)
        )

    def to_json(self) -> str:
        """Return the plan as versioned JSON text, the same bytes for the same plan."""
        from npas.plan_json import dump_plan

        return dump_plan(self)

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read a plan, which is not trusted: every number in it is checked.

        Raises:
            PlanError: that names the field.
        """
        from npas.plan_json import read_plan

        return read_plan(text)

    def save(self, path: str | Path) -> None:
        """Write the plan to a JSON file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan from a JSON file, or from a folder that `npas.save` wrote.

        Raises:
            PlanError: if the file cannot be read or is not a valid plan.
        """
        from npas.plan_json import plan_file, read_file

        file = plan_file(Path(path))
        try:
            return Plan.from_json(read_file(file))
        except FileNotFoundError as error:
            raise PlanError(
                f"plan {path}: not there; npas plan MODEL --budget B --out {path} writes one"
            ) from error
        except PlanError as error:
            raise PlanError(f"plan {path}: {str(error).removeprefix('plan: ')}") from error

    def table(self, *, full: bool = False) -> "Table":
        """Return the plan as a rich table.

        Args:
            full: a row for each layer; without it, layers of repeated blocks that are alike are one
                row in a plan of more than 64 layers.
        """
        from npas.plan_view import plan_table

        return plan_table(self, full=full)

    def summary(self) -> str:
        """Return the plan in a few lines of text."""
        from npas.plan_view import plan_summary

        return plan_summary(self)

    def explain(self, layer: str | None = None) -> str:
        """Return where a layer's weight comes from, with whom it shares, and why (or all)."""
        from npas.plan_view import plan_explanation

        return plan_explanation(self, layer)

    def diff(self, other: "Plan") -> tuple["Change", ...]:
        """Return what differs from this plan to another, field by field; empty if nothing."""
        from npas.plan_diff import plan_changes

        return plan_changes(self, other)

    def plot(self, module: "nn.Module | None" = None) -> "Figure":
        """Draw layers against banks, windows, and who shares them (needs ``npas[plot]``).

        Args:
            module: compiled from this plan: how alike its coefficients are now is drawn too.
        """
        from npas.plot import plot_plan

        return plot_plan(self, module)
