"""Starts that keep what a network has learned: truncated SVD and `npas.fit`, at a budget.

The head is new, so there is nothing to keep of it: it stays as it is, and its parameters count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import npas
from benchmarks.fit_svd import best, decompose
from npas.fitting.moments import second_moments

#: What the classifying layer of a network is called.
HEAD = "head"
#: Batches of training inputs that errors are weighted by; SVD compares outputs on the first.
N_BATCHES = 8


def svd(model: nn.Module, n_params: int, inputs: list[Tensor]) -> nn.Module:
    """Return a network of truncated matrices, whose errors count by what the inputs carry.

    The ranks are chosen in three ways (`benchmarks.fit_svd`); the one stays whose features, which
    are the head's input, are the nearest to the model's.

    Args:
        model: with a layer called ``"head"``; its weights are not changed, its mode is evaluation.
        n_params: parameters at most.
        inputs: batches of training inputs.
    """
    model.eval()
    moments = second_moments(model, inputs)
    matrices = [m for m in decompose(model, moments) if not m.name.startswith(f"{HEAD}.")]
    expected = features(model, inputs[0])

    def distance(module: nn.Module) -> float:
        return float((features(module, inputs[0]) - expected).square().mean())

    made, _ = best(model, matrices, n_params, distance)
    return made


def fit(
    model: nn.Module, budget: str, inputs: list[Tensor], *, seed: int, **arguments: Any
) -> tuple[nn.Module, int]:
    """Return a network whose banks are fitted to the model's weights, and how many they are.

    Args:
        model: with a layer called ``"head"``, which is in no bank; it is not changed.
        budget: as for `npas.plan`.
        inputs: batches of training inputs, by which errors count.
        seed: of the plan.
        **arguments: others of `npas.plan`.
    """
    plan = npas.plan(model, budget, ignored_modules=(HEAD,), seed=seed, **arguments)
    return npas.fit(model, plan=plan, batches=inputs), len(plan.banks)


@torch.no_grad()
def features(module: nn.Module, x: Tensor) -> Tensor:
    """Return what the head of a module is given for a batch."""
    with _seen(module.get_submodule(HEAD)) as found:
        module(x)
    return found[0]


@contextmanager
def _seen(module: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        handle.remove()
