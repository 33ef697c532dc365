"""What users get wrong: a clear error or the documented behaviour, and nothing is changed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import npas
from npas import BudgetError, CheckpointError, NpasError, PlanError, TraceError
from npas.passes.mapping import STRATEGIES
from npas.plan import DOWNSAMPLE, UPSAMPLE

pytestmark = pytest.mark.pure


class Mlp(nn.Module):
    def __init__(self, width: int = 12, depth: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.last(self.norm(x))


N_DENSE = (72 + 12) + 4 * (144 + 12) + 24 + (60 + 5)
N_FIXED = 12 + 4 * 12 + 24 + 5


def state_of(model: nn.Module) -> list[Any]:
    """Return everything about a module that an error must leave alone."""
    found: list[Any] = [sorted(model.__dict__)]
    for path, module in model.named_modules(remove_duplicate=False):
        attributes = {
            name: value
            for name, value in module.__dict__.items()
            if isinstance(value, int | float | str | bool | type(None))
        }
        hooks = {name: len(v) for name, v in module.__dict__.items() if name.endswith("_hooks")}
        found.append((path, id(module), type(module), module.forward, attributes, hooks))
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        found.append((name, id(tensor), tensor._version, tensor.requires_grad, tensor.grad is None))
        lazy = is_lazy(tensor)
        if not lazy and not tensor.is_meta:
            values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            found.append((tensor.data_ptr(), values.numpy().tobytes()))
    return found


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    before = [state_of(model) for model in models]
    rng = torch.get_rng_state()
    yield
    assert [state_of(model) for model in models] == before
    assert torch.equal(torch.get_rng_state(), rng)


def plan_and_compile(model: Any, *arguments: Any, **named: Any) -> list[NpasError]:
    """Return the errors of plan and of compile, each of which must leave the model alone."""
    errors: list[NpasError] = []
    for call in (npas.plan, npas.compile):
        with unchanged(*([model] if isinstance(model, nn.Module) else [])):
            with pytest.raises(NpasError) as caught:
                call(model, *arguments, **named)
            errors.append(caught.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])
    return errors


def error_of(model: Any, *arguments: Any, **named: Any) -> NpasError:
    return plan_and_compile(model, *arguments, **named)[0]


def n_trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_unchanged_sees_a_change() -> None:
    """The broken cases: a written weight, a hook, a mode, a replaced parameter, a random draw."""

    def write(model: Mlp) -> None:
        with torch.no_grad():
            model.first.weight[0, 0] += 1

    def replace(model: Mlp) -> None:
        model.first.weight = nn.Parameter(model.first.weight.detach().clone())

    def freeze(model: Mlp) -> None:
        model.first.weight.requires_grad_(False)

    for change in (
        write,
        replace,
        freeze,
        lambda model: model.first.register_forward_hook(lambda *_: None),
        lambda model: model.eval(),
        lambda model: setattr(model, "npas", 1),
        lambda model: torch.rand(1),
    ):
        model = Mlp()
        with pytest.raises(AssertionError), unchanged(model):
            change(model)


# Budgets


@pytest.mark.parametrize(
    "budget",
    [0, -1, 0.0, -0.5, float("nan"), float("inf"), "", "ten", "0%", "-5%", "NaN", None, True, []],
)
def test_budgets_that_cannot_be_read(budget: Any) -> None:
    model = Mlp()
    with unchanged(model), pytest.raises(BudgetError, match="budget"):
        npas.plan(model, budget)
    if budget is not None:
        with unchanged(model), pytest.raises(BudgetError, match="budget"):
            npas.compile(model, budget)


def test_no_budget_and_no_plan() -> None:
    model = Mlp()
    with unchanged(model), pytest.raises(NpasError, match="budget='10%'"):
        npas.compile(model)


@pytest.mark.parametrize(
    "budget",
    [10**12, "1000000x", 10**19, "1e30", pytest.param(10**400, id="10**400"), 2**63, 2**64],
)
def test_budgets_beyond_any_use(budget: Any) -> None:
    """Templates are not free memory: a plan that no machine holds, or an error, but no crash."""
    model = Mlp()
    with unchanged(model):
        try:
            plan = npas.plan(model, budget, groups="single")
        except BudgetError:
            return
    assert plan.n_params <= plan.budget_params
    assert npas.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("groups", STRATEGIES)
@pytest.mark.parametrize("upsample", UPSAMPLE)
def test_the_smallest_budget_is_named_and_works(groups: str, upsample: str) -> None:
    model = Mlp()
    error = error_of(model, 1, groups=groups, upsample=upsample)
    assert isinstance(error, BudgetError) and error.smallest is not None
    assert f"{error.smallest:,}" in str(error) and "budget" in str(error)
    plan = npas.plan(model, error.smallest, groups=groups, upsample=upsample)
    assert plan.n_params == error.smallest
    ssn = npas.compile(model, plan=plan)
    assert n_trainable(ssn) == error.smallest
    assert ssn(torch.randn(3, 6)).shape == (3, 5)
    less = error_of(model, error.smallest - 1, groups=groups, upsample=upsample)
    assert isinstance(less, BudgetError) and less.smallest == error.smallest


@pytest.mark.parametrize("budget", [1, N_FIXED - 1, N_FIXED, N_FIXED + 1])
def test_a_budget_below_the_fixed_parameters(budget: int) -> None:
    model = Mlp()
    error = error_of(model, budget)
    assert isinstance(error, BudgetError)
    assert f"{N_FIXED} that are kept as they are" in str(error)
    assert error.smallest is not None and error.smallest > N_FIXED
    assert npas.plan(model, error.smallest).n_params == error.smallest


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("downsample", DOWNSAMPLE)
@pytest.mark.parametrize("groups", ["own", "single"])
def test_the_largest_budget_is_named_and_works(groups: str, downsample: str, k: int) -> None:
    model = Mlp()
    arguments: dict[str, Any] = {"groups": groups, "downsample": downsample, "k": k}
    error = error_of(model, "50x", **arguments)
    assert isinstance(error, BudgetError) and error.largest is not None
    assert f"{error.largest:,}" in str(error)
    plan = npas.plan(model, error.largest, **arguments)
    assert plan.n_params == error.largest
    ssn = npas.compile(model, plan=plan)
    assert n_trainable(ssn) == error.largest
    ssn(torch.randn(3, 6)).sum().backward()


def test_the_largest_budget_of_round_robin_without_k() -> None:
    model = Mlp()
    error = error_of(model, "4x", downsample="rr")
    assert isinstance(error, BudgetError) and error.largest is not None
    assert npas.plan(model, error.largest, downsample="rr").n_params <= error.largest


# Names and patterns


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"groups": "sinlge"}, "nearest: 'single'"),
        ({"groups": "Auto"}, "nearest: 'auto'"),
        ({"groups": "by-shape"}, "nearest: 'by_shape'"),
        ({"groups": "zzzzzzz"}, "auto, own, single"),
        ({"groups": ""}, "auto, own, single"),
        ({"groups": None}, "groups=None"),
        ({"groups": 3}, "groups=3"),
        ({"groups": ["first"]}, "groups="),
        ({"groups": {"nowhere": "a"}}, "groups: pattern 'nowhere'"),
        ({"groups": {"frist": "a"}}, "nearest: 'first'"),
        ({"groups": {"re:(": "a"}}, "not a regular expression"),
        ({"groups": {3: "a"}}, "groups"),
        ({"groups": {"first": 3}}, "groups"),
        ({"groups": {"first": None}}, "groups"),
        ({"groups": {"first": ""}}, "groups"),
        ({"n_banks": 0}, "n_banks=0"),
        ({"n_banks": -1}, "n_banks=-1"),
        ({"n_banks": 7}, "between 1 and 6"),
        ({"n_banks": 1.5}, "n_banks=1.5"),
        ({"n_banks": "two"}, "n_banks='two'"),
        ({"n_banks": True}, "n_banks=True"),
        ({"n_banks": 2, "groups": "own"}, "goes with groups='auto' or 'random'"),
        ({"n_banks": 2, "groups": {"first": "a"}}, "goes with groups='auto' or 'random'"),
        ({"k": 0}, "k=0"),
        ({"k": -1}, "k=-1"),
        ({"k": 2.0}, r"k=2\.0"),
        ({"k": True}, "k=True"),
        ({"k": "4"}, "k='4'"),
        ({"k": 10**9}, "k=1000000000"),
        ({"downsample": "wagv"}, "nearest: 'wavg'"),
        ({"downsample": "mask"}, "downsample='mask'"),
        ({"downsample": None}, "downsample=None"),
        ({"downsample": ["wavg"]}, "downsample="),
        ({"upsample": "interp"}, "nearest: 'inter'"),
        ({"upsample": "wavg"}, "upsample='wavg'"),
        ({"upsample": 1}, "upsample=1"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, r"seed=0\.5"),
        ({"seed": None}, "seed=None"),
        ({"seed": True}, "seed=True"),
        ({"seed": 2**64, "groups": "auto", "n_banks": 2}, "seed"),
        ({"target_modules": ["nowhere"]}, "target_modules: pattern 'nowhere'"),
        ({"target_modules": ["first", "nowhere"]}, "target_modules: pattern 'nowhere'"),
        ({"target_modules": "frist"}, "nearest: 'first'"),
        ({"target_modules": []}, "no weight to allocate"),
        ({"target_modules": ["norm"]}, "target_modules: pattern 'norm'"),
        ({"target_modules": [3]}, "target_modules"),
        ({"target_modules": 3}, "target_modules"),
        ({"ignored_modules": ["nowhere"]}, "ignored_modules: pattern 'nowhere'"),
        ({"ignored_modules": ["*"]}, "no weight to allocate"),
        ({"ignored_modules": ["re:["]}, "not a regular expression"),
        ({"ignored_modules": [None]}, "ignored_modules"),
        ({"target_modules": ["first"], "ignored_modules": ["first"]}, "no weight to allocate"),
        ({"overrides": {"nowhere": {"k": 2}}}, "overrides: pattern 'nowhere'"),
        ({"overrides": {"first": {"kk": 2}}}, "unknown option 'kk'"),
        ({"overrides": {"first": {"downsmaple": "emb"}}}, "nearest: 'downsample'"),
        ({"overrides": {"first": {"k": 0}}}, r"overrides\['first'\]: k=0"),
        ({"overrides": {"first": {"k": None}}}, r"overrides\['first'\]: k=None"),
        ({"overrides": {"first": {"downsample": "x"}}}, r"overrides\['first'\]: downsample='x'"),
        ({"overrides": {"first": {"upsample": "x"}}}, r"overrides\['first'\]: upsample='x'"),
        ({"overrides": {"first": {"scale": 1}}}, "scale=1"),
        ({"overrides": {"first": {"bank": 1}}}, "bank=1"),
        ({"overrides": {"first": {"bank": ""}}}, "bank"),
        ({"overrides": {"first": "emb"}}, r"overrides\['first'\] must be a dict"),
        ({"overrides": {"first": None}}, r"overrides\['first'\] must be a dict"),
        ({"overrides": ["first"]}, "overrides"),
        ({"overrides": {3: {"k": 2}}}, "overrides"),
        ({"example_inputs": (torch.zeros(2, 7),)}, "example inputs"),
        ({"example_inputs": (torch.zeros(2, 6), torch.zeros(2, 6))}, "example inputs"),
        ({"example_inputs": 3}, "example_inputs"),
        ({"example_kwargs": {"y": torch.zeros(2, 6)}}, "example inputs"),
        ({"example_kwargs": [torch.zeros(2, 6)]}, "example"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], says: str) -> None:
    model = Mlp()
    error = error_of(model, "80%", **arguments)
    assert re.search(says, str(error)), error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"grups": "own"}, "nearest: 'groups'"),
        ({"nbanks": 2}, "nearest: 'n_banks'"),
        ({"init": "copied"}, "nearest: 'copy'"),
        ({"init": None}, "init=None"),
        ({"frontend": "exprot"}, "frontend='exprot'"),
        ({"backend": "cuda"}, "backend='cuda'"),
        ({"schedule": "banks"}, "nearest: 'bank'"),
        ({"schedule": None}, "schedule=None"),
        ({"recompute": "yes"}, "recompute='yes'"),
        ({"recompute": None}, "recompute=None"),
        ({"calibrate": torch.zeros(4, 7)}, "calibrate"),
        ({"calibrate": "batch"}, "calibrate"),
    ],
)
def test_compile_arguments_that_do_not_fit(arguments: dict[str, Any], says: str) -> None:
    model = Mlp()
    before = state_of(model)
    with pytest.raises(NpasError, match=says):
        npas.compile(model, "50%", **arguments)
    assert state_of(model) == before


def test_bank_names_that_a_module_cannot_have() -> None:
    """Names that are Python keywords or methods of a module work, or are refused by name."""
    for bank in ("train", "forward", "class", "keys", "pop", "type", "a b", "1", "theta", "été"):
        both: list[dict[str, Any]] = [{"groups": {"*": bank}}, {"overrides": {"*": {"bank": bank}}}]
        for arguments in both:
            model = Mlp()
            with unchanged(model):
                try:
                    plan = npas.plan(model, "50%", **arguments)
                except NpasError as error:
                    assert bank in str(error)
                    continue
                state = torch.get_rng_state()
                ssn = npas.compile(model, plan=plan)
                torch.set_rng_state(state)
            assert npas.Plan.from_json(plan.to_json()) == plan
            assert n_trainable(ssn) == plan.n_params
            assert torch.isfinite(ssn(torch.zeros(2, 6))).all()


# Models


@pytest.mark.parametrize("model", [None, 3, "model", nn.Linear, lambda x: x, torch.zeros(2)])
def test_what_is_no_module(model: Any) -> None:
    assert "not an nn.Module" in str(error_of(model, "50%"))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.phase = nn.Parameter(torch.ones(6, 6, dtype=torch.complex64))
        self.last = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.first(x).to(torch.complex64) @ self.phase).real)


class Integer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.table = nn.Parameter(torch.arange(36).view(6, 6), requires_grad=False)
        self.last = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.table.to(x.dtype)[0])


@pytest.mark.parametrize(
    "model",
    [
        nn.ReLU(),
        nn.Sequential(),
        nn.LayerNorm(4),
        nn.Linear(4, 4).requires_grad_(False),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False),
    ],
)
def test_no_weight_to_allocate(model: nn.Module) -> None:
    error = error_of(model, "50%")
    assert "no weight to allocate" in str(error) and type(model).__name__ in str(error)


def test_a_model_that_uses_none_of_its_weights() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert "fc.weight: not used by forward" in str(error_of(Unused(), "50%"))


def test_complex_parameters_are_kept() -> None:
    model = Complex()
    with unchanged(model):
        plan = npas.plan(model, 80, groups="single")
    kept = {fixed.name: fixed for fixed in plan.fixed}
    assert kept["phase"].reason == "of dtype complex64"
    assert kept["phase"].trainable and kept["phase"].n_params == 36
    assert plan.n_params <= 80
    ssn = npas.compile(model, plan=plan)
    assert torch.equal(ssn.get_parameter("phase"), model.phase)
    assert ssn.get_parameter("phase") is not model.phase
    assert ssn(torch.randn(2, 6)).shape == (2, 6)


def test_complex_parameters_do_not_change_what_bytes_mean() -> None:
    """Bytes are counted at the bank's dtype, float32 here."""
    assert npas.plan(Complex(), "0.4kB", groups="single").budget_params == 100


