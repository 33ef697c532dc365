import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import npas
from npas.errors import NpasError, TraceError
from npas.guards import Refused, has_hooks
from npas.passes.trace import Trace, clone_module, shares_tensors, trace

pytestmark = pytest.mark.pure


def run(found: Trace, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the graph of the model's mode, with the model's own tensors."""
    return fx.GraphModule(model, found.graphs[model.training])(*args, **kwargs)


def same(found: Trace, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Check that both graphs compute what the model computes in that mode."""
    for mode in (True, False):
        model.train(mode)
        torch.manual_seed(0)
        expected = model(*args, **kwargs)
        torch.manual_seed(0)
        assert torch.equal(run(found, model, *args, **kwargs), expected)


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.fc(x), 0.5, self.training)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.extra = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.extra(self.fc(x))
        return self.fc(x)


class ValueDependent(nn.Module):
    """A forward that no symbolic trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return self.fc(-x)


class Masked(nn.Module):
    """Optional and constant arguments, as forwards of published models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        scale: float = 1.0,
    ) -> torch.Tensor:
        x = self.fc(x)
        if mask is not None:
            x = x * mask
        if causal:
            x = x.tril()
        return x * scale


def test_dropout_with_a_training_flag_differs_by_mode() -> None:
    found = trace(Dropping())
    assert found.front_end == "fx"
    assert found.graphs[True] is not found.graphs[False]
    same(found, Dropping(), torch.randn(3, 4))


def test_a_branch_on_the_mode_is_in_the_right_graph() -> None:
    found = trace(Branching())
    calls = {
        mode: [n.target for n in graph.nodes if n.op == "call_module"]
        for mode, graph in found.graphs.items()
    }
    assert calls == {True: ["fc", "extra"], False: ["fc"]}
    same(found, Branching(), torch.randn(3, 4))


def test_a_branch_on_the_mode_inside_a_submodule() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Branching())
    found = trace(model)
    assert [len(found.graphs[mode].nodes) for mode in (True, False)] == [5, 4]
    same(found, model, torch.randn(3, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)),
        lambda: nn.Linear(4, 4),
        Masked,
    ],
)
def test_one_graph_where_the_modes_agree(make: Callable[[], nn.Module]) -> None:
    found = trace(make())
    assert found.graphs[True] is found.graphs[False]


def test_a_submodule_that_defeats_fx_becomes_an_opaque_leaf() -> None:
    model = nn.Sequential(nn.Linear(4, 4), ValueDependent())
    found = trace(model)
    assert list(found.leaves) == ["1"]
    reason = found.leaves["1"]
    assert "defeats fx" in reason
    assert "test_trace.py" in reason and "in forward" in reason
    assert "TraceError" in reason or "bool" in reason
    same(found, model, torch.randn(3, 4))


def test_an_opaque_class_is_opaque_everywhere_and_reports_each_path() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ValueDependent()
            self.norm = nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x + self.inner(x))

    model = nn.Sequential(*(Block() for _ in range(3)))
    found = trace(model)
    assert list(found.leaves) == ["0.inner", "1.inner", "2.inner"]
    # What surrounds the leaf stays visible.
    targets = [n.target for n in found.graphs[True].nodes if n.op == "call_module"]
    assert targets == [f"{i}.{part}" for i in range(3) for part in ("inner", "norm")]
    same(found, model, torch.randn(3, 4))


def test_opaque_where_only_one_mode_defeats_fx() -> None:
    class TrainsByValue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and x.sum() > 0:
                return x
            return self.fc(x)

    model = nn.Sequential(TrainsByValue(), nn.Linear(4, 4))
    found = trace(model)
    assert list(found.leaves) == ["0"]
    same(found, model, torch.randn(3, 4))


def test_a_module_with_hooks_is_called_so_that_they_fire() -> None:
    fired: list[str] = []
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda *_: fired.append("after"))
    model[0].register_forward_pre_hook(lambda *_: fired.append("before"))
    found = trace(model)
    assert fired == [], "tracing must not call the user's hooks"
    assert found.leaves == {"0": "has hooks, which run only where it is called"}
    ssn = npas.compile(model, 0.9, groups="single")
    ssn(torch.randn(3, 4))
    assert fired == ["before", "after"]


