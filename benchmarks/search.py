"""How much searches of several seeds agree: ``python -m benchmarks.search --data CIFAR10``.

What a search finds is worth something only if it is not the start of its coefficients. Searches of
several seeds (network, batches and coefficients differ) are clustered on the way, and their
clusterings compared by the adjusted Rand index: 0 is chance, 1 is the same mapping. Finished
searches are kept in build/search.jsonl; ``--write`` writes the table into docs/search.md.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.metrics import adjusted_rand_score

import npas
from benchmarks.data import DATA_HELP
from benchmarks.learning.experiments import WRN28
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.spec import Recipe
from benchmarks.learning.task import Batch, Task, batches, task_of
from benchmarks.learning.train import OPTIMIZERS
from benchmarks.tables import Column, Section, show
from npas.passes.mapping import kmeans
from npas.searching.bank import STARTS
from npas.searching.cluster import representations, search_bank

RECIPE = replace(WRN28, size=16, epochs=6)
KEPT = Path("build/search.jsonl")
PAGE = Path("docs/search.md")
RATES = {"sgd": 0.3, "adamw": 1e-2}
# Of the training's steps; the paper spends 10 to 15%.
SHARES = (0.05, 0.1, 0.25, 0.5)
GROUPS = (4, 14)
SEEDS = 4


def run(recipe: Recipe, task: Task, start: str, optimizer: str, seed: int) -> dict[str, Any]:
    """Search once; return the clusters at each share of the training's steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = NETWORKS[recipe.network]()
    marks = {max(1, round(share * recipe.steps)): share for share in SHARES}
    found: dict[str, Any] = {}

    def cluster(step: Any) -> None:
        bank = search_bank(step.module)
        if step.step in marks and bank is not None:
            points = torch.tensor(list(representations(bank).values())).numpy()
            labels = {str(p): kmeans(points, p, seed, 10).tolist() for p in GROUPS}
            found[str(marks[step.step])] = labels

    began = time.process_time()
    npas.search(
        model,
        chain.from_iterable(epochs(task, recipe, seed)),
        lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]),
        groups=GROUPS[0],
        steps=max(marks),
        optimizer=lambda groups: OPTIMIZERS[optimizer](groups, RATES[optimizer]),
        seed=seed,
        start=start,
        callbacks=[cluster],
    )
    took = round(time.process_time() - began, 1)
    return {"start": start, "optimizer": optimizer, "seed": seed, "found": found, "cpu_s": took}


def epochs(task: Task, recipe: Recipe, seed: int) -> Iterator[Iterator[Batch]]:
    """Yield the batches of one epoch after the other."""
    epoch = 0
    while True:
        yield batches(task, recipe, seed, epoch)
        epoch += 1


def table(rows: Sequence[dict[str, Any]]) -> Section:
    """Return the mean agreement of all pairs of seeds."""
    lines: list[dict[str, Any]] = []
    for start, optimizer in product(STARTS, RATES):
        mine = [r["found"] for r in rows if (r["start"], r["optimizer"]) == (start, optimizer)]
        line: dict[str, Any] = {
            "start": start,
            "optimizer": f"{optimizer} {RATES[optimizer]}",
            "seeds": len(mine),
        }
        for share, n_groups in product(SHARES, GROUPS):
            labels = [found[str(share)][str(n_groups)] for found in mine]
            pairs = [adjusted_rand_score(a, b) for a, b in combinations(labels, 2)]
            line[f"{share} {n_groups}"] = mean(pairs) if pairs else None
        lines.append(line)
    columns = [Column("start", "start"), Column("optimizer", "optimizer"), Column("seeds", "seeds")]
    columns += [
        Column(f"{share:.0%}, P={n}", f"{share} {n}", "{:.2f}".format)
        for n, share in product(GROUPS, SHARES)
    ]
    note = "Adjusted Rand index between seeds, by share of the training's steps and groups P."
    return Section("Agreement of searches", note, columns, lines)


def markdown(section: Section) -> str:
    """Return the table as Markdown."""
    rows = [[column.head for column in section.columns], ["---"] * len(section.columns)]
    rows += [[column.text(row) for column in section.columns] for row in section.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help=DATA_HELP)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    options = parser.parse_args()
    KEPT.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    done = {(row["start"], row["optimizer"], row["seed"]) for row in rows}
    missing = [case for case in product(STARTS, RATES, range(SEEDS)) if case not in done]
    for case in sorted(missing, key=lambda case: case[2]):
        row = run(RECIPE, task_of(RECIPE, options.data), *case)
        rows.append(row)
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(*case, row["cpu_s"], "s", flush=True)
    section = table(rows)
    show(Console(width=150), [section])
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- agreement -->\n")
        _, _, after = rest.partition("<!-- /agreement -->\n")
        text = f"<!-- agreement -->\n\n{markdown(section)}\n\n<!-- /agreement -->\n"
        PAGE.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()
