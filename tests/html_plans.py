"""Plans for the tests of the page, made by hand: any names, any size."""

from collections.abc import Sequence

from npas.passes.collect import Fixed
from npas.plan import BankPlan, LayerPlan, Plan

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    '"><svg/onload=alert(2)>',
    "' autofocus onfocus=alert(3) x='",
    "\x1b[31mred\x1b[0m\x07",
    "\u202egnp.exe\u2066",
    "zero\u200bwidth\u2028line\u2029end",
    "&lt;b&gt;&amp;",
    "javascript:alert(4)",
    "{policy}%s\\u003c",
    "x" * 5000,
)


def layer(
    name: str, bank: str, n: int, base: int, stride: int, k: int, **fields: object
) -> LayerPlan:
    """Return a linear layer of ``[1, n]``."""
    values: dict[str, object] = {
        "name": name,
        "aliases": (),
        "kind": "linear",
        "shape": (1, n),
        "dtype": "float32",
        "uses": 1,
        "macs": n,
        "padding_idx": None,
        "bank": bank,
        "downsample": "wavg",
        "upsample": "mask",
        "scale": False,
        "base": base,
        "stride": stride,
        "k": k,
    }
    return LayerPlan(**values | fields)  # type: ignore[arg-type]


def plan_of(
    layers: Sequence[LayerPlan],
    sizes: dict[str, int],
    fixed: Sequence[Fixed] = (),
    **fields: object,
) -> Plan:
    """Return the plan of these layers in banks of these sizes."""
    banks = tuple(
        BankPlan(name, size, "float32", tuple(x.name for x in layers if x.bank == name), "by hand")
        for name, size in sizes.items()
    )
    kept = sum(f.n_params for f in fixed if f.trainable)
    values: dict[str, object] = {
        "budget": "10%",
        "budget_params": 10**15,
        "groups": "by hand",
        "k": max(1, *(x.k for x in layers)),
        "seed": 0,
        "n_dense": kept + sum(x.n for x in layers),
        "banks": banks,
        "layers": tuple(layers),
        "fixed": tuple(fixed),
    }
    return Plan(**values | fields)  # type: ignore[arg-type]


def hostile_plan() -> Plan:
    """Return a plan in which every text that may be anyone's is hostile."""
    layers = [
        layer(text, "b0", 8, i, 0, 1, aliases=(f"a{text}",)) for i, text in enumerate(HOSTILE)
    ]
    fixed = [Fixed(f"fixed {text}", 3, True, text) for text in HOSTILE]
    kinds = [layer(f"k{i}", "b0", 8, i, 0, 1, kind=text) for i, text in enumerate(HOSTILE)]
    return plan_of(
        [*layers, *kinds],
        {"b0": len(HOSTILE) + 7},
        fixed,
        budget=HOSTILE[0],
        groups=HOSTILE[2],
    )


def large_plan(n: int, n_banks: int) -> Plan:
    """Return a plan of ``n`` layers in ``n_banks``, named as a decoder's are, each with a norm."""
    roles = ("q", "k", "v", "o", "up", "down", "gate", "router")
    layers = [
        layer(
            f"model.decoder.layers.{i // 8}.block.{roles[i % 8]}_projection.weight",
            f"b{i % n_banks}",
            4096,
            (i * 977) % (20 * 4096),
            4096,
            1 + i % 4,
        )
        for i in range(n)
    ]
    norm = "scale or shift of a normalisation"
    fixed = [Fixed(f"model.decoder.layers.{i}.norm.weight", 64, True, norm) for i in range(n)]
    return plan_of(layers, {f"b{i}": 24 * 4096 for i in range(n_banks)}, fixed)
