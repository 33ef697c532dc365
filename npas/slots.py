"""Where the numbers of each layer stand in the parameters of its bank."""

from dataclasses import dataclass

from npas.kernels.combine.table import AVERAGE
from npas.plan import LayerPlan


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a layer's own numbers stand in the bank's parameters.

    Attributes:
        layer: of the plan.
        index: of the layer in the bank, and of its gain.
        coefficient: offset in alpha (wavg) or row of phi (emb).
        scale: place in scale, or None.
        offset: of the layer's coefficients in `Sources.coef`, or AVERAGE.
    """

    layer: LayerPlan
    index: int
    coefficient: int
    scale: int | None
    offset: int

    @property
    def row(self) -> tuple[int, int, int, int, int]:
        """The layer's row of `combine`'s table."""
        layer = self.layer
        return layer.base, layer.stride, layer.k, layer.n, self.offset


def slots_of(layers: tuple[LayerPlan, ...]) -> dict[str, Slot]:
    """Return where the numbers of a bank's layers stand, in the layers' order."""
    wavg = [x for x in layers if x.has_coefficients and x.downsample == "wavg"]
    emb = [x for x in layers if x.has_coefficients and x.downsample != "wavg"]
    k_emb = max((x.k for x in emb), default=0)
    n_alpha = n_phi = n_scales = 0
    first_emb = sum(x.k for x in wavg)
    end = first_emb + len(emb) * k_emb
    slots: dict[str, Slot] = {}
    for index, layer in enumerate(layers):
        scale = None
        coefficient, offset = 0, AVERAGE
        if layer.has_coefficients and layer.downsample == "wavg":
            coefficient = offset = n_alpha
            n_alpha += layer.k
        elif layer.has_coefficients:
            coefficient, offset = n_phi, first_emb + n_phi * k_emb
            n_phi += 1
        elif layer.scale:
            scale, offset = n_scales, end
            n_scales, end = n_scales + 1, end + max(1, layer.k)
        slots[layer.name] = Slot(layer, index, coefficient, scale, offset)
    return slots
