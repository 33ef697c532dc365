"""Random cases for the allocator, checked by counting: python -m tests.passes.fuzz_allocate.

Prints how many plans go over budget, leave a dead element, miss the identity or the true smallest
size, or use less than 99.9% of a budget of at least 100,000 that the layers can use.
"""

import argparse
import collections
from collections.abc import Sequence

import numpy as np

from npas.errors import BudgetError
from npas.passes.allocate import BankAllocation, allocate, choose_k, largest, smallest
from npas.passes.demand import EMBEDDING, Demand, covered

_DOWNSAMPLE = ("wavg", "wavg", "emb", "avg", "rr")
_UPSAMPLE = ("mask", "mask", "inter", "repeat")


def random_demands(rng: np.random.Generator, most_layers: int = 200) -> list[Demand]:
    """Return layers of 9 to 5M elements in up to 20 banks, or one each, in all modes."""
    count = int(np.exp(rng.uniform(0, np.log(most_layers + 1))))
    top = float(rng.choice([100, 5_000, 5_000_000, 5_000_000]))
    sizes = np.exp(rng.uniform(np.log(9), np.log(top), count)).astype(int)
    if rng.random() < 0.5:  # as in networks: few different sizes, and round ones
        sizes = rng.choice(sizes[: max(1, count // 8)], count)
        sizes = np.maximum(9, sizes // 16 * 16) if rng.random() < 0.5 else sizes
    n_banks = count if rng.random() < 0.3 else int(rng.integers(1, min(20, count) + 1))
    banks = np.concatenate([np.arange(n_banks), rng.integers(0, n_banks, count - n_banks)])
    rng.shuffle(banks)
    mixed = rng.random() < 0.25
    down = rng.choice(_DOWNSAMPLE, count if mixed else 1)
    up = rng.choice(_UPSAMPLE, count if mixed else 1)
    scaled = rng.random(count) < rng.choice([0, 0.2, 1])
    return [
        Demand(
            n=int(sizes[i]),
            bank=int(banks[i]),
            downsample=str(down[i % len(down)]),
            upsample=str(up[i % len(up)]),
            k=4,
            scale=bool(scaled[i]),
        )
        for i in range(count)
    ]


def problems(demands: Sequence[Demand], bank: BankAllocation) -> list[str]:
    """Count the use of every parameter of a bank, and return what is wrong."""
    found: list[str] = []
    edges = np.zeros(0, np.int64)
    signs = np.zeros(0, np.int64)
    masks: list[tuple[int, int]] = []
    paid = collections.Counter[str]()
    for demand, block in zip(demands, bank.blocks, strict=True):
        if block.k == 0:
            if demand.n <= bank.size or (block.base, block.stride) != (0, 0):
                found.append("upsampled though it fits")
            starts, length = np.zeros(1, np.int64), bank.size
            if demand.upsample == "mask":
                masks += mask_use(demand.n, bank.size)
        else:
            starts, length = block.base + block.stride * np.arange(block.k), demand.n
            if (block.k == 1) != (block.stride == 0) or block.k > demand.k:
                found.append("stride or k")
            if demand.downsample == "rr" and block.k > 1:
                found.append("round robin with several windows")
        if starts.min() < 0 or starts.max() + length > bank.size:
            found.append("out of bounds")
        edges = np.concatenate([edges, starts, starts + length])
        signs = np.concatenate([signs, np.ones_like(starts), -np.ones_like(starts)])
        if block.k >= 2 and demand.downsample == "wavg":
            paid["coefficients"] += block.k
        elif block.k >= 2 and demand.downsample == "emb":
            paid["embeddings"] += EMBEDDING
            paid["projection"] = max(paid["projection"], (EMBEDDING + 1) * block.k)
        elif demand.scale and (len(demands) > 1 or demand.n != bank.size):
            paid["scales"] += 1
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(signs[order])
    dead = np.diff(edges, append=edges[-1]) * (depth <= 0)
    if edges[0] > 0 or edges[-1] < bank.size or dead.sum():
        found.append("dead element")
    if not covered(bank.blocks, [d.n for d in demands], bank.size):
        found.append("covered() disagrees")
    used = max((end for _, end in masks), default=0)
    reached = 0
    for start, end in sorted(masks):
        if start > reached:
            found.append("dead mask")
        reached = max(reached, end)
    cost = bank.cost
    if (cost.elements, cost.masks) != (bank.size, used):
        found.append("elements or masks")
    if any(getattr(cost, name) != paid[name] for name in ("coefficients", "embeddings", "scales")):
        found.append("coefficients")
    if cost.projection != paid["projection"]:
        found.append("projection")
    return found


def mask_use(n: int, n_bank: int) -> list[tuple[int, int]]:
    """Return the mask elements that each tile after the first reads, as ranges."""
    window = min(9, n_bank)
    starts = range(n_bank, n, n_bank)
    return [(window * i, window * i + min(window, n - start)) for i, start in enumerate(starts)]


def bank_problems(
    demands: Sequence[Demand], allocation: Sequence[BankAllocation], available: int
) -> list[str]:
    """Return what is wrong with an allocation."""
    found: list[str] = []
    for i, bank in enumerate(allocation):
        found += problems([d for d in demands if d.bank == i], bank)
    if sum(bank.cost.total for bank in allocation) > available:
        found.append("over budget")
    return found


def run(cases: int, seed: int) -> dict[str, int]:
    """Try random cases and count failures by kind."""
    rng = np.random.default_rng(seed)
    counts = collections.Counter[str]()
    for case in range(cases):
        demands = random_demands(rng)
        weights = sum(d.n for d in demands)
        available = int(weights * np.exp(rng.uniform(np.log(0.01), np.log(4))))
        least = smallest(demands)
        if rng.random() < 0.1:
            available = least + int(rng.integers(0, 200))
        own = len({d.bank for d in demands}) == len(demands)
        if own and rng.random() < 0.2:
            available = weights
        if available < least:
            counts["infeasible"] += 1
            available = least
        k = choose_k(demands, available)
        demands = [Demand(d.n, d.bank, d.downsample, d.upsample, k, d.scale) for d in demands]
        allocation = allocate(demands, available)
        found = bank_problems(demands, allocation, available)
        spent = sum(bank.cost.total for bank in allocation)
        usable = min(available, largest(demands))
        if own and available == weights:
            counts["identity cases"] += 1
            if any(allocation[d.bank].size != d.n for d in demands):
                found.append("not the identity")
        if available >= 100_000:
            counts["large"] += 1
            if spent < 0.999 * usable:
                found.append("under 99.9%")
        elif spent < 0.99 * usable:
            found.append("small and under 99%")
        for kind in set(found):
            counts[kind] += 1
            print(case, kind, len(demands), f"available {available:,} spent {spent:,} k {k}")
        if case % 8 == 0:
            allocate(demands, least)
            try:
                allocate(demands, least - 1)
                counts["below the smallest"] += 1
            except BudgetError as error:
                assert error.smallest == least
    return dict(counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(run(arguments.cases, arguments.seed))
