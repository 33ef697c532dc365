"""Map: decide which layers share a bank, without looking at weight values."""

import itertools
import random
import warnings
from collections import Counter
from collections.abc import Callable, Mapping as MappingType, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from npas.errors import NpasError
from npas.fitting.groups import NOTHING, Evidence, from_weights
from npas.mapping import Mapping
from npas.naming import identifier, matches, nearest, select
from npas.passes.blocks import repeated_blocks
from npas.passes.collect import WeightOp

# The paper's best number of groups at a low budget (Table 12, 4M parameters: 21.31 error).
_DEFAULT_BANKS = 4
_STARTS: Any = 4
#: Templates of its largest layer that a bank of ``"auto"`` has room for, where one bank for all
#: layers would have it: as many as a layer combines by default.
ROOM = 4
# Roles beyond these are one; a model in which every layer has its own has no roles.
_MOST_ROLES = 64


@dataclass(frozen=True, slots=True)
class MapRequest:
    """What a mapping strategy may look at.

    Attributes:
        weights: the layers, in the model's order.
        graph: the op graph.
        n_banks: how many banks the user asked for, or None.
        share: parameters for banks over elements of all weights, or None if it follows from the
            mapping (budget ``"largest"``).
        seed: of ``"random"`` and of k-means.
        evidence: what the weights say, where ``"fit"`` was asked for.
    """

    weights: tuple[WeightOp, ...]
    graph: nx.DiGraph
    n_banks: int | None
    share: float | None
    seed: int
    evidence: Evidence = NOTHING


Groups = str | MappingType[str, str] | Mapping


def map_layers(groups: Groups, request: MapRequest) -> Mapping:
    """Return the mapping that ``groups`` asks for, split where a bank would hold two dtypes.

    Args:
        groups: a strategy (`STRATEGIES`), patterns -> bank, or a `Mapping`.
        request: what to decide on.

    Raises:
        NpasError: for an unknown strategy or pattern, or an impossible ``n_banks``.
        PlanError: for a mapping that was made for another model.
    """
    _check_n_banks(groups, request)
    match groups:
        case Mapping():
            groups.check(w.name for w in request.weights)
            mapping = groups
        case str():
            if groups not in STRATEGIES:
                raise NpasError(
                    f"groups={groups!r} is no strategy{nearest(groups, STRATEGIES)}; use one of "
                    f"{', '.join(STRATEGIES)}, a dict of patterns, or a Mapping"
                )
            mapping = _name_banks(STRATEGIES[groups](request), groups)
        case dict():
            mapping = _from_patterns(groups, request)
        case _:
            raise NpasError(
                f"groups={groups!r} is a {type(groups).__name__}; use one of "
                f"{', '.join(STRATEGIES)}, a dict of patterns, or a Mapping"
            )
    return _split_by_dtype(mapping, request.weights)


# A strategy returns clusters of layer names, each with the reason why they share.
_Clusters = list[tuple[list[str], str]]


def _own(request: MapRequest) -> _Clusters:
    return [([w.name], "its own bank") for w in request.weights]


def _single(request: MapRequest) -> _Clusters:
    return [([w.name for w in request.weights], "one bank for all layers")]


def _random(request: MapRequest) -> _Clusters:
    n_banks = request.n_banks or len(_auto(request))
    names = [w.name for w in request.weights]
    random.Random(request.seed).shuffle(names)
    order = {w.name: i for i, w in enumerate(request.weights)}
    reason = f"drawn at random (seed {request.seed})"
    return [(sorted(names[i::n_banks], key=order.__getitem__), reason) for i in range(n_banks)]


def _by_shape(request: MapRequest) -> _Clusters:
    groups: dict[tuple[int, ...], list[str]] = {}
    for weight in request.weights:
        groups.setdefault(weight.shape, []).append(weight.name)
    return [(names, f"all of shape {'x'.join(map(str, shape))}") for shape, names in groups.items()]


def _repeated(request: MapRequest) -> _Clusters:
    """Let weights share that stand at the same place of blocks that repeat in a row.

    This is the cross-layer sharing of ALBERT (Lan et al., 2020, section 3.1), and so has that name
    too: with budget ``"largest"`` repeated blocks have one weight a place, and what stands in no
    block keeps its own. A larger budget gives each place more templates
    (`npas.passes.templates`). Biases and norms stay each layer's own, which ALBERT shares as well.
    """
    groups: _Clusters = []
    placed: set[str] = set()
    for number, repetition in enumerate(repeated_blocks(request.graph)):
        for role, members in enumerate(zip(*repetition.copies, strict=True)):
            names = [name for name in dict.fromkeys(members) if name not in placed]
            placed.update(names)
            if names:
                reason = (
                    f"weight {role + 1} of a block that repeats {len(members)} times "
                    f"(repetition {number + 1})"
                )
                groups.append((names, reason))
    rest = [w.name for w in request.weights if w.name not in placed]
    return groups + [([name], "in no repeated block: its own bank") for name in rest]


