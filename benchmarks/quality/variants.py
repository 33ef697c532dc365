"""Other layouts than npas's own, for a plan that is there: what a layout is worth.

None has more trainable parameters than the plan that it changes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from npas.passes import mapping
from npas.plan import LayerPlan, Plan


def disjoint(plan: Plan) -> Plan:
    """Lay templates out as the paper describes it (3.1.1).

    Templates of a layer stand side by side from the bank's start on, layers take them in turn
    (round robin), and what does not fill a template is left out: it is trained by no layer of
    that size.
    """
    cursors = dict.fromkeys((bank.name for bank in plan.banks), 0)

    def lay(layer: LayerPlan, size: int) -> LayerPlan:
        there = size // layer.n
        if there == 0:
            return layer
        k = min(layer.k if layer.downsample == "rr" else plan.k, there)
        first = cursors[layer.bank] % there
        cursors[layer.bank] += k
        # Templates that would go round lie at the end instead: a block is one strided view.
        base = min(first, there - k) * layer.n
        return replace(layer, base=base, stride=layer.n if k > 1 else 0, k=k)

    return _laid(plan, lay)


def overlapping(plan: Plan) -> Plan:
    """Give every layer that is smaller than its bank all K templates, which overlap where need be.

    So no layer is tied to another, and each has K coefficients; the banks shrink by what those
    cost.
    """
    cursors = dict.fromkeys((bank.name for bank in plan.banks), 0)
    more = dict.fromkeys(cursors, 0)
    for layer in plan.layers:
        if 0 < layer.k < plan.k and layer.downsample == "wavg":
            more[layer.bank] += plan.k - (layer.k if layer.has_coefficients else 0)
    banks = tuple(replace(bank, size=bank.size - more[bank.name]) for bank in plan.banks)

    def lay(layer: LayerPlan, size: int) -> LayerPlan:
        stride = min(layer.n, (size - layer.n) // (plan.k - 1))
        if layer.k == 0 or stride < 1:
            return layer
        length = (plan.k - 1) * stride + layer.n
        base = cursors[layer.bank]
        if base + length > size:
            base = size - length
            cursors[layer.bank] = 0
        else:
            cursors[layer.bank] += length
        return replace(layer, base=base, stride=stride, k=plan.k)

    return _laid(replace(plan, banks=banks), lay)


def twins(plan: Plan) -> int:
    """Return how many layers have the weight of another one, up to a sign and a scale.

    They are of one size, and read one window of one bank without a coefficient.
    """
    windows = [(x.bank, x.base, x.n) for x in plan.layers if x.k == 1]
    return sum(n for n in Counter(windows).values() if n > 1)


@contextmanager
def room(templates: int | None) -> Iterator[None]:
    """Let ``groups="auto"`` leave room for so many templates of a bank's largest layer."""
    before = mapping.ROOM
    mapping.ROOM = before if templates is None else templates
    try:
        yield
    finally:
        mapping.ROOM = before


VARIANTS: dict[str, Callable[[Plan], Plan]] = {"disjoint": disjoint, "overlapping": overlapping}


def _laid(plan: Plan, lay: Callable[[LayerPlan, int], LayerPlan]) -> Plan:
    sizes = {bank.name: bank.size for bank in plan.banks}
    # The largest first, which the others then go round.
    order = sorted(plan.layers, key=lambda layer: -layer.n)
    laid = {layer.name: lay(layer, sizes[layer.bank]) for layer in order}
    return replace(plan, layers=tuple(laid[layer.name] for layer in plan.layers))
