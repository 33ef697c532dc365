"""What is special in a weight, that a random start at its scale does not have."""

import torch
from torch import Tensor

# A share of zeros, a mean in standard deviations, and a ratio of rows' standard deviations above
# which a weight is no draw of independent numbers around zero.
_ZEROS, _MEAN, _ROWS = 0.05, 0.5, 2.0
# Of fewer elements, or rows of fewer, draws tell nothing.
_LEAST, _LEAST_COLUMNS = 64, 16


@torch.no_grad()
def special(weight: Tensor, padding_idx: int | None = None) -> str:
    """Return in words what tells a weight from independent draws around zero, or an empty text.

    Found are: a constant, a mean far from zero, zeros among the elements (sparse starts, identity
    and Dirac), orthogonal rows or columns, and rows of different scale (gates or heads that start
    differently).

    Args:
        weight: [out, ...] of any floating-point dtype.
        padding_idx: a row that is zero and stays so.
    """
    rows = weight.detach().float().flatten(1) if weight.dim() > 1 else weight.detach().float()[None]
    if padding_idx is not None:
        keep = torch.arange(len(rows), device=rows.device) != padding_idx
        rows = rows[keep]
    if rows.numel() < _LEAST:
        return ""
    std, mean = float(rows.std(correction=0)), float(rows.mean())
    if std <= 1e-5 * abs(mean):
        return "constant"
    found: list[str] = []
    if abs(mean) > _MEAN * std:
        found.append("of a mean that is not 0")
    zeros = float((rows == 0).float().mean())
    if zeros > _ZEROS:
        found.append(f"zero in {zeros:.0%} of its elements")
    if _is_orthogonal(rows):
        found.append("orthogonal")
    elif rows.shape[1] >= _LEAST_COLUMNS and len(rows) > 1:
        scales = rows.std(dim=1).quantile(torch.tensor([0.1, 0.9], device=rows.device))
        if float(scales[1]) > _ROWS * float(scales[0]):
            found.append("of rows of different scale")
    return " and ".join(found)


def _is_orthogonal(rows: Tensor) -> bool:
    """Tell whether the shorter side's vectors are orthogonal and of one length.

    Then, and hardly otherwise, all vectors are as much longer after the product.
    """
    wide = rows if len(rows) >= rows.shape[1] else rows.T
    if wide.shape[1] < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(wide.shape[1], 8, generator=generator).to(rows.device)
    lengths = (wide @ probes).norm(dim=0) / probes.norm(dim=0)
    return float(lengths.max() - lengths.min()) < 1e-3 * float(lengths.mean())
