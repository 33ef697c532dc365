"""The invariants that every plan and compiled module holds, as checks that raise AssertionError.

`test_invariants.py` runs them on random modules, `test_invariants_fail.py` on broken ones.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import npas
from npas.bank import Bank
from npas.kernels.combine.reference import combine
from npas.kernels.interpolate.reference import interpolate
from npas.kernels.tile_mask.reference import tile_mask
from npas.plan import LayerPlan

Inputs = tuple[torch.Tensor, ...]
_NONE = torch.empty(0, dtype=torch.float64)


def banks_of(ssn: nn.Module) -> dict[str, Bank]:
    """Return the generated banks by name."""
    return {
        name.removeprefix("npas.banks."): module
        for name, module in ssn.named_modules()
        if isinstance(module, Bank)
    }


def n_trainable(module: nn.Module) -> int:
    """Count unique trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def run(module: nn.Module, inputs: Inputs, seed: int = 0) -> torch.Tensor:
    """Call a module with dropout that depends on the seed alone."""
    torch.manual_seed(seed)
    return module(*inputs)


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """Weigh the outputs, so that no gradient is the same for two of them."""
    weights = torch.linspace(-1, 1.5, output.numel(), dtype=output.dtype)
    return (output.flatten() * weights).sum()


def gradients(module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the gradient of every trainable parameter that has one."""
    module.zero_grad()
    loss_of(run(module, inputs)).backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_equal_bits(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Compare tensors by name, bit for bit."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), f"{name} differs"


# 1. Budget.


def check_plan_budget(plan: npas.Plan, model: nn.Module, budget: str | int | float) -> None:
    """The plan costs no more than was asked for, and 99.9% of it where that is 100,000 or more."""
    dense = n_trainable(model)
    match budget:
        case int():
            asked = budget
        case float():
            asked = budget * dense
        case "largest":
            n_max = {bank.name: max(x.n for x in plan.layers_of(bank.name)) for bank in plan.banks}
            asked = dense - sum(layer.n for layer in plan.layers) + sum(n_max.values())
        case _:
            asked = float(budget.removesuffix("%")) / 100 * dense
    assert plan.n_params <= asked + 1e-6, f"{plan.n_params} of {asked}"
    assert asked - 1 < plan.budget_params <= asked + 1e-6
    if asked >= 100_000:
        assert plan.n_params >= 0.999 * int(asked), f"{plan.n_params} of {asked}"


def check_parameter_count(ssn: nn.Module, plan: npas.Plan) -> None:
    """The module trains exactly the parameters that the plan says."""
    assert n_trainable(ssn) == plan.n_params <= plan.budget_params


def check_honest(
    error: npas.BudgetError, plan_at: Callable[[int], npas.Plan], *, tight: bool = True
) -> npas.Plan:
    """The budget that an error states can be met, and one beyond it cannot; returns its plan.

    Without ``tight`` the second half is not asked for.
    """
    assert (error.smallest is None) != (error.largest is None), error
    stated = error.smallest if error.smallest is not None else error.largest
    assert stated is not None
    plan = plan_at(stated)
    assert plan.n_params <= stated
    if error.smallest is not None:
        beyond = stated - 1
    else:
        assert plan.n_params >= 0.999 * stated
        beyond = int(stated / 0.999) + 2
    if not tight:
        return plan
    try:
        found = plan_at(beyond)
    except npas.BudgetError as again:
        assert beyond == 0 or (again.smallest, again.largest) == (error.smallest, error.largest)
        return plan
    raise AssertionError(f"{error}, but {beyond} is met with {found.n_params}")


# 2. No dead parameter.


def check_no_dead_parameter(ssn: nn.Module, plan: npas.Plan) -> None:
    """All-ones gradients into every weight reach every element of every generated bank.

    What only the padding row of an embedding reads is spared: there the original is dead too.
    """
    for name, bank in banks_of(ssn).items():
        with torch.no_grad():
            for parameter in bank.parameters():
                # Positive, so that no two contributions cancel.
                parameter.uniform_(0.5, 1.5)
        bank.set_gains(bank.gain.abs())  # for the same reason: tied layers differ in sign
        found = _ones_gradients(bank)
        if any(layer.padding_idx is not None for layer in plan.layers_of(name)):
            slots = bank._slots
            bank._slots = {
                key: replace(slot, layer=replace(slot.layer, padding_idx=None))
                for key, slot in slots.items()
            }
            whole = _ones_gradients(bank)
            bank._slots = slots
            n_padding = sum(
                layer.n // layer.shape[0]
                for layer in plan.layers_of(name)
                if layer.padding_idx is not None
            )
            assert sum(int((grad == 0).sum()) for grad in found.values()) <= n_padding * plan.k
            found = {local: grad + whole[local] for local, grad in found.items()}
        for local, grad in found.items():
            dead = (grad == 0).nonzero().tolist()
            assert not dead, f"{name}.{local} is dead at {dead[:5]}: {plan.explain()}"


def _ones_gradients(bank: Bank) -> dict[str, torch.Tensor]:
    bank.zero_grad()
    torch.stack([bank.generate(layer).sum() for layer in bank.layer_names()]).sum().backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in bank.named_parameters()
    }


# 3. Windows.


def check_windows(plan: npas.Plan) -> None:
    """Every window lies in its bank, every bank is covered, and the totals are what they say."""
    for bank in plan.banks:
        used = torch.zeros(bank.size, dtype=torch.bool)
        layers = [layer for layer in plan.layers if layer.bank == bank.name]
        assert tuple(layer.name for layer in layers) == bank.layers != ()
        for layer in layers:
            assert layer.dtype == bank.dtype
            assert layer.k >= 0
            if layer.k == 0:
                assert layer.n > bank.size
                used[:] = True
            for t in range(layer.k):
                start = layer.base + t * layer.stride
                assert 0 <= start <= start + layer.n <= bank.size, f"{layer.name}, template {t}"
                used[start : start + layer.n] = True
            if layer.k >= 2:
                assert layer.stride > 0, f"{layer.name} has one template {layer.k} times"
        assert bool(used.all()), f"{bank.name} has dead elements"
    assert {layer.bank for layer in plan.layers} == {bank.name for bank in plan.banks}
    assert plan.n_params <= plan.budget_params


def check_reader(text: str, read: Callable[[str], npas.Plan]) -> npas.Plan | None:
    """Reading any text gives a `PlanError`, or a plan as good as one that npas makes."""
    try:
        plan = read(text)
    except npas.PlanError as error:
        assert str(error)
        return None
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of a PlanError: {error}") from error
    check_windows(plan)
    assert read(plan.to_json()) == plan
    return plan


# 4. Identity.


def check_identity(model: nn.Module, ssn: nn.Module, inputs: Inputs) -> None:
    """Outputs, gradients and one step of SGD are the original's, bit for bit."""
    model = copy.deepcopy(model)
    for mode in (False, True):
        model.train(mode)
        ssn.train(mode)
        assert torch.equal(run(ssn, inputs), run(model, inputs))
    assert_equal_bits(gradients(ssn, inputs), gradients(model, inputs))
    for module in (model, ssn):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        optimizer.step()
    assert_equal_bits(ssn.state_dict(), model.state_dict())
    assert torch.equal(run(ssn, inputs), run(model, inputs))


# 5. Gradients.


def reference_weight(
    bank: Bank, layer: LayerPlan, parameters: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Make a layer's weight from the definitions, differentiable by autograd."""
    _, place, scale = bank.slot_of(layer.name)
    count = max(1, layer.k)
    gain = bank.gain[bank.layer_names().index(layer.name)]
    if layer.has_coefficients and layer.downsample == "wavg":
        coefficients = parameters["alpha"][place : place + count]
    elif layer.has_coefficients:
        rows = parameters["projection"][:count]
        coefficients = rows @ parameters["phi"][place] + parameters["bias"][:count]
    else:
        coefficients = torch.full((count,), 1 / count, dtype=torch.float64)
        if scale is not None:
            coefficients = coefficients * parameters["scale"][scale]
    coefficients = coefficients * gain.double()  # gains are float32 in every model
    theta = parameters["theta"]
    if layer.k:
        flat = combine(theta, coefficients, None, (layer.base, layer.stride, layer.k, layer.n, 0))
    elif layer.upsample == "inter":
        rows, columns = layer.shape[0], layer.n // layer.shape[0]
        flat = interpolate(theta, coefficients, rows, columns)
    else:
        mask = parameters["mask"] if layer.upsample == "mask" else _NONE
        flat = tile_mask(theta, mask, coefficients, [layer.n])
    weight = flat.view(layer.shape)
    if layer.padding_idx is not None:
        keep = torch.ones(layer.shape[0], 1, dtype=torch.float64)
        keep[layer.padding_idx] = 0
        weight = weight * keep
    return weight


def check_gradients(model: nn.Module, ssn: nn.Module, plan: npas.Plan, inputs: Inputs) -> None:
    """In fp64, outputs and gradients are autograd's through the reference and the original."""
    found = gradients(ssn, inputs)
    leaves = {
        name: p.detach().clone().requires_grad_(p.requires_grad)
        for name, p in ssn.named_parameters()
    }
    values = {name: leaves[name] for name in leaves if not name.startswith("npas.")}
    for bank_name, bank in banks_of(ssn).items():
        prefix = f"npas.banks.{bank_name}."
        own = {name.removeprefix(prefix): p for name, p in leaves.items() if prefix in name}
        for layer in plan.layers_of(bank_name):
            weight = reference_weight(bank, layer, own)
            values |= dict.fromkeys((layer.name, *layer.aliases), weight)
    for layer in plan.layers:
        if plan.is_ordinary(layer.bank):
            values |= dict.fromkeys(layer.aliases, leaves[layer.name])
    buffers = {n: b.detach().clone() for n, b in ssn.named_buffers() if not n.startswith("npas.")}
    torch.manual_seed(0)
    expected = torch.func.functional_call(model, (values, buffers), inputs, tie_weights=False)
    output = run(ssn, inputs)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    loss_of(expected).backward()
    wanted = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert list(found) == list(wanted)
    for name, grad in wanted.items():
        atol = 1e-9 * (1 + float(grad.abs().max()))
        torch.testing.assert_close(
            found[name], grad, rtol=1e-8, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


# 6. The plan as data.


def check_round_trip(plan: npas.Plan, read: Callable[[str], npas.Plan]) -> None:
    """Plan -> JSON -> Plan is the identity."""
    text = plan.to_json()
    again = read(text)
    assert again == plan
    assert again.to_json() == text


def check_same_plan(plans: Iterator[npas.Plan]) -> None:
    """All plans are the same, byte for byte."""
    first, *others = (plan.to_json() for plan in plans)
    for other in others:
        assert other == first


# 7. Checkpoints.


def check_loads(folder: Path, ssn: nn.Module, make: Callable[[], nn.Module], x: Inputs) -> None:
    """A saved module is read with the same parameters and computes the same bits."""
    loaded = npas.load(folder, make)
    assert_equal_bits(loaded.state_dict(), ssn.state_dict())
    mode = ssn.training
    for module in (loaded, ssn):
        module.eval()
    assert torch.equal(run(loaded, x), run(ssn, x))
    ssn.train(mode)


def check_refuses(folder: Path, make: Callable[[], nn.Module]) -> None:
    """A damaged folder is a `CheckpointError`, and the model it is loaded into is unchanged."""
    model = make()
    before = snapshot(model)
    try:
        npas.load(folder, model)
    except npas.CheckpointError as error:
        assert str(error)
        check_unchanged(model, before)
        return
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}, not a CheckpointError: {error}") from error
    raise AssertionError("a damaged folder was loaded")


# 8. Start.


def spread(weight: torch.Tensor) -> float:
    """Return the standard deviation, or the root mean square of a constant (but for rounding)."""
    values = weight.detach().double()
    rms, std = float(values.square().mean().sqrt()), float(values.std(correction=0))
    return std if std > 1e-5 * rms else rms


def check_start(model: nn.Module, ssn: nn.Module, plan: npas.Plan) -> None:
    """Every generated weight has the original's spread, and the gains of a bank a mean of 1."""
    original = dict(model.named_parameters())
    for name, bank in banks_of(ssn).items():
        assert abs(float(bank.gain.double().abs().log().mean())) < 1e-3, f"gains of {name}"
        assert bool(bank.gain.all())
        for layer in plan.layers_of(name):
            made, wanted = spread(bank.generate(layer.name)), spread(original[layer.name])
            assert abs(made - wanted) <= 0.05 * wanted, f"{layer.name}: {made} for {wanted}"


# 9. Materialize.


def check_materialized(dense: nn.Module, ssn: nn.Module, model: nn.Module, inputs: Inputs) -> None:
    """The dense module computes what the compiled one does, and is of the original's kind."""
    assert type(dense) is type(model)
    assert list(dense.state_dict()) == list(model.state_dict())
    names = [name for name, _ in dense.named_parameters()]
    assert names == [name for name, _ in model.named_parameters()]
    again = copy.deepcopy(model)
    again.load_state_dict(dense.state_dict(), strict=True)
    expected = run(ssn.eval(), inputs)
    with torch.no_grad():
        cached = run(ssn, inputs)
    # Rows that are looked up are summed in another order than whole weights.
    exact = not any(isinstance(module, nn.Embedding) for module in model.modules())
    for module in (dense, again):
        found = run(module.eval(), inputs)
        assert torch.equal(found, expected) or not exact
        for other in (expected, cached):
            torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-5)


# The original.


@dataclass(frozen=True)
class Snapshot:
    """What a model holds: tensors by name and identity, gradients, modes and classes."""

    tensors: Mapping[str, tuple[int, bool, torch.Tensor]]
    modules: Mapping[str, tuple[type, bool, tuple[str, ...]]]


def snapshot(model: nn.Module) -> Snapshot:
    """Copy what a model holds."""
    tensors: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return Snapshot(
        {n: (id(t), t.requires_grad, t.detach().clone()) for n, t in tensors.items()},
        {n: (type(m), m.training, tuple(vars(m))) for n, m in model.named_modules()},
    )


def check_unchanged(model: nn.Module, before: Snapshot) -> None:
    """The model is what it was, to the last bit, and has no gradients."""
    now = snapshot(model)
    assert now.modules == before.modules
    assert list(now.tensors) == list(before.tensors)
    for name, (identity, trainable, value) in before.tensors.items():
        assert now.tensors[name][:2] == (identity, trainable), f"{name} was replaced"
        assert torch.equal(now.tensors[name][2], value), f"{name} was changed"
    assert all(p.grad is None for p in model.parameters())
