"""What must hold on all ranks before they train one model."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from npas.bank import Bank
from npas.compiled import state_of
from npas.errors import NpasError
from npas.ties import untied


def check_ranks(module: nn.Module, *optimizers: Optimizer, group: Any = None) -> None:
    """Check that all ranks are about to train the same model, before they do.

    Ranks with other plans would wait for each other for ever, or add up gradients of elements that
    make different weights, and so would ranks that were compiled with other seeds: gains are fixed
    numbers that nothing brings into line. An optimizer that was made before ``fully_shard`` updates
    parameters that the module has no longer, without a word. A collective: every rank calls it,
    once, after wrapping or sharding and before the first step::

        npas.check_ranks(ssn, optimizer)

    Args:
        module: compiled, or one that has compiled modules in it, wrapped or not.
        *optimizers: that train all of it together, if any are given.
        group: process group whose ranks train it; None for all. Without torch.distributed only the
            optimizer is checked.

    Raises:
        NpasError: on every rank, with the ranks that differ, or whose optimizers do not train the
            module; or where weights that were tied are no longer.
    """
    parts = [(part, state) for part in module.modules() if (state := state_of(part)) is not None]
    plans = [state.plan for _, state in parts]
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
        "gains": "\n".join(
            str(bank.gain.tolist()) for bank in module.modules() if isinstance(bank, Bank)
        ),
    }
    told = {what: hashlib.sha256(text.encode()).hexdigest()[:12] for what, text in own.items()}
    told["sizes"] = ", ".join(
        f"{plan.n_params:,} parameters in {len(plan.banks)} banks" for plan in plans
    )
    told["tied"] = next((text for part, s in parts if (text := untied(part, s.ties))), "")
    told["optimizer"] = _untrained(module, optimizers) if optimizers else ""
    found: list[dict[str, str]] = [told]
    ranks = [0]
    if dist.is_available() and dist.is_initialized():
        found = [{} for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(found, told, group)
        ranks = dist.get_process_group_ranks(group)
    _compare(dict(zip(ranks, found, strict=True)))


def _untrained(module: nn.Module, optimizers: Sequence[Optimizer]) -> str:
    groups = (held for optimizer in optimizers for held in optimizer.param_groups)
    known = {id(p) for held in groups for p in held["params"]}
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    missing = [name for name, parameter in trained if id(parameter) not in known]
    if not missing:
        return ""
    return f"{len(missing)} of the module's {len(trained)} trainable parameters ({missing[0]})"


def _compare(found: Mapping[int, dict[str, str]]) -> None:
    first, *_ = found
    for told in found.values():
        if told["tied"]:
            raise NpasError(told["tied"])
    for what, means in _MEANS.items():
        others = [rank for rank, told in found.items() if told[what] != found[first][what]]
        if others:
            other = found[others[0]]
            raise NpasError(
                f"{_ranks(others)} {'has' if len(others) == 1 else 'have'} other {means} than rank "
                f"{first}: {other[what]} ({other['sizes']}) against {found[first][what]} "
                f"({found[first]['sizes']}). {_WAYS_OUT.get(what, _COMPILE)}"
            )
    lacking = [rank for rank, told in found.items() if told["optimizer"]]
    if lacking:
        raise NpasError(
            f"the optimizer on {_ranks(lacking)} does not train "
            f"{found[lacking[0]]['optimizer']}: make it after npas.compile and fully_shard, which "
            "replace parameters, and before a forward pass without grad; where several optimizers "
            "train the module, pass them all"
        )


_MEANS = {"plan": "plans", "parameters": "parameters or buffers", "gains": "gains"}
_COMPILE = (
    "Compile the same model with the same arguments and version on every rank, or write one "
    "plan.json and compile with plan= on all of them"
)
_WAYS_OUT = {
    "gains": "Call torch.manual_seed with the same number before npas.compile or npas.reset on "
    "every rank, or load one state dict on all of them"
}


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
