"""Starts of networks without norms, and of coefficients: tables of `benchmarks.starting`."""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import npas
from benchmarks.starting_measure import Network, compared, measured, normal
from benchmarks.tables import Row
from npas.coefficients import draw_coefficients
from npas.plan import LayerPlan


def plain_mlp() -> nn.Module:
    """Return 40 linear layers of 64 with ReLU between them, in He's initialisation."""
    return nn.Sequential(*(_relu(nn.Linear(64, 64, bias=False)) for _ in range(40)))


def plain_cnn() -> nn.Module:
    """Return 24 convolutions of 16 channels with ReLU between them, in He's initialisation."""
    sizes = [3] + 24 * [16]
    layers = (nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in itertools.pairwise(sizes))
    return nn.Sequential(*map(_relu, layers))


def _relu(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(OrderedDict(layer=layer, relu=nn.ReLU()))


class Skip(nn.Module):
    """A residual block without a norm, whose branch starts at zero.

    By its scalar (SkipInit; De and Smith, 2020), or by its last weight (Fixup; Zhang et al., 2019).
    """

    def __init__(self, dim: int, depth: int, *, fixup: bool) -> None:
        """Initialise as in the papers: with Fixup the first weight is scaled by depth^-1/2."""
        super().__init__()
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.kaiming_normal_(self.up.weight)
        if fixup:
            with torch.no_grad():
                self.up.weight.mul_(depth**-0.5)
            nn.init.zeros_(self.down.weight)
        self.scale = nn.Parameter(torch.full((), float(fixup)))

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled branch."""
        return x + self.scale * self.down(F.relu(self.up(x)))


def skip_network(*, fixup: bool) -> nn.Module:
    """Return 20 blocks of 64."""
    return nn.Sequential(*(Skip(64, 20, fixup=fixup) for _ in range(20)))


PLAIN = {
    "40 linear layers and ReLU": Network(plain_mlp, normal(64, 64), r"\d+\.layer"),
    "24 convolutions and ReLU": Network(plain_cnn, normal(8, 3, 16, 16), r"\d+\.layer"),
    "20 blocks, SkipInit": Network(partial(skip_network, fixup=False), normal(64, 64), r"\d+"),
    "20 blocks, Fixup": Network(partial(skip_network, fixup=True), normal(64, 64), r"\d+"),
}


def without_norms(budgets: Sequence[str], most: float, seeds: int = 3) -> Iterator[Row]:
    """Return rows for networks without norms: the largest factor of all seeds.

    Args:
        budgets: those that a network is too small for are passed over.
        most: that is promised between activations after calibration.
        seeds: of the networks; the compiled ones' follow from them.
    """
    for (name, network), budget in itertools.product(PLAIN.items(), budgets):
        try:
            plan = npas.plan(network.make(), budget, groups="single")
        except npas.BudgetError:
            continue
        factors: dict[str, float] = {}
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = network.make()
            original = measured(model, network, [])
            others: dict[str, nn.Module] = {"again": network.make()}
            for variant, batch in (("plain", None), ("calibrated", network.inputs())):
                torch.manual_seed(1000 + seed)
                module = copy.deepcopy(model)
                others[variant] = npas.compile_(module, plan=plan, calibrate=batch, recompute=True)
            for variant, module in others.items():
                found = compared(variant, measured(module, network, []), original)
                for what in (f"{variant}_activations", f"{variant}_gradients"):
                    factors[what] = max(factors.get(what, 1.0), found[what])
        assert factors["calibrated_activations"] <= most, (name, budget, factors)
        yield {"network": name, "budget": budget, **factors}


def coefficients() -> Iterator[Row]:
    """Return how evenly the alphas of layers that read the same templates are spread."""
    for k, n_layers in ((4, 4), (4, 5), (4, 8), (4, 16), (4, 64), (4, 1000), (8, 40), (12, 20)):
        torch.manual_seed(0)
        n_bases = -(-n_layers // k)
        bases = torch.cat([nn.init.orthogonal_(torch.empty(k, k)) for _ in range(n_bases)])
        drawn = F.normalize(torch.randn(n_layers, k), dim=1)
        ours = draw_coefficients([_layer(str(i), k) for i in range(n_layers)])
        found = {"ours": torch.stack([*ours.values()]), "bases": bases[:n_layers], "drawn": drawn}
        row: dict[str, Any] = {"k": k, "layers": n_layers}
        row["bound"] = (max(0, n_layers - k) / (k * (n_layers - 1))) ** 0.5
        for name, vectors in found.items():
            row[name] = float((vectors @ vectors.T).fill_diagonal_(0).abs().max())
        if n_layers >= k:
            shares = torch.linalg.eigvalsh(found["ours"].T @ found["ours"]) * k / n_layers
            row["uneven"] = float((shares - 1).abs().max())
        yield row


def _layer(name: str, k: int) -> LayerPlan:
    where = {"bank": "b0", "base": 0, "stride": 64, "k": k}
    how = {"downsample": "wavg", "upsample": "mask", "scale": False, "uses": 1, "macs": None}
    what: dict[str, Any] = {"aliases": (), "kind": "linear", "shape": (8, 8), "dtype": "float32"}
    return LayerPlan(name=name, padding_idx=None, **what, **how, **where)