def test_integer_parameters_are_kept() -> None:
    model = Integer()
    with unchanged(model):
        plan = npas.plan(model, "60%", groups="single")
    kept = {fixed.name: fixed for fixed in plan.fixed}
    assert not kept["table"].trainable and kept["table"].reason
    assert plan.n_dense == 2 * 42
    ssn = npas.compile(model, plan=plan)
    assert torch.equal(ssn.get_parameter("table"), model.table)
    assert ssn.get_parameter("table").dtype == torch.int64
    assert ssn(torch.randn(2, 6)).shape == (2, 6)


def test_frozen_parameters_are_left_alone_and_not_counted() -> None:
    model = Mlp()
    model.blocks[1].requires_grad_(False)
    model.norm.requires_grad_(False)
    with unchanged(model):
        plan = npas.plan(model, "50%", groups="single")
    kept = {fixed.name: fixed for fixed in plan.fixed}
    assert kept["blocks.1.weight"].reason == "frozen"
    assert kept["norm.weight"].reason == "frozen"
    assert plan.n_dense == N_DENSE - 156 - 24
    assert plan.budget_params == plan.n_dense // 2
    ssn = npas.compile(model, plan=plan)
    assert n_trainable(ssn) == plan.n_params <= plan.budget_params
    frozen = ssn.get_parameter("blocks.1.weight")
    assert not frozen.requires_grad
    assert torch.equal(frozen, model.get_parameter("blocks.1.weight"))
    ssn(torch.randn(4, 6)).sum().backward()
    assert frozen.grad is None


