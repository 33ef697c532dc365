"""What a training loop needs around a compiled module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from npas.bank import Bank
from npas.compiled import required_state
from npas.errors import NpasError
from npas.passes.collect import WeightOp, module_kind
from npas.plan import LayerPlan
from npas.report import Report
from npas.searching.bank import SearchBank


def param_groups(
    module: nn.Module,
    weight_decay: float = 0.0,
    *,
    lr: float | None = None,
    sharing_power: float = 0.0,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer that takes groups.

    Banks and other weights of two or more dimensions decay. Coefficients, layer embeddings and
    their projections, masks, scalars, norms and biases do not, and neither do embedding tables and
    banks of nothing else: a row that is not looked up has no gradient, and would shrink all the
    same.

    A step on a bank moves every weight that is made from it. With ``sharing_power`` a bank's
    learning rate is ``lr / degree ** sharing_power``, where its degree is the elements that are
    generated from it over its own (at least 1). With learning rates that were chosen for each, no
    power above 0 learned measurably better and 1 learned worse (docs/learning.md): it is off by
    default.

    Args:
        module: a compiled module (or any other).
        weight_decay: for the groups that decay.
        lr: learning rate, written into every group; None leaves it to the optimizer.
        sharing_power: 0 (one learning rate for all) or more; needs ``lr``.

    Returns:
        Every trainable parameter in exactly one group, first those that decay. Without
        ``sharing_power`` there are two groups at most, otherwise one for each learning rate.

    Raises:
        NpasError: for what is not a module, a number below 0, or a power without ``lr``.
    """
    if not isinstance(module, nn.Module):
        raise NpasError(f"param_groups takes a module, found a {type(module).__name__}")
    numbers = {"weight_decay": weight_decay, "lr": lr, "sharing_power": sharing_power}
    for name, value in numbers.items():
        if value is not None and not 0 <= value < float("inf"):
            raise NpasError(f"{name}={value!r} must be 0 or more, and finite")
    if sharing_power and lr is None:
        raise NpasError(
            f"sharing_power={sharing_power!r} scales a learning rate: pass lr= to param_groups too"
        )
    tables = {
        id(parameter)
        for owner in module.modules()
        if (module_kind(owner) or "").startswith("embedding")
        for parameter in owner.parameters(recurse=False)
    }
    found: dict[tuple[bool, float | None], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            rate = lr
            if isinstance(owner, Bank | SearchBank):
                decays = name == "theta" and not _of_tables(owner)
                if name == "theta" and lr is not None:
                    rate = lr / sharing_degree(owner) ** sharing_power
            else:
                matrix = parameter.dim() >= 2 and parameter.numel() > max(parameter.shape)
                decays = matrix and module_kind(owner) != "norm" and id(parameter) not in tables
            found.setdefault((decays, rate), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        | ({} if rate is None else {"lr": rate})
        for (decays, rate), parameters in sorted(found.items(), key=lambda item: not item[0][0])
    ]


def sharing_degree(bank: Bank | SearchBank) -> float:
    """Return the elements that are generated from a bank over its own, at least 1.

    With coefficients of unit norm and gains near 1 this is also by how much more than in a dense
    layer a gradient step on the bank moves the weights, along what the bank can express: where
    w = M theta, the eigenvalues of M M^T that are not zero have this mean.
    """
    generated = sum(layer.n for layer in _layers_of(bank))
    return max(1.0, generated / bank.theta.numel())


def _of_tables(bank: Bank | SearchBank) -> bool:
    return all(layer.kind.startswith("embedding") for layer in _layers_of(bank))


def _layers_of(bank: Bank | SearchBank) -> Sequence[LayerPlan | WeightOp]:
    if isinstance(bank, SearchBank):
        return bank.weights
    return [bank.slot_of(name)[0] for name in bank.layer_names()]


def refresh(ssn: nn.Module) -> None:
    """Drop the weights that evaluation caches, and look at the gains again.

    Needed only after a write that autograd's version counters do not see, such as one in place
    through ``parameter.data`` or the ``.data`` of a gain.

    Args:
        ssn: a compiled module, or one that holds compiled modules.

    Raises:
        NpasError: if nothing in it was compiled by npas.
    """
    # Not by name: a module may hold several that were compiled, each with a bank of that name.
    banks = [module for module in ssn.modules() if isinstance(module, Bank)]
    if not banks:
        required_state(ssn, "npas.refresh")
    for bank in banks:
        bank.note_gains()


def report(ssn: nn.Module) -> Report:
    """Return how a module was compiled: front end, passes, and how each layer starts.

    Raises:
        NpasError: if the module was not compiled by npas.
    """
    state = required_state(ssn, "npas.report")
    return replace(state.report, fallbacks=dict(state.fallbacks))
