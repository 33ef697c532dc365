"""What a plan costs in multiply-accumulates (its parameters are in the plan)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from npas.arguments import check_keywords
from npas.errors import NpasError
from npas.naming import as_tuple, check_choice
from npas.passes.macs import Run, Use, watch
from npas.plan import LayerPlan, Plan

MODES = ("train", "eval")
# Neighbours that a bilinear value is made from.
_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True)
class Count:
    """Multiply-accumulates of a planned model.

    A multiply-accumulate counts once (two FLOPs). Those of the network are everything that
    `torch.utils.flop_counter` has a formula for, products between activations (attention)
    included, and `torch.nn.Bilinear`. Those of generation are what the ops do for each element of
    a weight: K_i for K_i templates, one where a bank is tiled, four where it is interpolated.

    Attributes:
        plan: that is counted.
        macs: of the network for one sample, in evaluation mode, or None without example inputs.
        generation_macs: that make every weight once; the batch shares them.
        row_macs: that make the rows of embeddings which one sample looks up.
        remade_macs: those of `generation_macs` that are spent in evaluation too: rows that all
            samples share (positions), and embeddings that are interpolated, which are not kept.
    """

    plan: Plan
    macs: int | None
    generation_macs: int
    row_macs: int
    remade_macs: int

    @property
    def formula(self) -> int:
        """Sum of K_i n_i over all weights that are generated, with 1 for K_i where one is tiled.

        It is `generation_macs` but for embeddings, of which only rows are made, and for weights
        that are interpolated.
        """
        return self.plan.generation_macs

    def generation(self, batch: int = 1, mode: str = "train") -> Fraction:
        """Return the multiply-accumulates of generation for one sample of a batch.

        In ``"eval"`` weights are made once and kept, so what is left is of embeddings.
        """
        check_choice("mode", mode, MODES)
        if not isinstance(batch, int) or batch < 1:
            raise NpasError(f"batch={batch!r} must be a whole number of at least 1")
        whole = self.generation_macs if mode == "train" else self.remade_macs
        return self.row_macs + Fraction(whole, batch)

    def overhead(self, batch: int = 1, mode: str = "train") -> float | None:
        """Return them as a share of the network's own, None where those are not known."""
        if not self.macs:
            return None
        return float(self.generation(batch, mode) / self.macs)


def count(
    model: nn.Module,
    plan: Plan,
    example_inputs: torch.Tensor | Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> Count:
    """Count the multiply-accumulates of a planned model's forward pass.

    Nothing is computed: the model runs once on meta tensors. A weight that shares nothing with
    another and has a gain of one is a view of its bank, which costs nothing; gains are not in a
    plan, so it is counted.

    Args:
        model: that the plan was made for; it is not changed.
        plan: from `npas.plan`.
        example_inputs: positional inputs, or the one; without any only generation is counted. With
            two samples or more it is seen which rows of embeddings all samples share.
        example_kwargs: keyword inputs.

    Raises:
        NpasError: if the plan is not one of the model, the inputs do not run through it, or what it
            does depends on values, so that it does not run on meta tensors.
    """
    from npas.planning import check_fits

    inputs = as_tuple(example_inputs)
    check_keywords(example_kwargs)
    check_fits(plan, model)
    run = None
    if inputs or example_kwargs:
        names = [layer.name for layer in plan.layers]
        run = watch(model, names, inputs, example_kwargs or {})
        if run is None:
            raise NpasError(
                f"{type(model).__name__} does not run on meta tensors (what it does depends on "
                "values), so its multiply-accumulates cannot be counted; leave out the inputs to "
                "count parameters and generation"
            )
    macs = rows = remade = 0
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            continue
        each, use = _each(layer), _lookups(layer, run)
        if use is None:
            macs += each * layer.n
        elif _is_interpolated(layer):
            macs += each * layer.n
            remade += each * layer.n
        else:
            row = each * layer.n // layer.shape[0]
            rows += row * use.rows
            macs += row * use.fixed_rows
            remade += row * use.fixed_rows
    return Count(plan, None if run is None else run.macs, macs, rows, remade)


def _is_interpolated(layer: LayerPlan) -> bool:
    return layer.upsample == "inter" and not layer.k


def _each(layer: LayerPlan) -> int:
    """Return the multiply-accumulates of one element of a weight."""
    return layer.k or (_NEIGHBOURS if _is_interpolated(layer) else 1)


def _lookups(layer: LayerPlan, run: Run | None) -> Use | None:
    """Return how a weight is used, None if more is read of it than rows."""
    if run is None or layer.name not in run.uses or len(layer.shape) != 2:
        return None
    use = run.uses[layer.name]
    return use if use.reads == use.lookups else None