@pytest.mark.parametrize("groups", ["own", "single"])
def test_hooks_of_every_submodule_fire_once_per_call(groups: str) -> None:
    counts: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counts[name] = counts.get(name, 0) + 1

        return hook

    model = nn.Sequential(
        nn.Embedding(40, 16), nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 16)
    )
    for name, child in model.named_children():
        child.register_forward_hook(count(name))
    ssn = npas.compile(model, 0.8, groups=groups)
    for mode in (True, False):
        counts.clear()
        ssn.train(mode)(torch.randint(0, 7, (2, 3)))
        assert counts == dict.fromkeys("01234", 1)


def test_hooks_that_change_inputs_outputs_and_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda _, args, out: out + args[0].sum())
    model[1].register_full_backward_hook(lambda _, grads, __: (grads[0] * 3,))
    ssn = npas.compile(model, 1.0, groups="own")
    x = torch.randn(3, 4)
    copied = x.clone().requires_grad_()
    x.requires_grad_()
    model(x).sum().backward()
    ssn(copied).sum().backward()
    assert x.grad is not None and copied.grad is not None
    assert torch.equal(x.grad, copied.grad)


def test_hooks_on_the_root_fire() -> None:
    fired: list[torch.Size] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model.register_forward_hook(lambda _, __, out: fired.append(out.shape))
    ssn = npas.compile(model, 0.9, groups="single")
    assert fired == []
    ssn(torch.randn(3, 4))
    assert fired == [torch.Size([3, 2])]


def test_has_hooks() -> None:
    module = nn.Linear(2, 2)
    assert not has_hooks(module)
    handle = module.register_forward_hook(lambda *_: None)
    assert has_hooks(module)
    handle.remove()
    assert not has_hooks(module)


def test_optional_arguments_that_are_not_given_keep_their_default() -> None:
    model = Masked()
    x, mask = torch.randn(3, 4), torch.rand(3, 4)
    found = trace(model, (x,))
    same(found, model, x)
    same(found, model, x=x)
    same(found, model, x, mask=None, causal=False, scale=1.0)
    # Another value would be ignored by the graph, so its guard refuses it.
    guard = found.guards[True]
    guard.inputs((x,), {"mask": None, "scale": 1.0})
    for wrong in ({"mask": mask}, {"causal": True}, {"scale": 2.0}, {"scale": 1}):
        with pytest.raises(Refused, match="was traced as"):
            guard.inputs((x,), wrong)
    with pytest.raises(Refused, match="mask was traced as None"):
        guard.inputs((x, mask), {})
    with pytest.raises(Refused, match="x is None"):
        guard.inputs((None,), {})


@pytest.mark.parametrize("budget", [1.0, 2.0])
def test_the_originals_forward_answers_what_the_graph_was_not_made_for(budget: float) -> None:
    x, mask = torch.randn(3, 4), torch.rand(3, 4)
    ssn = npas.compile(Masked(), budget, groups="own")
    dense = npas.materialize(ssn)
    for args, kwargs in (((x,), {"causal": True}), ((x, mask), {}), ((x,), {"mask": mask})):
        torch.testing.assert_close(ssn(*args, **kwargs), dense(*args, **kwargs))
    assert torch.equal(ssn(x), ssn(x, None, causal=False))
    assert dict(npas.report(ssn).fallbacks) == {
        "argument causal was traced as False": 1,
        "argument mask was traced as None": 2,
    }
    assert "argument mask was traced as None" in str(npas.report(ssn))


def test_optional_arguments_that_are_given_stay_arguments() -> None:
    model = Masked()
    x, mask = torch.randn(3, 4), torch.rand(3, 4)
    same(trace(model, (x, mask)), model, x, mask)
    same(trace(model, (x,), {"mask": mask}), model, x, mask=mask)
    same(trace(model, (x,), {"mask": mask}), model, x=x, mask=mask)


def test_a_text_argument_keeps_its_default() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, pool: str = "sum") -> torch.Tensor:
            x = self.fc(x)
            return x.sum(1) if pool == "sum" else x.mean(1)

    model, x = Pooled(), torch.randn(3, 4)
    found = trace(model, (x,))
    same(found, model, x)
    same(found, model, x, pool="sum")
    with pytest.raises(Refused, match="pool was traced as 'sum'"):
        found.guards[True].inputs((x,), {"pool": "mean"})