def _soft_sharing(request: MapRequest) -> _Clusters:
    """Let all weights of one shape share that stand in one row of repeated blocks.

    In a residual network these are a stage's 3x3 convolutions but those of its first block, which
    strides and projects: the manual groups of Savarese and Maire (2019), and of the paper's
    Figure 5 for a WRN as far as its text says. WRN-28-10 has 14 groups so. From budget
    ``"largest"`` on, banks are theirs too: k templates as large as a layer, a coefficient a layer
    for each, and all of what shares nothing (`npas.passes.templates`).
    """
    shapes = {w.name: w.shape for w in request.weights}
    clusters: _Clusters = []
    placed: set[str] = set()
    for number, repetition in enumerate(repeated_blocks(request.graph)):
        alike: dict[tuple[int, ...], list[str]] = {}
        for name in dict.fromkeys(itertools.chain.from_iterable(repetition.copies)):
            if name not in placed:
                alike.setdefault(shapes[name], []).append(name)
        for shape, names in alike.items():
            placed.update(names)
            text = "x".join(map(str, shape))
            where = f"{len(repetition.copies)} repeated blocks (repetition {number + 1})"
            clusters.append((names, f"all of shape {text} in {where}"))
    rest = [w.name for w in request.weights if w.name not in placed]
    return clusters + [([name], "in no repeated block: its own bank") for name in rest]


def _auto(request: MapRequest) -> _Clusters:
    """Cluster by k-means over shape, kind, depth and role: as many banks as possible.

    A bank gets parameters in proportion to its layers, so a layer is upsampled where it is larger
    than the bank's share of its layers. Appendix C found that this hurts. Where a layer just fits,
    its bank has a single template for it, and all layers of that size have the same weight, which
    hurts as well (docs/findings.md). So clusters in which a layer has less room than for `ROOM`
    templates, and need not, are merged with the nearest one.
    """
    weights = request.weights
    share = request.share
    if request.n_banks is None and share is not None and share >= 1:
        return _own(request)
    features = _features(weights)
    distinct = len(np.unique(features, axis=0))
    if request.n_banks is not None or share is None:
        n_clusters = min(request.n_banks or _DEFAULT_BANKS, distinct)
        labels = kmeans(features, n_clusters, request.seed)
        share = None
    else:
        # A bank needs at least ROOM / share layers to hold its largest so often.
        n_clusters = min(max(1, int(share / ROOM * len(weights))), distinct)
        # Starts of a thousand clusters take seconds each, and differ little in what is merged.
        n_init = _STARTS if n_clusters <= 128 else 1
        labels = kmeans(features, n_clusters, request.seed, n_init)
        labels = merge_starved(labels, features, np.array([w.n for w in weights]), share)
    clusters: dict[int, list[str]] = {}
    for weight, label in zip(weights, labels, strict=True):
        clusters.setdefault(int(label), []).append(weight.name)
    kinds = {w.name: w.kind for w in weights}
    return [
        (names, f"near in shape, kind, depth and role ({_spread([kinds[n] for n in names])})")
        for names in clusters.values()
    ]


def _features(weights: Sequence[WeightOp]) -> np.ndarray:
    """Return [layers, features]: log sizes and depth of unit spread, one-hot kind and role."""
    sizes = np.array(
        [
            [np.log2(w.n), np.log2(w.shape[0]), np.log2(w.n / w.shape[0]), np.log2(_taps(w))]
            for w in weights
        ]
    )
    depth = np.linspace(0.0, 1.0, len(weights))[:, None]
    labels = ([w.kind for w in weights], [_role(w.name) for w in weights])
    one_hot = [
        np.array(found)[:, None] == [value for value, _ in Counter(found).most_common(_MOST_ROLES)]
        for found in labels
    ]
    columns = np.concatenate([sizes, depth], axis=1)
    spread = columns.std(axis=0)
    columns = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.concatenate([columns, *one_hot], axis=1)


