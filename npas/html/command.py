"""The command that makes a plan again, as far as its file knows."""

import shlex

from npas.passes.mapping import STRATEGIES
from npas.plan import Plan
from npas.planning import K_DEFAULT

#: What the file does not know: the reader fills it in.
MODEL, INPUT, MAPPING = "MODEL", "DTYPE:SIZES", "MAPPING.json"


def plan_command(plan: Plan, name: str = "") -> str:
    """Return ``npas plan`` with the choices that a plan keeps; what is its default is left out.

    A number of banks that was asked of ``auto`` is not in a plan, and neither are patterns.

    Args:
        plan: of any size.
        name: of its file, without a folder.
    """
    words = ["npas", "plan", MODEL, "--budget", plan.budget]
    if plan.groups not in STRATEGIES:
        words += ["--groups", MAPPING]
    elif plan.groups != "auto":
        words += ["--groups", plan.groups]
    if plan.groups == "random":
        words += ["--n-banks", str(len(plan.banks))]
    if plan.k != K_DEFAULT:
        words += ["--k", str(plan.k)]
    for option, default, values in (
        ("--downsample", "wavg", {layer.downsample for layer in plan.layers}),
        ("--upsample", "mask", {layer.upsample for layer in plan.layers}),
    ):
        if len(values) == 1 and values != {default}:
            words += [option, *values]
    if plan.seed:
        words += ["--seed", str(plan.seed)]
    if plan.n_macs is not None:
        words += ["--input", INPUT]
    return shlex.join([*words, "--out", f"{name or 'plan'}.json"])