def test_argument_names_with_numbers_survive() -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(
            self, x_1: torch.Tensor, x_2: torch.Tensor | None = None, x: int = 0
        ) -> torch.Tensor:
            return self.fc(x_1) if x_2 is None else self.fc(x_1 + x_2 + x)

    model, x = Numbered(), torch.randn(3, 4)
    same(trace(model, (x,)), model, x_1=x)
    same(trace(model, (x, x)), model, x_1=x, x_2=x)
    same(trace(model, (x, x)), model, x_2=x, x_1=x, x=0)


def test_keyword_only_arguments() -> None:
    class KeywordOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(
            self, x: torch.Tensor, *, shift: torch.Tensor, flip: bool = False
        ) -> torch.Tensor:
            x = self.fc(x) + shift
            return -x if flip else x

    model, x = KeywordOnly(), torch.randn(3, 4)
    same(trace(model, (x,), {"shift": x}), model, x, shift=x)
    ssn = npas.compile(model, 1.0, groups="own")
    assert torch.equal(ssn(x, shift=x), model(x, shift=x))


def test_a_root_that_defeats_fx_is_an_error_that_says_where_and_why() -> None:
    with pytest.raises(TraceError) as caught:
        trace(ValueDependent())
    message = str(caught.value)
    assert "ValueDependent.forward" in message
    line = ValueDependent.forward.__code__.co_firstlineno + 1
    assert f"test_trace.py:{line}, in forward" in message
    assert "opaque leaf" in message
    assert caught.value.__cause__ is not None
    with pytest.raises(TraceError, match="ValueDependent"):
        npas.compile(ValueDependent(), 1.0, frontend="fx")


def test_a_root_that_fails_beside_its_children_is_not_blamed_on_them() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(x)
            for _ in range(int(x.sum())):
                x = x + 1
            return x

    with pytest.raises(TraceError, match=r"Late\.forward"):
        trace(Late())


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), ValueDependent(), Branching())
    model[1].eval()
    flags = [m.training for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    keys = [sorted(m.__dict__) for m in model.modules()]
    identities = [id(p) for p in model.parameters()]
    trace(model)
    assert [m.training for m in model.modules()] == flags
    assert [sorted(m.__dict__) for m in model.modules()] == keys
    assert [id(p) for p in model.parameters()] == identities
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_counter_that_forward_moves_is_no_part_of_a_graph() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.calls = 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.fc(x)

    model = Counting()
    with pytest.raises(TraceError, match=r"Counting\.forward assigns calls"):
        trace(model)
    assert model.calls == 0
    # Below the root, what moves it is called whole.
    found = trace(nn.Sequential(model, nn.Linear(4, 4)))
    assert found.leaves == {"0": "defeats fx: forward assigns 0.calls"}
    assert model.calls == 0
    ssn = npas.compile(nn.Sequential(model, nn.Linear(4, 4)), 1.0, groups="own")
    ssn(torch.ones(2, 4))
    assert ssn.get_submodule("0").calls == 1


def test_a_meta_model_gives_the_same_graphs() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), ValueDependent(), Dropping())

    with torch.device("meta"):
        meta = trace(make())
    real = trace(make())
    assert meta.leaves == real.leaves
    for mode in (True, False):
        assert str(meta.graphs[mode]) == str(real.graphs[mode])


def test_clone_module_keeps_ties_and_copies_nothing_it_was_given() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    clone = clone_module(model, shares_tensors(model))
    assert clone.get_parameter("1.weight") is clone.get_parameter("0.weight") is model[0].weight
    mean, copied = (module.get_buffer("2.running_mean") for module in (model, clone))
    assert copied is not mean and torch.equal(copied, mean)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Uncopyable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            raise RuntimeError("holds a file")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    with pytest.raises(NpasError, match=r"Uncopyable cannot be copied .*holds a file"):
        npas.compile(Uncopyable(), 1.0, groups="own")


def test_a_hook_that_reports_to_an_object_is_not_copied_with_it() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.shapes: list[torch.Size] = []

        def note(self, _: nn.Module, __: Any, out: torch.Tensor) -> None:
            self.shapes.append(out.shape)

    recorder = Recorder()
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_forward_hook(recorder.note)
    ssn = npas.compile(model, 0.7, groups="single")
    ssn(torch.randn(2, 4))
    assert recorder.shapes == [torch.Size([2, 4])]


def test_graphs_stay_usable_after_the_model_changes() -> None:
    model = Dropping()
    found = trace(model)
    before = copy.deepcopy(found.graphs[True])
    with torch.no_grad():
        model.fc.weight.zero_()
    assert str(found.graphs[True]) == str(before)