def _role(name: str) -> str:
    """Return a name without numbers: what a layer is in its block, wherever the block stands."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _taps(weight: WeightOp) -> int:
    """Return the positions of a kernel (9 for 3x3), 1 for a matrix."""
    return max(1, int(np.prod(weight.shape[2:])))


def kmeans(points: np.ndarray, n_clusters: int, seed: int, n_init: Any = _STARTS) -> np.ndarray:
    """Return [points] the cluster of each of ``points`` [points, features].

    Args:
        points: what is clustered.
        n_clusters: at most so many; fewer where fewer points are distinct.
        seed: of the starts.
        n_init: starts, of which the best is taken.
    """
    if n_clusters == 1:
        return np.zeros(len(points), dtype=int)
    # Imported here: scikit-learn takes longer to import than a plan takes to make.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        found = KMeans(n_clusters, n_init=n_init, random_state=seed).fit_predict(points)
    return np.asarray(found)


def merge_starved(
    labels: np.ndarray, features: np.ndarray, sizes: np.ndarray, share: float
) -> np.ndarray:
    """Merge clusters that leave a layer less room than they need to, each with the nearest one.

    A layer needs room for `ROOM` templates, or for as many as one bank for all layers would have.
    """
    labels = labels.copy()
    # How often each layer would fit into one bank for all, where that is not more than enough.
    often = np.minimum(ROOM, share * sizes.sum() // sizes)
    while True:
        clusters = np.unique(labels)
        starved = [
            c
            for c in clusters
            if ((often * sizes)[labels == c] > share * sizes[labels == c].sum()).any()
        ]
        if not starved or len(clusters) == 1:
            return labels
        centres = {c: features[labels == c].mean(axis=0) for c in clusters}
        # The smallest first: merging it moves the other banks the least.
        source = min(starved, key=lambda c: (sizes[labels == c].sum(), c))
        others = [c for c in clusters if c != source]
        target = min(others, key=lambda c: (float(((centres[c] - centres[source]) ** 2).sum()), c))
        labels[labels == source] = target


def _spread(kinds: list[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _fit(request: MapRequest) -> _Clusters:
    return from_weights(request.weights, request.evidence, request.share)


STRATEGIES: dict[str, Callable[[MapRequest], _Clusters]] = {
    "auto": _auto,
    "own": _own,
    "single": _single,
    "random": _random,
    "by_shape": _by_shape,
    "repeated": _repeated,
    "albert": _repeated,
    "soft_sharing": _soft_sharing,
    "fit": _fit,
}

# Strategies whose banks have whole templates (`npas.passes.templates`), and the one of them that
# has a coefficient for a single template too.
WHOLE = ("repeated", "albert", "soft_sharing")
SOFT = "soft_sharing"


def _check_n_banks(groups: object, request: MapRequest) -> None:
    n_banks = request.n_banks
    if n_banks is None:
        return
    if groups not in ("auto", "random"):
        shown = groups if isinstance(groups, str) else type(groups).__name__
        raise NpasError(
            f"n_banks={n_banks} goes with groups='auto' or 'random'; groups={shown!r} decides "
            "the number of banks itself"
        )
    if isinstance(n_banks, bool) or not isinstance(n_banks, int):
        raise NpasError(f"n_banks={n_banks!r} must be a whole number")
    if not 1 <= n_banks <= len(request.weights):
        raise NpasError(
            f"n_banks={n_banks} must be between 1 and {len(request.weights)}, the number of "
            "layers that npas allocates"
        )


def _from_patterns(patterns: MappingType[str, str], request: MapRequest) -> Mapping:
    names = [w.name for w in request.weights]
    select(patterns, names, argument="groups")
    for pattern, bank in patterns.items():
        if not isinstance(bank, str) or not bank:
            raise NpasError(f"groups[{pattern!r}]={bank!r} must be the name of a bank")
    banks: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name in names:
        found = next((p for p in patterns if matches(p, name)), None)
        bank = identifier(patterns[found]) if found else f"own_{identifier(name)}"
        while not found and bank in banks:
            bank += "_"  # "a.b" and "a_b" are one identifier
        banks.setdefault(bank, []).append(name)
        reasons.setdefault(bank, "matched by a pattern" if found else "no pattern matches it")
    return Mapping({bank: tuple(layers) for bank, layers in banks.items()}, "patterns", reasons)


def _name_banks(groups: _Clusters, source: str) -> Mapping:
    named = {f"b{i}": group for i, group in enumerate(groups)}
    return Mapping(
        {bank: tuple(names) for bank, (names, _) in named.items()},
        source,
        {bank: reason for bank, (_, reason) in named.items()},
    )


def _split_by_dtype(mapping: Mapping, weights: Sequence[WeightOp]) -> Mapping:
    dtypes = {w.name: w.dtype for w in weights}
    order = {w.name: i for i, w in enumerate(weights)}
    banks: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for bank, members in mapping.banks.items():
        layers = sorted(members, key=order.__getitem__)
        found = list(dict.fromkeys(dtypes[layer] for layer in layers))
        for dtype in found:
            name = bank if len(found) == 1 else f"{bank}_{dtype}"
            while name != bank and name in mapping.banks:
                name += "_"
            banks[name] = tuple(layer for layer in layers if dtypes[layer] == dtype)
            reason = mapping.reasons.get(bank, mapping.source)
            reasons[name] = reason if len(found) == 1 else f"{reason}; split by dtype"
    return Mapping(banks, mapping.source, reasons)
