import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import npas
from npas.errors import NpasError, TraceError
from npas.passes.structure import analyse
from npas.passes.verify import compare

pytestmark = pytest.mark.pure

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.drop = nn.Dropout(0.2)


class Traceable(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.b(torch.relu(self.a(x))))


class Sized(Base):
    """Control flow over sizes: fx fails, export does not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(x.shape[0] % 2):
            x = self.a(x)
        return self.drop(self.b(x))


class Valued(Base):
    """Control flow over values: only the model itself knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.b(self.a(x) if x.sum() < 1e9 else x))


class Swapped(Base):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.a(torch.relu(self.b(x))))


class Drawn(Base):
    """A number that Python draws: a trace keeps the first one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)) * random.random() * float(np.random.rand())


class Region(Base):
    """fx does not see that one part has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = self.a(x)
        return self.b(x + y)


class Counts(Base):
    """Keeps a count that is no buffer."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("kind", "without", "with_inputs"),
    [
        (Traceable, "fx", "fx"),
        (Sized, "opaque", "export"),
        (Valued, "opaque", "opaque"),
        (Region, "opaque", "export"),
    ],
)
def test_auto_takes_the_first_that_reproduces_the_original(
    kind: type[nn.Module], without: str, with_inputs: str
) -> None:
    torch.manual_seed(0)
    model = kind()
    for given, expected in (((), without), ((X,), with_inputs)):
        ssn = npas.compile(model, 0.8, groups="single", example_inputs=given)
        report = npas.report(ssn)
        assert report.front_end == expected
        order = ["fx", "export", "opaque"]
        assert [t.partition(":")[0] for t in report.tried] == order[: order.index(expected) + 1]
        ssn.eval()
        torch.testing.assert_close(npas.materialize(ssn)(X), ssn(X))
        same = npas.compile(model, 1.0, groups="own", example_inputs=given)
        for mode in (True, False):
            torch.manual_seed(1)
            wanted = model.train(mode)(X)
            torch.manual_seed(1)
            assert torch.equal(same.train(mode)(X), wanted)


def test_the_report_says_why() -> None:
    report = npas.report(npas.compile(Valued(), 0.8, groups="single", example_inputs=(X,)))
    fx, export, opaque = report.tried
    assert "fx cannot trace Valued.forward (test_frontends.py:" in fx
    assert "torch.export cannot capture Valued.forward" in export
    assert opaque == "opaque: the original's own forward"
    assert set(report.submodules) == {"", "a", "b", "drop"}
    assert all(text.startswith("opaque: ") for text in report.submodules.values())
    assert report.visible == 0.0
    assert "tried fx: fx cannot trace" in str(report)
    report = npas.report(npas.compile(Traceable(), 0.8, groups="single", example_inputs=(X,)))
    assert report.tried[0].endswith("bit for bit")
    assert report.submodules["a"] == "fx: called" and report.visible == 1.0
    report = npas.report(npas.compile(Traceable(), 0.8, groups="single"))
    assert "structure alone: no example inputs" in report.tried[0]


def test_an_opaque_leaf_is_in_the_report_with_everything_below_it() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Valued())
    report = npas.report(npas.compile(model, 0.8, groups="single", example_inputs=(X,)))
    assert report.front_end == "fx"
    assert report.submodules["0"] == "fx: called"
    for path in ("1", "1.a", "1.drop"):
        assert report.submodules[path].startswith("opaque: defeats fx")
    assert 0 < report.visible < 1


def test_a_graph_that_computes_something_else_is_not_taken() -> None:
    model = Drawn()
    report = npas.report(npas.compile(model, 0.8, groups="single", example_inputs=(X,)))
    assert report.front_end == "opaque"
    assert "Drawn.forward draws random numbers that a graph of fx would repeat" in report.tried[0]
    for frontend, given in (("fx", ()), ("fx", (X,)), ("export", (X,))):
        with pytest.raises(TraceError, match="draws random numbers"):
            npas.compile(model, 0.8, frontend=frontend, example_inputs=given)
    found = analyse(Traceable())
    with pytest.raises(TraceError, match="graph of fx gives another output 0 in training"):
        compare(Swapped(), found, (X,), {})


def test_the_front_end_that_is_asked_for_is_the_one_that_is_used() -> None:
    for name in ("fx", "export", "opaque"):
        ssn = npas.compile(Traceable(), 0.8, groups="single", frontend=name, example_inputs=(X,))
        assert npas.report(ssn).front_end == name
    with pytest.raises(TraceError, match=r"Valued\.forward"):
        npas.compile(Valued(), 0.8, frontend="fx", example_inputs=(X,))


def test_the_plan_does_not_depend_on_the_front_end() -> None:
    for kind in (Traceable, Sized, Valued):
        plans = {
            npas.compile(
                kind(), 1.0, groups="own", example_inputs=(X,), frontend=name
            )._npas.plan.to_json()
            for name in ("auto", "opaque")
        }
        with torch.device("meta"):
            meta = kind()
        plans.add(npas.plan(meta, 1.0, groups="own", example_inputs=(X,)).to_json())
        assert len(plans) == 1, kind.__name__


def test_comparing_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), Valued()).eval()
    model[0].weight.grad = torch.ones(6, 6)
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    x = X.clone().requires_grad_()
    npas.compile(model, 1.0, groups="own", example_inputs=(x,))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[index]
    assert x.grad is None and torch.equal(model[0].weight.grad, torch.ones(6, 6))
    assert not any(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_that_counts_its_calls_is_not_touched() -> None:
    model = Counts()
    npas.compile(model, 0.8, groups="single", example_inputs=(X,))
    assert model.calls == 0


@pytest.mark.parametrize("frontend", ["auto", "fx", "export", "opaque"])
def test_a_model_that_changes_its_parameters_in_forward(frontend: str) -> None:
    class Clamps(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.a.weight.clamp_(-0.1, 0.1)
            return self.b(self.a(x))

    model = Clamps()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NpasError):
        npas.compile(model, 0.8, groups="single", frontend=frontend, example_inputs=(X,))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(NpasError, match=r"a\.weight is changed in place by Clamps\.forward"):
        compare(model, None, (X,), {})


def test_inputs_that_do_not_fit() -> None:
    for inputs, kwargs in (((torch.ones(3, 5),), {}), ((X, X), {}), ((X,), {"mask": X})):
        for kind in (Traceable, Sized, Valued):
            with pytest.raises(NpasError, match="do not run through"):
                npas.compile(kind(), 0.8, example_inputs=inputs, example_kwargs=kwargs)


def test_an_example_that_training_refuses_is_compared_in_evaluation() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    report = npas.report(npas.compile(model, 1.0, groups="own", example_inputs=(X[:1],)))
    assert report.front_end == "fx"
    assert "not compared in training, where they fail" in report.tried[0]


def test_the_structure_of_a_model_that_fx_cannot_trace() -> None:
    class Root(Base):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 6))
            self.unused = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(x.shape[0] % 2):
                x = self.a(x)
            return self.b(x) @ self.table.T

    found = analyse(Root())
    assert found.front_end == "structure" and "Root.forward" in found.leaves[""]
    targets = [
        str(n.target) for n in found.graphs[True].nodes if n.op in ("get_attr", "call_module")
    ]
    assert targets == ["table", "a", "b", "unused"]
    plan = npas.plan(Root(), 1.0, groups="own")
    assert [layer.name for layer in plan.layers] == [
        "table",
        "a.weight",
        "b.weight",
        "unused.weight",
    ]
    # A run tells what is not used, and what a raw parameter is.
    plan = npas.plan(Root(), 1.0, groups="own", example_inputs=(X,))
    assert [(layer.name, layer.kind) for layer in plan.layers] == [
        ("table", "linear"),
        ("a.weight", "linear"),
        ("b.weight", "linear"),
    ]
    reasons = {fixed.name: fixed.reason for fixed in plan.fixed}
    assert reasons["unused.weight"] == "not used by forward"


def test_repeated_blocks_are_found_without_fx() -> None:
    class Block(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)) if x.sum() < 1e9 else x

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x) if x.sum() < 1e9 else x
            return x

    plan = npas.plan(Stack(), 0.5, groups="repeated")
    assert [bank.layers for bank in plan.banks] == [
        tuple(f"blocks.{i}.{name}.weight" for i in range(4)) for name in ("a", "b")
    ]