def test_a_plan_for_what_is_frozen_now() -> None:
    model = Mlp()
    plan = npas.plan(model, "50%", groups="single")
    model.blocks[1].weight.requires_grad_(False)  # type: ignore[union-attr]
    with unchanged(model), pytest.raises(PlanError, match=r"blocks\.1\.weight is frozen"):
        npas.compile(model, plan=plan)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(4), lambda: nn.LazyConv2d(4, 3)])
def test_lazy_modules_before_their_first_call(make: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Identity(), make())
    error = error_of(model, "50%")
    assert "lazy" in str(error) and "2.weight" in str(error)


def test_lazy_modules_after_their_first_call() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(8))
    model(torch.zeros(2, 8))
    assert npas.compile(model, "60%", groups="single")(torch.zeros(2, 8)).shape == (2, 8)


@pytest.mark.parametrize(("budget", "groups"), [("50%", "single"), ("100%", "own"), ("2x", "own")])
def test_a_module_compiled_twice(budget: str, groups: str) -> None:
    model = Mlp()
    ssn = npas.compile(model, budget, groups=groups)
    for again in (ssn, nn.Sequential(ssn, nn.Linear(5, 5)), ssn.eval()):
        error = error_of(again, "50%")
        assert "compiled by npas already" in str(error)
        assert "npas.materialize" in str(error)
    assert ssn(torch.zeros(2, 6)).shape == (2, 5)


