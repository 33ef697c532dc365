"""What a compiled model starts at, against the original: ``python -m benchmarks.starting``.

Every case compiles a network in place, without and with ``calibrate=batch``, and compares, in
training mode and on the batch that calibrated:

- weights: the standard deviation of every generated weight;
- activations: the standard deviation of each block's output;
- gradients: of the standard deviation of the gradient at each block's output, and of the root mean
  square of the gradient of every weight in its dense form, for a loss that is a fixed random
  direction of the output: the same gradient enters both networks.

Rows are kept in a file as they are made, and a run that was cut short goes on where it stopped.
"""

import argparse
import copy
import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import npas
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.runner import environment
from benchmarks.starting_measure import Network, Start, compared, generator, measured, normal
from benchmarks.starting_plain import coefficients, without_norms
from benchmarks.tables import Column, Row, Section, markdown, percent, show
from npas.originals import alone
from npas.plan import Plan

BUDGETS = ("1.4%", "10%", "50%", "100%", "400%")
GROUPS = ("auto", "single", "own")
AGAIN = "another seed"
KEPT = Path("build/starting.jsonl")
PAGE = Path("docs/starting.md")
TITLE = "What a compiled model starts at"
#: Largest factors between the compiled model and the original that are promised.
WEIGHTS, ACTIVATIONS, GRADIENTS = 1.05, 1.10, 2.0


