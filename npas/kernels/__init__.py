"""Weight generation: each op a folder with its definition, its kernels and its custom op."""

from npas.kernels.combine.op import combine
from npas.kernels.combine_linear.op import combine_linear
from npas.kernels.gather_combine.op import gather_combine
from npas.kernels.gather_tile_mask.op import gather_tile_mask
from npas.kernels.interpolate.op import interpolate
from npas.kernels.tile_mask.op import tile_mask

# isort: split
# Registers the formulas, which the ops must exist for.
from npas.kernels import flops as flops

__all__ = [
    "combine",
    "combine_linear",
    "gather_combine",
    "gather_tile_mask",
    "interpolate",
    "tile_mask",
]
