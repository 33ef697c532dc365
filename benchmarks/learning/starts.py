"""Other ways to start masks and coefficients than npas's own, put in place after compile.

Every mask here has a mean square of 1 and every layer's coefficients have unit norm, so that the
scale at which a weight starts does not change, but for chance in layers of few elements.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from npas.bank import Bank, banks_of
from npas.init import spread

NOISE = 0.1


def _unit(mask: Tensor) -> Tensor:
    return mask / mask.square().mean().sqrt()


def _signs(mask: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, mask.shape, generator=generator) * 2.0 - 1.0


def _noise(mask: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(mask.shape, generator=generator)


def _near_one(mask: Tensor, generator: torch.Generator) -> Tensor:
    return 1 + NOISE * _noise(mask, generator)


def _tile_signs(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Near one, and a sign for each tile: windows of 9 follow one another."""
    signs = _signs(mask[::9], generator).repeat_interleave(9)[: len(mask)]
    return signs * _near_one(mask, generator)


MASKS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "mask: random sign": _signs,
    "mask: normal": _noise,
    "mask: near one, a sign a tile": _tile_signs,
    "mask: near one": _near_one,
    "mask: ones": lambda mask, generator: torch.ones_like(mask),
}


def _bases(layers: int, k: int, generator: torch.Generator) -> Tensor:
    """Each k layers an orthogonal basis of their own."""
    drawn = [torch.empty(k, k) for _ in range(-(-layers // k))]
    for basis in drawn:
        nn.init.orthogonal_(basis, generator=generator)
    return torch.cat(drawn)[:layers]


def _equal(layers: int, k: int, generator: torch.Generator) -> Tensor:
    """All layers the average of their templates."""
    return torch.full((layers, k), 1 / math.sqrt(k))


def _normal(layers: int, k: int, generator: torch.Generator) -> Tensor:
    """Directions drawn at random."""
    return nn.functional.normalize(torch.randn(layers, k, generator=generator))


def _spread(layers: int, k: int, generator: torch.Generator) -> Tensor:
    """Lines as far apart as gradient descent on their squared cosines, to a power, puts them."""
    points = torch.randn(layers, k, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    for _ in range(500):
        lines = nn.functional.normalize(points)
        cosines = (lines @ lines.T).square().triu(1)
        optimizer.zero_grad()
        cosines.pow(4).sum().backward()
        optimizer.step()
    return nn.functional.normalize(points.detach()).float()


COEFFICIENTS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "alpha: a basis for each K layers": _bases,
    "alpha: spread": _spread,
    "alpha: normal": _normal,
    "alpha: equal": _equal,
}
STARTS = ("default", *MASKS, *COEFFICIENTS)


@torch.no_grad()
def restart(module: nn.Module, start: str, seed: int) -> None:
    """Overwrite the masks or the coefficients of a compiled module; weights keep their scale.

    Args:
        module: compiled, with ``downsample="wavg"`` where coefficients are to be set.
        start: a name of `STARTS`.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    for bank in banks_of(module).values():
        if start in MASKS and bank.mask is not None:
            bank.mask.copy_(_unit(MASKS[start](bank.mask, generator)))
        elif start in COEFFICIENTS:
            _set_alphas(bank, COEFFICIENTS[start], generator)
        bank.refresh()


def _set_alphas(
    bank: Bank, draw: Callable[[int, int, torch.Generator], Tensor], generator: torch.Generator
) -> None:
    before = {name: spread(bank.generate(name)) for name in bank.layer_names()}
    slots = [bank.slot_of(name) for name in bank.layer_names()]
    slots = [(layer, place) for layer, place, _ in slots if layer.has_coefficients]
    for k in sorted({layer.k for layer, _ in slots}):
        places = [place for layer, place in slots if layer.k == k]
        assert bank.alpha is not None
        with torch.enable_grad():
            drawn = draw(len(places), k, generator)
        for place, alpha in zip(places, drawn, strict=True):
            bank.alpha[place : place + k] = alpha
    # A layer that shares no element started with the original weight, which is no random bank.
    for layer, _ in slots:
        bank.scale_gain(layer.name, before[layer.name] / spread(bank.generate(layer.name)))