def bert() -> nn.Module:
    """Return transformers' BertModel of BERT-base's size, initialised anew."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(), add_pooling_layer=False)


def _tokens(vocabulary: int, *shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(vocabulary, shape, generator=generator()),)


NETWORKS = {
    "pre-norm transformer, 50 blocks": Network(
        lambda: transformer(depth=50), _tokens(1000, 4, 64), r"blocks\.\d+"
    ),
    "WRN-28-10": Network(lambda: wrn(depth=28, width=10), normal(8, 3, 32, 32), r"group\d\.\d+"),
    # Its blocks end with a norm: their outputs have one scale whatever happens, so that what is
    # added before each norm is looked at too.
    "BERT-base": Network(
        bert,
        _tokens(30_000, 2, 64),
        r"encoder\.layer\.\d+",
        r"encoder\.layer\.\d+\.(attention\.)?output\.dense",
    ),
}

#: Seeds of the networks that are quick to run; the others have one.
SEEDS = {"pre-norm transformer, 50 blocks": 3}


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    network: str
    groups: str
    budget: str
    seed: int = 0


def cases() -> Iterator[Case]:
    """Return the cases, those of one network and seed together."""
    for name in NETWORKS:
        for seed in range(SEEDS.get(name, 1)):
            yield Case(name, AGAIN, "-", seed)
            for groups, budget in itertools.product(GROUPS, BUDGETS):
                yield Case(name, groups, budget, seed)


def run(wanted: Sequence[Case]) -> list[Row]:
    """Return a row a case; those of earlier runs are not made again."""
    kept = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    made = {_case(row): row for row in map(json.loads, kept)}
    for (name, seed), group in itertools.groupby(wanted, lambda case: (case.network, case.seed)):
        missing = [case for case in group if case not in made]
        if not missing:
            continue
        network = NETWORKS[name]
        torch.manual_seed(seed)
        model = network.make()
        names = [layer.name for layer in npas.plan(model, "100%").layers]
        original = measured(model, network, names)
        for case in missing:
            started = time.perf_counter()
            if case.groups == AGAIN:
                torch.manual_seed(100 + seed)
                found = compared("plain", measured(network.make(), network, names), original)
            else:
                found = _compiled(case, network, model, original, list(made.values()))
            made[case] = {**asdict(case), **found, "seconds": time.perf_counter() - started}
            KEPT.parent.mkdir(exist_ok=True)
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(made[case]) + "\n")
    return [made[case] for case in wanted]


def _case(row: Row) -> Case:
    return Case(row["network"], row["groups"], row["budget"], row["seed"])


def _compiled(
    case: Case, network: Network, model: nn.Module, original: Start, made: Sequence[Row]
) -> Row:
    """Compile a network without and with calibration, and return the worst of everything."""
    try:
        plan = npas.plan(model, case.budget, groups=case.groups)
    except npas.BudgetError as error:
        assert error.smallest is not None
        n_dense = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return {"refused": f"needs {error.smallest / n_dense:.2%}"}
    key = zlib.crc32(repr((plan.banks, plan.layers)).encode())
    for row in made:
        # With one bank, "auto" is "single".
        if (row["network"], row["seed"], row.get("plan")) == (case.network, case.seed, key):
            return {name: row[name] for name in row if name not in asdict(case)}
    found: dict[str, Any] = {"plan": key, "banks": len(plan.banks), "shared": shared(plan)}
    for variant, batch in (("plain", None), ("calibrated", network.inputs())):
        torch.manual_seed(1000 + case.seed)
        module = npas.compile_(copy.deepcopy(model), plan=plan, calibrate=batch, recompute=True)
        found |= compared(variant, measured(module, network, list(original.weights)), original)
        del module
    found["misses"] = ", ".join(misses(found))
    return found


def misses(row: Row) -> list[str]:
    """Return what a row does not keep of what is promised."""
    promises = {"plain_weights": WEIGHTS}
    promises |= {"calibrated_activations": ACTIVATIONS, "calibrated_gradients": GRADIENTS}
    if not row["shared"]:
        promises |= {"plain_activations": ACTIVATIONS, "plain_gradients": GRADIENTS}
    return [what.replace("_", " ") for what, most in promises.items() if row[what] > most]


def shared(plan: Plan) -> float:
    """Return the share of the allocated elements in layers that share elements of a bank."""
    total = sum(layer.n for layer in plan.layers)
    apart = {n for bank in plan.banks for n in alone(plan.layers_of(bank.name))}
    return sum(layer.n for layer in plan.layers if layer.name not in apart) / total


_FACTOR = "{:.3f}".format
_STARTS = (
    Column("network", "network"),
    Column("seed", "seed"),
    Column("groups", "groups"),
    Column("budget", "budget"),
    Column("banks", "banks"),
    Column("shared", "shared", percent),
    Column("weights", "plain_weights", _FACTOR),
    Column("activations", "plain_activations", _FACTOR),
    Column("activations, calibrated", "calibrated_activations", _FACTOR),
    Column("inside", "plain_inside", _FACTOR),
    Column("inside, calibrated", "calibrated_inside", _FACTOR),
    Column("gradients", "plain_gradients", _FACTOR),
    Column("gradients, calibrated", "calibrated_gradients", _FACTOR),
    Column("weights' gradients", "plain_weight_gradients", _FACTOR),
    Column("weights' gradients, calibrated", "calibrated_weight_gradients", _FACTOR),
    Column("gains moved", "calibrated_weights", _FACTOR),
    Column("misses", "misses"),
)
_NORMLESS = (
    Column("network", "network"),
    Column("budget", "budget"),
    Column("activations, another seed", "again_activations", _FACTOR),
    Column("activations", "plain_activations", _FACTOR),
    Column("activations, calibrated", "calibrated_activations", _FACTOR),
    Column("gradients, another seed", "again_gradients", _FACTOR),
    Column("gradients", "plain_gradients", _FACTOR),
    Column("gradients, calibrated", "calibrated_gradients", _FACTOR),
)
_COEFFICIENTS = (
    Column("K", "k"),
    Column("layers", "layers"),
    Column("Welch bound", "bound", _FACTOR),
    Column("npas", "ours", _FACTOR),
    Column("random bases", "bases", _FACTOR),
    Column("random", "drawn", _FACTOR),
    Column("templates' shares off by", "uneven", "{:.2%}".format),
)


def tables(starts: Sequence[Row], normless: Sequence[Row], spread: Sequence[Row]) -> list[Section]:
    """Return the tables of rows."""
    compiled = [row for row in starts if "plan" in row]
    missed = sum(bool(row["misses"]) for row in compiled)
    note = (
        "The largest factor, up or down, between the compiled model and the original: of the "
        "standard deviation of any weight, of any block's output (inside: of what a block adds "
        "before it norms the sum) and of the gradient there, and of the root mean square of any "
        "weight's gradient (of the dense weight that was generated). The loss is a fixed random "
        "direction of the output. Shared: of the allocated elements, those "
        "of layers that share elements of a bank with others. Gains moved: how far calibration "
        "takes any weight from its own standard deviation. Another seed: the original, drawn "
        f"anew, against itself. Promised: weights {WEIGHTS}; activations {ACTIVATIONS} and "
        f"gradients at blocks {GRADIENTS:g} where nothing is shared, and everywhere after "
        "calibrate=batch. Weights' gradients go with the gain of what follows them in a branch, "
        "and branches that are one function in all blocks are scaled to keep the stream's scale. "
        f"{len(compiled) - missed} of {len(compiled)} rows keep that. A row without numbers names "
        "the smallest budget."
    )
    shown = [{**row, "misses": row.get("refused") or row.get("misses") or "none"} for row in starts]
    return [
        Section(
            "The worst",
            "Of all rows below, by whether anything is shared; the other seed's are what chance "
            "does.",
            (Column("network", "network"), Column("rows", "rows"), *_STARTS[6:-1]),
            _worst(starts),
        ),
        Section("Starting scale", note, _STARTS, shown),
        Section(
            "Without norms",
            "One bank; the largest factors of three seeds, at the outputs of the layers or, with "
            "skips, of the blocks. He's initialisation; a branch that starts at zero stays so. "
            "Without a norm the scales of signal and gradient are products of the same gains: "
            "where calibration matches the one, chance has the other.",
            _NORMLESS,
            normless,
        ),
        Section(
            "Coefficients",
            "The largest |<alpha_i, alpha_j>| among layers that read the same K templates: 0 is "
            "orthogonal, the Welch bound is what nothing can be below. Random bases: K layers to "
            "an orthonormal basis. At last, how unevenly templates share in all layers together.",
            _COEFFICIENTS,
            spread,
        ),
    ]


def _worst(starts: Sequence[Row]) -> list[Row]:
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in starts:
        if "refused" not in row:
            shares = "something is shared" if row.get("shared") else "nothing is shared"
            kind = row["groups"] if row["groups"] == AGAIN else shares
            kinds.setdefault((row["network"], kind), []).append(row)
    columns = [column.key for column in _STARTS[6:-1]]
    return [
        {"network": network, "rows": kind}
        | {key: max(row[key] for row in rows) for key in columns if key in rows[0]}
        for (network, kind), rows in kinds.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run all cases, or those of networks that a text is found in."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="networks that it is found in")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.fresh:
        KEPT.unlink(missing_ok=True)
    starts = run([case for case in cases() if arguments.only in case.network])
    found = tables(starts, list(without_norms(BUDGETS, ACTIVATIONS)), list(coefficients()))
    if arguments.write:
        where = ", ".join(f"{k} {v}" for k, v in environment(torch.device("cpu")).items())
        command = "python -m benchmarks.starting --write"
        PAGE.write_text(markdown(TITLE, command, where, found), encoding="utf-8")
    else:
        show(Console(), found)
    missed = [_case(row) for row in starts if row.get("misses")]
    if missed:
        raise SystemExit(f"{missed} do not keep what is promised")


if __name__ == "__main__":
    main()
