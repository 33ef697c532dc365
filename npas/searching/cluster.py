"""From what a search learned of each layer to a mapping (3.2): k-means on the representations."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from npas.errors import DivergedError, NpasError, NpasWarning
from npas.mapping import Learned, Mapping
from npas.passes.mapping import ROOM, kmeans, merge_starved
from npas.searching.bank import SearchBank

# Starts of k-means, of which the best is taken, and seeds that the number of groups is judged by.
N_INIT: Any = 10
N_SEEDS = 8
# Numbers of groups that are tried; each costs N_SEEDS runs of k-means.
_MOST_TRIED = 24
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Layers:
    """What is clustered.

    Attributes:
        names: of the layers, in the model's order.
        points: [layers, width] their representations.
        sizes: [layers] elements of their weights, or None where not known.
    """

    names: tuple[str, ...]
    points: np.ndarray
    sizes: np.ndarray | None


def cluster(
    searched: nn.Module | Mapping,
    groups: int | str = "auto",
    *,
    seed: int = 0,
    share: float = 1.0,
) -> Mapping:
    """Return the mapping that puts layers of similar representation into one bank (3.2).

    k-means of scikit-learn with ``n_init=10`` on phi (``emb``) or alpha (``wavg``), as they were
    learned.

    Args:
        searched: a module from `npas.search_model` after training, or a mapping that was learned:
            its layers are clustered again, but those of frozen banks.
        groups: number of banks P, or ``"auto"``: of the numbers from 2 to half of the layers the
            one whose clusterings agree best over 8 seeds (adjusted Rand index), after groups in
            which a layer would be upsampled without need were merged (Appendix C); of equally
            stable ones that of the best silhouette.
        seed: of k-means.
        share: parameters for banks over elements of all weights, which ``"auto"`` needs to know
            what would be upsampled; 1 is a budget of 100%.

    Raises:
        NpasError: if nothing was learned, or ``groups`` is below 1 or above the number of layers.
    """
    learned, layers, kept = _what_to_cluster(searched)
    check_groups(groups, len(layers.names))
    if not isinstance(share, int | float) or not share > 0:
        raise NpasError(f"share={share!r} must be above 0: parameters for banks over elements")
    if isinstance(groups, str):
        labels, stability = choose(layers, float(share), seed)
    else:
        labels, stability = kmeans(layers.points, groups, seed, N_INIT), None
    found = list(dict.fromkeys(labels.tolist()))
    if isinstance(groups, int) and len(found) < groups:
        warnings.warn(
            f"groups={groups}: only {len(found)} of the layers' representations differ",
            NpasWarning,
            stacklevel=2,
        )
    learned = replace(learned, seed=seed, stability=stability, **_quality(layers.points, labels))
    banks, reasons = dict(kept.banks), dict(kept.reasons)
    names = (f"b{i}" for i in itertools.count() if f"b{i}" not in banks)
    for label in found:
        members = tuple(n for n, own in zip(layers.names, labels, strict=True) if own == label)
        bank = next(names)
        banks[bank] = members
        reasons[bank] = _reason(layers.points[labels == label], learned.method)
    return Mapping(banks, f"learned ({learned.method})", reasons, tuple(kept.banks), learned)


def check_groups(groups: object, n_layers: int) -> None:
    """Raise an `NpasError` unless there can be so many groups of so many layers."""
    if groups == "auto":
        return
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise NpasError(f"groups={groups!r} must be a number of banks or 'auto'")
    if not 1 <= groups <= n_layers:
        raise NpasError(
            f"groups={groups} must be between 1 and {n_layers}, the number of layers that npas "
            "allocates"
        )


def choose(layers: Layers, share: float, seed: int) -> tuple[np.ndarray, float]:
    """Return the clusters of the most stable number of groups, and that stability.

    Args:
        layers: what is clustered.
        share: parameters for banks over elements of all weights.
        seed: of the first of the clusterings that are compared; its result is returned.
    """
    from sklearn.metrics import adjusted_rand_score

    def clusters(n_groups: int, offset: int, n_init: int) -> np.ndarray:
        labels = kmeans(layers.points, n_groups, (seed + offset) % 2**32, n_init)
        if layers.sizes is None or share >= 1:
            return labels
        return merge_starved(labels, layers.points, layers.sizes, share)

    # More groups than half of the layers leave most layers alone: that is groups="own".
    most = max(2, len(layers.names) // 2)
    if share < 1:
        # A bank needs at least ROOM / share layers to hold its largest so often.
        most = max(1, min(most, int(share / ROOM * len(layers.names))))
    best, stability, score = clusters(1, 0, 1), 1.0, (-1.0, -1.0)
    for n_groups in _tried(min(most, len(layers.names))):
        runs = [clusters(n_groups, offset, 1) for offset in range(N_SEEDS)]
        pairs = itertools.combinations(runs, 2)
        agreement = float(np.mean([adjusted_rand_score(a, b) for a, b in pairs]))
        found = clusters(n_groups, 0, N_INIT)
        silhouette = _silhouette(layers.points, found)
        if silhouette is None:  # all in one group, or each in its own: no finding
            continue
        own = (round(agreement, 2), silhouette)  # equal to two digits is as stable
        if own > score:
            best, stability, score = found, agreement, own
    return best, round(stability, _DIGITS)


def representations(bank: SearchBank) -> dict[str, tuple[float, ...]]:
    """Return layer -> what a search learned of it, to 6 significant digits."""
    rows = bank.representation().tolist()
    return {
        weight.name: tuple(float(f"{value:.{_DIGITS}g}") for value in row)
        for weight, row in zip(bank.weights, rows, strict=True)
    }


def search_bank(module: nn.Module) -> SearchBank | None:
    """Return the bank of a module from `npas.search_model`, or None."""
    return next((m for m in module.modules() if isinstance(m, SearchBank)), None)


def _tried(most: int) -> Sequence[int]:
    numbers = np.unique(np.geomspace(2, max(2, most), _MOST_TRIED).round().astype(int))
    return [int(n) for n in (range(2, most + 1) if most <= _MOST_TRIED + 1 else numbers)]


def _what_to_cluster(searched: Any) -> tuple[Learned, Layers, Mapping]:
    """Return what was learned, of which layers, and the banks that are frozen."""
    nothing = Mapping({})
    if isinstance(searched, Mapping):
        if searched.learned is None:
            raise NpasError(
                f"the mapping ({searched.source}) was not learned: it has no representations to "
                "cluster; npas.search makes one that has"
            )
        frozen = {bank: searched.banks[bank] for bank in searched.frozen}
        kept = {layer for layers in frozen.values() for layer in layers}
        points = {n: v for n, v in searched.learned.representation.items() if n not in kept}
        if not points:
            raise NpasError("every bank of the mapping is frozen: no layer is left to cluster")
        reasons = {bank: text for bank, text in searched.reasons.items() if bank in frozen}
        layers = Layers(tuple(points), np.array(list(points.values())), None)
        return searched.learned, layers, Mapping(frozen, searched.source, reasons)
    bank = search_bank(searched) if isinstance(searched, nn.Module) else None
    if bank is None:
        raise NpasError(
            f"cluster takes a module from npas.search_model or a learned mapping, found a "
            f"{type(searched).__name__}"
        )
    found = representations(bank)
    learned = Learned(
        method=bank.method,
        templates=len(bank.theta),
        start=bank.start,
        steps=0,
        seed=0,
        optimizer="",
        losses=None,
        inertia=None,
        silhouette=None,
        stability=None,
        representation=found,
    )
    points = np.array(list(found.values()))
    if not np.isfinite(points).all():
        bad = [name for name, vector in found.items() if not np.isfinite(vector).all()]
        raise DivergedError(
            f"cluster: what was learned of {bad[0]} is not finite; the search diverged"
        )
    sizes = np.array([weight.n for weight in bank.weights])
    return learned, Layers(tuple(found), points, sizes), nothing


def _quality(points: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    centres = np.stack([points[labels == label].mean(axis=0) for label in labels])
    inertia = float(((points - centres) ** 2).sum())
    silhouette = _silhouette(points, labels)
    return {
        "inertia": float(f"{inertia:.{_DIGITS}g}"),
        "silhouette": None if silhouette is None else float(f"{silhouette:.{_DIGITS}g}"),
    }


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float | None:
    from sklearn.metrics import silhouette_score

    defined = 2 <= len(np.unique(labels)) < len(points)
    return float(silhouette_score(points, labels)) if defined else None


def _reason(points: np.ndarray, method: str) -> str:
    if len(points) == 1:
        return f"no other layer is near it ({method})"
    spread = float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return f"near in what was learned ({method}): {spread:.3g} from their mean"