def test_the_same_model_compiled_twice() -> None:
    """Two results of one original have nothing in common."""
    model = Mlp()
    one, two = (npas.compile(model, "50%", groups="single") for _ in range(2))
    pointers = [{p.data_ptr() for p in ssn.parameters()} for ssn in (one, two, model)]
    assert not (pointers[0] & pointers[1] or pointers[0] & pointers[2] or pointers[1] & pointers[2])


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


def test_a_root_that_defeats_fx() -> None:
    model = ByValue()
    with unchanged(model), pytest.raises(TraceError) as caught:
        npas.compile(model, "100%", frontend="fx")
    assert "ByValue.forward" in str(caught.value)
    assert f"{Path(__file__).name}:" in str(caught.value)  # where
    assert "opaque leaf" in str(caught.value)  # the way out
    ssn = npas.compile(model, "100%")
    assert npas.report(ssn).front_end == "opaque"
    assert torch.equal(ssn(torch.ones(2, 6)), model(torch.ones(2, 6)))
    inside = nn.Sequential(model, nn.Linear(6, 6))
    assert npas.compile(inside, "60%", groups="single")(torch.ones(2, 6)).shape == (2, 6)


def test_a_forward_that_raises() -> None:
    class Unfinished(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("later")

    for frontend in ("auto", "opaque"):
        model = Unfinished()
        with unchanged(model), pytest.raises(NpasError, match="later"):
            npas.compile(model, "50%", frontend=frontend, example_inputs=(torch.ones(2, 6),))


def test_a_model_that_cannot_be_copied() -> None:
    class Holds(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.stream = open(os.devnull)  # noqa: SIM115

    model = Holds()
    try:
        with pytest.raises(NpasError, match="cannot be copied"):
            npas.compile(model, "50%")
        # In place nothing is copied.
        x = torch.ones(2, 6)
        assert npas.compile_(model, "50%")(x).shape == (2, 5)
    finally:
        model.stream.close()


def test_an_attribute_where_the_banks_would_stand() -> None:
    model = Mlp()
    model.npas = 3  # type: ignore[assignment]
    with unchanged(model), pytest.raises(NpasError, match="attribute 'npas'"):
        npas.compile(model, "50%")


class Embeds(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embed = embedding
        self.fc = nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.embed(ids))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize(
    ("option", "says"),
    [({"sparse": True}, "sparse gradients"), ({"max_norm": 1.0}, r"max_norm=1\.0")],
)
def test_embeddings_that_cannot_be_shared(kind: Any, option: dict[str, Any], says: str) -> None:
    model = Embeds(kind(20, 8, **option))
    error = error_of(model, "80%")
    assert re.search(says, str(error)) and "embed.weight" in str(error)
    # The way out that the message names works.
    assert "ignored_modules=['embed.weight']" in str(error)
    plan = npas.plan(model, "90%", ignored_modules=["embed.weight"])
    assert [layer.name for layer in plan.layers] == ["fc.weight"]
    ssn = npas.compile(model, plan=plan)
    assert ssn(torch.zeros(2, 3, dtype=torch.int64)).shape[-1] == 8


def test_frozen_sparse_embeddings_are_no_problem() -> None:
    model = Embeds(nn.Embedding(20, 8, sparse=True).requires_grad_(False))
    assert [x.name for x in npas.plan(model, "80%").layers] == ["fc.weight"]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low = nn.ModuleList([nn.Linear(8, 8).to(torch.bfloat16) for _ in range(3)])
        self.high = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.low:
            x = layer(x.to(torch.bfloat16))
        for layer in self.high:
            x = layer(x.float())
        return x


@pytest.mark.parametrize("groups", [*STRATEGIES, {"*": "all"}])
def test_mixed_dtypes_split_the_banks(groups: Any) -> None:
    model = Mixed()
    with unchanged(model):
        plan = npas.plan(model, "80%", groups=groups)
    for bank in plan.banks:
        assert {plan.layer(name).dtype for name in bank.layers} == {bank.dtype}
    if groups in ("single", {"*": "all"}):
        assert [bank.dtype for bank in plan.banks] == ["bfloat16", "float32"]
        assert all("split by dtype" in bank.reason for bank in plan.banks)
    assert npas.Plan.from_json(plan.to_json()) == plan
    ssn = npas.compile(model, plan=plan)
    assert n_trainable(ssn) == plan.n_params <= plan.budget_params
    ssn(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in ssn.parameters())


def test_mixed_dtypes_put_into_one_bank_by_hand() -> None:
    model = Mixed()
    error = error_of(model, "60%", overrides={"low.0": {"bank": "a"}, "high.0": {"bank": "a"}})
    assert "'a'" in str(error) and "dtype" in str(error)


def test_weights_on_several_devices() -> None:
    model = Mlp()
    model.blocks[1].to("meta")
    with unchanged(model):
        plan = npas.plan(model, "50%", groups="single")
        with pytest.raises(NpasError, match="one device") as caught:
            npas.compile(model, plan=plan)
    assert "meta" in str(caught.value) and "cpu" in str(caught.value)


# Plans


def test_a_plan_and_plan_arguments_together() -> None:
    model = Mlp()
    plan = npas.plan(model, "50%")
    several: list[dict[str, Any]] = [
        {"budget": "50%"},
        {"groups": "own"},
        {"groups": "own", "k": 2},
        {"n_banks": 2},
        {"seed": 0},
        {"overrides": {"first": {"k": 2}}},
        {"target_modules": None},
    ]
    for arguments in several:
        with unchanged(model), pytest.raises(NpasError, match="not both") as caught:
            npas.compile(model, plan=plan, **arguments)
        assert all(name in str(caught.value) for name in arguments)


def test_example_inputs_may_go_with_a_plan() -> None:
    model = Mlp()
    plan = npas.plan(model, "50%")
    assert npas.compile(model, plan=plan, example_inputs=(torch.zeros(2, 6),)) is not None


@pytest.mark.parametrize("plan", ["plan.json", 3, {}, b"", Path("plan.json")])
def test_what_is_no_plan(plan: Any) -> None:
    model = Mlp()
    with unchanged(model), pytest.raises(NpasError, match=r"npas\.Plan\.load"):
        npas.compile(model, plan=plan)


class Renamed(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.frist = self.first
        del self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.frist(x)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.last(self.norm(x))


class Tied(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].weight = self.blocks[0].weight  # type: ignore[union-attr]


class More(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.extra(super().forward(x))


class TiedMore(Mlp):
    """The planned parameters and no others, but one of them under one more name."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(12, 12, bias=False)
        self.again.weight = self.blocks[0].weight  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0 * self.again(self.first(x)).sum())


def double() -> nn.Module:
    return Mlp().double()


def wider() -> nn.Module:
    return Mlp(width=16)


def shallower() -> nn.Module:
    return Mlp(depth=3)


def normless() -> nn.Module:
    model = Mlp()
    model.norm = nn.BatchNorm1d(12, affine=False)
    return model


def biasless() -> nn.Module:
    model = Mlp()
    model.last = nn.Linear(12, 5, bias=False)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (wider, ["first.weight is (16, 6), planned (12, 6)", "blocks.0.weight is (16, 16)"]),
        (shallower, ["blocks.3.weight is not in the model", "blocks.3.bias is not in the model"]),
        (Renamed, ["first.weight is not in the model (nearest: 'frist.weight')"]),
        (double, ["first.weight is float64, planned float32"]),
        (Tied, ["blocks.1.weight is tied to blocks.0.weight"]),
        (More, ["extra.weight is not in the plan", "extra.bias is not in the plan"]),
        (TiedMore, ["again.weight"]),
        (normless, ["norm.weight is not in the model"]),
        (biasless, ["last.bias is not in the model"]),
        (lambda: nn.Linear(3, 3), ["first.weight is not in the model", "more"]),
    ],
)
def test_a_plan_for_another_model(make: Any, says: list[str]) -> None:
    plan = npas.plan(Mlp(), "50%", groups="single")
    model = make()
    with unchanged(model), pytest.raises(PlanError, match="another model") as caught:
        npas.compile(model, plan=plan)
    for text in says:
        assert text in str(caught.value)
    assert "npas.plan(model, ...)" in str(caught.value)


@pytest.mark.parametrize("n", [8, 9, 11])
def test_of_what_differs_eight_are_listed(n: int) -> None:
    plan = npas.plan(Mlp(), "50%", groups="single")
    model = Mlp()
    for parameter in list(model.parameters())[:n]:
        parameter.requires_grad_(False)
    with pytest.raises(PlanError, match="another model") as caught:
        npas.compile(model, plan=plan)
    assert str(caught.value).count("planned ") == 8
    assert (f" and {n - 8} more. Plan again" in str(caught.value)) == (n > 8)
    assert " more" in str(caught.value) or n == 8


def test_what_is_kept_has_to_train_as_planned() -> None:
    plan = npas.plan(Mlp(), "50%", groups="single")
    frozen = Mlp()
    frozen.get_parameter("norm.weight").requires_grad_(False)
    frozen.get_parameter("first.weight").requires_grad_(False)
    with pytest.raises(PlanError, match=r"first\.weight is frozen, planned trainable") as caught:
        npas.compile(frozen, plan=plan)
    assert "norm.weight is frozen, planned otherwise" in str(caught.value)
    frozen.get_parameter("first.weight").requires_grad_(True)
    plan = npas.plan(frozen, "50%", groups="single")
    with pytest.raises(PlanError, match=r"norm\.weight is trainable, planned otherwise"):
        npas.compile(Mlp(), plan=plan)


def test_a_plan_for_a_tied_model() -> None:
    plan = npas.plan(Tied(), "50%", groups="single")
    model = Mlp()
    with unchanged(model), pytest.raises(PlanError, match=r"blocks\.1\.weight"):
        npas.compile(model, plan=plan)


# Saving


def outputs(ssn: nn.Module) -> Tensor:
    with torch.no_grad():
        return ssn.eval()(torch.linspace(-1, 1, 18).view(3, 6))


class _Interrupted(BaseException):
    pass


@pytest.mark.parametrize("how", [OSError("disk full"), KeyboardInterrupt(), _Interrupted()])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("budget", ["50%", "60%"])
def test_an_interrupted_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: BaseException, at: int, budget: str
) -> None:
    """Over an earlier save of the same plan or another: that one loads, or a message says how."""
    earlier = npas.compile(Mlp(), "50%", groups="single")
    npas.save(earlier, tmp_path)
    expected = outputs(earlier)
    later = npas.compile(Mlp(), budget, groups="single")
    before, calls, replace = state_of(later), 0, os.replace

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise how
        replace(*arguments)

    monkeypatch.setattr(os, "replace", interrupted)
    raised = CheckpointError if isinstance(how, OSError) else type(how)
    with pytest.raises(raised):
        npas.save(later, tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    assert calls == at, "the save made fewer moves than this test interrupts"
    assert state_of(later) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".saving")]
    model = Mlp()
    with unchanged_weights(model):
        try:
            loaded = npas.load(tmp_path, model)
        except CheckpointError as error:
            assert at == 2 and budget != "50%"
            assert "delete plan.json" in str(error)
            (tmp_path / "plan.json").unlink()
            loaded = npas.load(tmp_path, model)
    assert torch.equal(outputs(loaded), expected)
    npas.save(later, tmp_path)
    assert torch.equal(outputs(npas.load(tmp_path, Mlp())), outputs(later))


@contextmanager
def unchanged_weights(model: nn.Module) -> Iterator[None]:
    """As `unchanged`, for what may draw random numbers."""
    before = state_of(model)
    yield
    assert state_of(model) == before


def test_every_move_of_a_save_is_interrupted_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    npas.save(npas.compile(Mlp(), "50%"), tmp_path)
    assert moved[0].startswith("weights-")
    assert moved[1:] == ["plan.json"]


def test_a_first_save_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssn = npas.compile(Mlp(), "50%")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        npas.save(ssn, tmp_path / "new")
    with pytest.raises(CheckpointError, match="not there"):
        npas.load(tmp_path / "new", Mlp())


def test_a_full_disk_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights file may fail with safetensors' own error."""
    from safetensors import SafetensorError

    from npas import saved

    ssn = npas.compile(Mlp(), "50%")
    npas.save(ssn, tmp_path)
    for error in (OSError("disk full"), SafetensorError("I/O error: disk full")):

        def full(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(saved, "save_file", full)
        with pytest.raises(CheckpointError, match="disk full"):
            npas.save(ssn, tmp_path)
        assert torch.equal(outputs(npas.load(tmp_path, Mlp())), outputs(ssn))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ssn = npas.compile(Mlp(), "50%")
    with pytest.raises(CheckpointError, match="file"):
        npas.save(ssn, tmp_path / "file")
    with pytest.raises(NpasError, match="was not compiled by npas"):
        npas.save(Mlp(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_save_for_another_model(tmp_path: Path) -> None:
    npas.save(npas.compile(Mlp(), "50%"), tmp_path)
    for make in (wider, shallower, double, More):
        model = make()
        with unchanged(model), pytest.raises(CheckpointError, match="another model") as caught:
            npas.load(tmp_path, model)
        assert isinstance(caught.value.__cause__, PlanError)


# The rest of the API on what npas did not make


@pytest.mark.parametrize(
    "call", [npas.materialize, npas.report, npas.dense_state_dict, npas.reset, npas.refresh]
)
def test_modules_that_npas_did_not_make(call: Any) -> None:
    model = Mlp()
    says = rf"Mlp was not compiled by npas; npas\.{call.__name__} takes what npas\.compile"
    with unchanged(model), pytest.raises(NpasError, match=says):
        call(model)


def test_wrappers_of_what_npas_made() -> None:
    ssn = npas.compile(Mlp(), "50%")
    inner = nn.Sequential(ssn)
    for part, wrapper in (("0", inner), ("module.0", nn.ModuleDict({"module": inner}))):
        says = rf"was not compiled by npas, but its part {part} was: give npas\.materialize that"
        with pytest.raises(NpasError, match=says):
            npas.materialize(wrapper)
        npas.refresh(wrapper)
