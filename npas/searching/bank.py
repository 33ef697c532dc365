"""The bank of a search (3.2): every layer is a resized sum of the same few templates."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from npas.errors import NpasError
from npas.init import spread
from npas.passes.collect import WeightOp
from npas.passes.demand import EMBEDDING
from npas.recompute import LiveWeights

METHODS = ("emb", "wavg")
STARTS = ("equal", "orthogonal")


class SearchBank(nn.Module):
    """One bank as large as the largest layer, cut into K' even templates.

    A layer's weight is the sum of its coefficients times the templates, resized bilinearly to the
    weight's matrix [out, rest]. A sum of resized templates is the resized sum, so a layer costs
    one sum over the bank and one resize, whatever K' is.

    Attributes:
        theta: [K', rows, columns] the templates, cut from the largest layer's matrix.
        alpha: [layers, K'] coefficients (wavg), or None.
        phi: [layers, 24] layer embeddings (emb), or None.
        projection: [K', 24] W, or None.
        bias: [K'] b, or None.
        gain: [layers] fixed scale of each layer, a buffer.
    """

    gain: torch.Tensor

    def __init__(
        self,
        weights: Sequence[WeightOp],
        parameters: Mapping[str, torch.Tensor],
        method: str,
        templates: int,
        start: str,
    ) -> None:
        """Draw templates and coefficients, and scale each layer as the original.

        Args:
            weights: the layers.
            parameters: first name -> original weight, on a real device.
            method: ``"emb"`` or ``"wavg"``.
            templates: K'.
            start: ``"equal"``: all layers start with the same coefficients, so that what tells
                them apart was learned; ``"orthogonal"``: K' layers to a random orthogonal basis.
        """
        super().__init__()
        self.start = start
        largest = max(weights, key=lambda weight: weight.n)
        rows, columns = template_shape(largest, templates)
        first = parameters[largest.name]
        made: dict[str, Any] = {"dtype": first.dtype, "device": first.device}
        self.theta = nn.Parameter(torch.randn(templates, rows, columns, **made))
        starts = _coefficients(start, len(weights), templates, first.device).to(first.dtype)
        self.alpha = self.phi = self.projection = self.bias = None
        if method == "wavg":
            self.alpha = nn.Parameter(starts)
        else:
            projection = torch.empty(templates, EMBEDDING, device=first.device)
            projection = nn.init.orthogonal_(projection).to(first.dtype)
            self.projection = nn.Parameter(projection)
            self.phi = nn.Parameter(starts @ projection)
            self.bias = nn.Parameter(torch.zeros(templates, **made))
        self.register_buffer("gain", torch.ones(len(weights), device=first.device))
        self._index = {weight.name: i for i, weight in enumerate(weights)}
        self._weights = tuple(weights)
        self._live = LiveWeights()
        self._scale_as({weight.name: parameters[weight.name] for weight in weights})

    @property
    def method(self) -> str:
        """``"emb"`` or ``"wavg"``."""
        return "wavg" if self.phi is None else "emb"

    @property
    def weights(self) -> tuple[WeightOp, ...]:
        """The layers, in the model's order."""
        return self._weights

    @property
    def live(self) -> LiveWeights:
        """The generated weights that are alive: none is kept."""
        return self._live

    def representation(self) -> torch.Tensor:
        """Return what was learned of each layer: phi [layers, 24], or alpha [layers, K']."""
        found = self.alpha if self.phi is None else self.phi
        assert found is not None
        return found.detach().float().cpu()

    def extra_repr(self) -> str:
        """Return the sizes for ``print``."""
        return f"{self.method}, {tuple(self.theta.shape)} templates, {len(self._weights)} layers"

    def forward(self, layer: str, rows: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        """Return a layer's weight in its shape, or rows of it, with grad where enabled."""
        index = self._index[layer]
        weight = self._weights[index]
        if self.phi is None:
            assert self.alpha is not None
            alpha = self.alpha[index]
        else:
            assert self.projection is not None and self.bias is not None
            alpha = (self.projection * self.phi[index]).sum(dim=1) + self.bias
        mixed = torch.mv(self.theta.flatten(1).T, alpha).view(1, 1, *self.theta.shape[1:])
        size = (weight.shape[0], weight.n // weight.shape[0])
        made = F.interpolate(mixed, size=size, mode="bilinear", align_corners=False)
        made = (made.view(weight.shape) * self.gain[index]).to(getattr(torch, weight.dtype))
        if weight.padding_idx is not None:
            empty = made.new_zeros(weight.shape[1:])
            made = torch.select_scatter(made, empty, 0, weight.padding_idx)
        return made if rows is None else made[rows]

    def read(self, layer: str, *, whole: bool = False, hold: bool = True) -> torch.Tensor:
        """Return a layer's weight for a module that reads it on its own."""
        del whole, hold
        return self(layer)

    def defer(self, layer: str, *, always: bool = False) -> None:
        """Tell that a layer's weight is made before it is multiplied."""
        del layer, always

    def fuses(self, layer: str, input: torch.Tensor, rows: int, *, always: bool = False) -> bool:
        """Tell that a layer's weight is made before it is multiplied."""
        del layer, input, rows, always
        return False

    @torch.no_grad()
    def _scale_as(self, originals: Mapping[str, torch.Tensor]) -> None:
        """Set gains of geometric mean 1, so that each weight starts at the original's scale."""
        needed = torch.ones(len(originals), dtype=torch.float64)
        for i, (weight, original) in enumerate(zip(self._weights, originals.values(), strict=True)):
            target, made = spread(original), spread(self(weight.name))
            if target == 0:
                # It starts at zero through its coefficients, and learns at the scale of its fan-in.
                target = (weight.n / weight.shape[0]) ** -0.5
                for learned in (self.alpha, self.phi):
                    if learned is not None:
                        learned[i] = 0
            needed[i] = target / made if made > 0 else 1.0
        mean = needed.log().mean().exp()
        self.theta.mul_(float(mean))
        self.gain.copy_(needed / mean)


def template_shape(largest: WeightOp, templates: int) -> tuple[int, int]:
    """Return rows and columns of a template: a strip of the largest layer's matrix [out, rest].

    Raises:
        NpasError: if the layer is too small to be cut into so many.
    """
    out, rest = largest.shape[0], largest.n // largest.shape[0]
    if out >= templates:
        return out // templates, rest
    if rest >= templates:
        return out, rest // templates
    raise NpasError(
        f"templates={templates}: the largest layer, {largest.name}, is {out} x {rest} and cannot "
        f"be cut into so many; use at most {max(out, rest)}"
    )


def _coefficients(start: str, n_layers: int, k: int, device: torch.device) -> torch.Tensor:
    """Return [layers, k] unit rows."""
    if start == "equal":
        return torch.full((n_layers, k), k**-0.5, device=device)
    count = -(-n_layers // k)
    bases = [nn.init.orthogonal_(torch.empty(k, k, device=device)) for _ in range(count)]
    return torch.cat(bases)[:n_layers]
