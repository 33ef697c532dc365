"""What must hold on all ranks before they train one model."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from npas.compiled import state_of
from npas.errors import NpasError


def check_ranks(
    module: nn.Module, optimizer: Optimizer | None = None, *, group: Any = None
) -> None:
    """Check that all ranks are about to train the same model, before they do.

    Ranks with other plans would wait for each other for ever, or add up gradients of elements that
    make different weights; an optimizer that was made before ``fully_shard`` updates parameters
    that the module has no longer, without a word. A collective: every rank calls it, once, after
    wrapping or sharding and before the first step::

        npas.check_ranks(ssn, optimizer)

    Args:
        module: compiled, or one that has compiled modules in it, wrapped or not.
        optimizer: that trains all of it, or None.
        group: process group whose ranks train it; None for all. Without torch.distributed only the
            optimizer is checked.

    Raises:
        NpasError: on every rank, with the ranks that differ, or whose optimizer does not train the
            module.
    """
    plans = [state.plan for part in module.modules() if (state := state_of(part)) is not None]
    if not plans:
        raise NpasError(
            f"check_ranks takes a compiled module; nothing in {type(module).__name__} is compiled"
        )
    own = {
        "plan": "\n".join(plan.to_json() for plan in plans),
        "parameters": "\n".join(
            f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}"
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        ),
    }
    told = {what: hashlib.sha256(text.encode()).hexdigest()[:12] for what, text in own.items()}
    told["sizes"] = ", ".join(
        f"{plan.n_params:,} parameters in {len(plan.banks)} banks" for plan in plans
    )
    told["optimizer"] = "" if optimizer is None else _untrained(module, optimizer)
    found: list[dict[str, str]] = [told]
    if dist.is_available() and dist.is_initialized():
        found = [{} for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(found, told, group)
    _compare(found)


def _untrained(module: nn.Module, optimizer: Optimizer) -> str:
    known = {id(p) for held in optimizer.param_groups for p in held["params"]}
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    missing = [name for name, parameter in trained if id(parameter) not in known]
    if not missing:
        return ""
    return f"{len(missing)} of the module's {len(trained)} trainable parameters ({missing[0]})"


def _compare(found: Sequence[dict[str, str]]) -> None:
    first = found[0]
    for what in ("plan", "parameters"):
        others = [rank for rank, told in enumerate(found) if told[what] != first[what]]
        if others:
            other = found[others[0]]
            raise NpasError(
                f"{_ranks(others)} {'has' if len(others) == 1 else 'have'} other {_MEANS[what]} "
                f"than rank 0: {other[what]} ({other['sizes']}) against {first[what]} "
                f"({first['sizes']}). Compile the same model with the same arguments and version "
                "on every rank, or write one plan.json and compile with plan= on all of them"
            )
    lacking = [rank for rank, told in enumerate(found) if told["optimizer"]]
    if lacking:
        raise NpasError(
            f"the optimizer on {_ranks(lacking)} does not train "
            f"{found[lacking[0]]['optimizer']}: make it after npas.compile and fully_shard, which "
            "replace parameters, and before a forward pass without grad"
        )


_MEANS = {"plan": "plans", "parameters": "parameters or buffers"}


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
