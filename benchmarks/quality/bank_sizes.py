"""Other bank sizes than npas's own, which are in proportion to what a bank's layers hold."""

from collections.abc import Mapping
from dataclasses import replace

from npas.passes.allocate import allocate_around
from npas.passes.demand import Demand
from npas.plan import LayerPlan, Plan


def weighted(plan: Plan, weights: Mapping[str, float]) -> Plan:
    """Give banks sizes in proportion to a weight times the elements of their layers.

    Args:
        plan: npas's own, with two banks or more. It must use its budget.
        weights: bank -> weight. No bank becomes larger than its layers together.

    Returns:
        A plan of at most as many parameters; the bank of most elements gets what is left over.
    """
    assert len(plan.banks) > 1, "one bank cannot be sized"
    elements = {
        bank.name: sum(layer.n for layer in plan.layers if layer.bank == bank.name)
        for bank in plan.banks
    }
    spent = sum(bank.size for bank in plan.banks)
    sizes = _filled({name: weights[name] * n for name, n in elements.items()}, elements, spent)
    index = {bank.name: i for i, bank in enumerate(plan.banks)}
    last = max(elements, key=lambda name: (elements[name], name))
    given = {index[name]: max(1, int(size)) for name, size in sizes.items() if name != last}
    demands = [_demand(layer, index, plan.k) for layer in plan.layers]
    fixed = sum(kept.n_params for kept in plan.fixed if kept.trainable)
    allocation = allocate_around(demands, plan.budget_params - fixed, given)
    blocks = {name: iter(allocation[i].blocks) for name, i in index.items()}
    laid = ((layer, next(blocks[layer.bank])) for layer in plan.layers)
    return replace(
        plan,
        banks=tuple(
            replace(bank, size=got.size) for bank, got in zip(plan.banks, allocation, strict=True)
        ),
        layers=tuple(
            replace(layer, base=block.base, stride=block.stride, k=block.k) for layer, block in laid
        ),
    )


def tilted(plan: Plan, ratio: float) -> Plan:
    """Let the deepest bank's share of its layers be ``ratio`` times that of the first one.

    Shares rise or fall in equal steps of their logarithm, in the order of the banks' mean depth.
    """
    depth = {layer.name: i for i, layer in enumerate(plan.layers)}
    order = sorted(
        plan.banks, key=lambda bank: sum(depth[name] for name in bank.layers) / len(bank.layers)
    )
    most = max(1, len(order) - 1)
    return weighted(plan, {bank.name: ratio ** (i / most) for i, bank in enumerate(order)})


def by_value(plan: Plan, squares: Mapping[str, float]) -> Plan:
    """Give banks sizes by what one more parameter is worth in them.

    What sharing costs n elements in a bank of b is taken to be n g (n / b), for a mean squared
    gradient g: it grows with how many elements move together, and with how much each would move.
    The sum over banks is least, at a fixed sum of b, where b is in proportion to n sqrt(g).

    Args:
        plan: npas's own.
        squares: layer -> sum of the squared gradients of its elements.
    """
    weights = {}
    for bank in plan.banks:
        inside = [layer for layer in plan.layers if layer.bank == bank.name]
        mean = sum(squares[layer.name] for layer in inside) / sum(layer.n for layer in inside)
        weights[bank.name] = mean**0.5
    return weighted(plan, weights)


def _filled(
    wanted: Mapping[str, float], most: Mapping[str, float], total: float
) -> dict[str, float]:
    """Return sizes in proportion to what is wanted that sum to a total, none above its most."""
    full: dict[str, float] = {}
    while True:
        rest = {name: value for name, value in wanted.items() if name not in full}
        scale = (total - sum(full.values())) / sum(rest.values()) if rest else 0.0
        over = {name: most[name] for name in rest if scale * wanted[name] > most[name]}
        if not over:
            return full | {name: scale * value for name, value in rest.items()}
        full |= over


def _demand(layer: LayerPlan, index: Mapping[str, int], k: int) -> Demand:
    return Demand(layer.n, index[layer.bank], layer.downsample, layer.upsample, k, layer.scale)
