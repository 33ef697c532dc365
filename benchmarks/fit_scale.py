"""How long a fit takes, and how much memory beyond the model's and the banks'."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import npas
from benchmarks.fit_log import Log
from benchmarks.networks.wrn import wrn
from npas.bank import banks_of
from npas.fitting.weights import fit_weights


def _blocks(count: int, width: int) -> nn.Module:
    """Return layers as of ``count`` transformer blocks, without what is between them."""
    block = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    return nn.Sequential(*(nn.Linear(i, o, bias=False) for _ in range(count) for i, o in block))


# Name -> network, and the mapping it is fitted with: by blocks, or as given.
CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "WRN-28-10, auto": (lambda: wrn(28, 10), "auto"),
    "WRN-28-10, single": (lambda: wrn(28, 10), "single"),
    "8 blocks of 1,024, a bank a block": (lambda: _blocks(8, 1024), "blocks"),
    "16 blocks of 1,024, a bank a block": (lambda: _blocks(16, 1024), "blocks"),
}


def scale(log: Log) -> None:
    """Fit each network at 50%, in a process of its own."""
    for name in CASES:
        if log.find({"case": name}) is None:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                log.add({"case": name}, pool.apply(_measure, (name,)))


def _measure(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, groups = CASES[name]
    model = make()
    mapping: Any = groups
    if groups == "blocks":
        mapping = {f"{i}.weight": f"block_{i // 6}" for i in range(len(list(model.children())))}
    # What is loaded once, and code that is warmed up, is not the fit's.
    npas.fit(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), "70%")
    ssn = npas.compile(model, "50%", groups=mapping)
    weights, banks = dict(model.named_parameters()), banks_of(ssn)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    _, fit = fit_weights(ssn._npas.plan, banks, weights)
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "banks": len(banks),
        "largest bank": 4 * max(bank.theta.numel() for bank in banks.values()),
        "extra bytes": peak,
        "seconds": seconds,
        "rounds": max(fit.rounds.values()),
        "relative error": fit.total.relative,
    }
