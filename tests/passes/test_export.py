import copy
import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas
from npas.errors import TraceError
from npas.guards import ExampleGuard, Refused
from npas.module import Shapeshifter
from npas.passes.export import export

pytestmark = pytest.mark.pure

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output:
    y: torch.Tensor
    aux: dict[str, Any]
    loss: torch.Tensor | None = None


class Rich(nn.Module):
    """Keyword and optional inputs, a nested result, regions, and things that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.full((8,), 2.0), persistent=False)
        self.shift = torch.ones(8)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        labels: Any = None,
        **extra: Any,
    ) -> Output:
        x = self.embed(ids)
        with torch.no_grad():
            place = torch.arange(ids.shape[1], device=ids.device).float()
        with torch.autocast(ids.device.type, enabled=False):
            x = x + place[None, :, None].float()
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        x = F.dropout(self.fc(x), 0.2, self.training) * self.get_buffer("scale") + self.shift
        x = x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        if mask is not None:
            x = x * mask[..., None]
        y = self.head(x)
        loss = None if labels is None else F.cross_entropy(y.flatten(0, 1), labels.flatten())
        return Output(y, {"pair": Pair(x, None), "n": 3, "extra": sorted(extra)}, loss)


def ids(batch: int = 2, length: int = 5) -> torch.Tensor:
    return torch.randint(0, 20, (batch, length), generator=torch.Generator().manual_seed(0))


def compiled(budget: float = 0.7, **given: Any) -> Shapeshifter:
    torch.manual_seed(0)
    given = given or {"mask": torch.ones(2, 5)}
    return npas.compile(
        Rich(),
        budget,
        groups="single",
        frontend="export",
        example_inputs=(ids(),),
        example_kwargs=given,
    )


def both(ssn: nn.Module, *args: Any, **kwargs: Any) -> tuple[Output, Output]:
    """Return what the graph gives and what the original's forward gives, in the current mode."""
    other = copy.deepcopy(ssn)
    results = []
    for call in (ssn, lambda *a, **k: other.run_original(a, k)):  # type: ignore[operator]
        torch.manual_seed(3)
        results.append(call(*args, **kwargs))
    return results[0], results[1]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("budget", [0.7, 1.0])
def test_the_graph_computes_what_the_original_computes(mode: bool, budget: float) -> None:
    ssn = compiled(budget).train(mode)
    found, expected = both(ssn, ids(), mask=torch.rand(2, 5))
    assert isinstance(found, Output)
    assert torch.equal(found.y, expected.y)
    assert isinstance(found.aux["pair"], Pair) and found.aux["pair"].second is None
    assert torch.equal(found.aux["pair"].first, expected.aux["pair"].first)
    assert found.aux["n"] == 3 and found.aux["extra"] == [] and found.loss is None
    assert not npas.report(ssn).fallbacks
    assert npas.report(ssn).front_end == "export"
    assert npas.report(ssn).visible == 1.0


def test_the_graph_is_of_operators_over_the_models_own_tensors() -> None:
    code = compiled().code
    assert "torch.ops.aten.linear.default" in code
    assert "self.fc.bias" in code and "self.norm.running_mean" in code
    assert "self.npas.banks.b0('fc.weight')" in code
    assert "self.npas.banks.b0('embed.weight'" in code
    # A weight is made where it is used first, not at the top.
    lines = code.splitlines()
    made = next(i for i, line in enumerate(lines) if "banks.b0('fc.weight')" in line)
    assert made > next(i for i, line in enumerate(lines) if "batch_norm" in line)


@pytest.mark.parametrize(("batch", "length"), [(1, 5), (3, 5), (7, 9), (2, 1)])
def test_sizes_are_free(batch: int, length: int) -> None:
    ssn = compiled().eval()
    found, expected = both(ssn, ids(batch, length), mask=torch.ones(batch, length))
    assert torch.equal(found.y, expected.y)


def test_batches_and_lengths_of_two_and_more_run_the_graph() -> None:
    ssn = compiled()
    for batch, length in ((3, 5), (7, 9)):
        ssn(ids(batch, length), mask=torch.ones(batch, length))
    assert not npas.report(ssn).fallbacks


def test_statistics_advance_as_the_originals() -> None:
    torch.manual_seed(0)
    model = Rich()
    ssn = npas.compile(
        model, 1.0, groups="own", frontend="export", example_inputs=(ids(),), example_kwargs={}
    )
    for _ in range(3):
        torch.manual_seed(1)
        model(ids())
        torch.manual_seed(1)
        ssn(ids())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, ssn.get_buffer(name)), name


def test_gradients_are_the_originals() -> None:
    torch.manual_seed(0)
    model = Rich()
    given = {"labels": ids()}
    ssn = npas.compile(
        model, 1.0, groups="own", frontend="export", example_inputs=(ids(),), example_kwargs=given
    )
    for module in (model, ssn):
        torch.manual_seed(1)
        module(ids(), labels=ids()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, ssn.get_parameter(name).grad), name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((ids(),), {}, "argument mask was not given"),
        ((ids(),), {"mask": torch.ones(2, 5), "labels": ids()}, "argument labels was given"),
        ((ids(),), {"mask": torch.ones(2, 5), "more": 1}, "argument more was given"),
        ((ids().int(),), {"mask": torch.ones(2, 5)}, "another dtype"),
        ((ids(),), {"mask": torch.ones(2, 5).long()}, "another dtype"),
        ((ids(1),), {"mask": torch.ones(1, 5)}, "a size of 1"),
        ((ids(),), {"mask": torch.ones(2, 1)}, "sizes that were equal"),
    ],
)
def test_other_calls_run_the_originals_forward(args: Any, kwargs: Any, why: str) -> None:
    ssn = compiled().eval()
    found, expected = both(ssn, *args, **kwargs)
    assert torch.equal(found.y, expected.y)
    (reason,) = npas.report(ssn).fallbacks
    assert why in reason


def test_a_call_by_position_or_by_name_is_one_call() -> None:
    ssn, mask = compiled().eval(), torch.ones(2, 5)
    expected = ssn(ids(), mask=mask).y
    for found in (ssn(ids(), mask), ssn(mask=mask, ids=ids()), ssn(ids=ids(), mask=mask)):
        assert torch.equal(found.y, expected)
    assert torch.equal(ssn(ids(), mask, labels=None).y, expected)
    assert not npas.report(ssn).fallbacks


def test_under_autocast_the_originals_forward_runs() -> None:
    ssn = compiled().eval()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = both(ssn, ids(), mask=torch.ones(2, 5))
    assert found.y.dtype == torch.bfloat16 and torch.equal(found.y, expected.y)
    assert list(npas.report(ssn).fallbacks) == ["autocast is on"]


def test_on_meta_tensors_the_graph_runs_too() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    x = torch.empty(2, 8, device="meta")
    ssn = npas.compile(model, 0.7, frontend="export", example_inputs=(x,))
    assert ssn(torch.empty(3, 8, device="meta")).shape == (3, 8)
    assert not npas.report(ssn).fallbacks


def test_a_part_in_another_mode_and_a_hook_run_the_originals_forward() -> None:
    ssn = compiled()
    ssn.get_submodule("norm").eval()
    before = ssn.get_buffer("norm.running_mean").clone()
    ssn(ids(), mask=torch.ones(2, 5))
    assert torch.equal(ssn.get_buffer("norm.running_mean"), before)
    ssn.train()
    seen: list[torch.Size] = []
    handle = ssn.get_submodule("fc").register_forward_hook(lambda *a: seen.append(a[2].shape))
    ssn(ids(), mask=torch.ones(2, 5))
    assert seen == [(2, 5, 8)]
    handle.remove()
    ssn(ids(), mask=torch.ones(2, 5))
    assert len(seen) == 1
    assert sum(npas.report(ssn).fallbacks.values()) == 2


def test_hooks_of_the_root_run_once() -> None:
    model, calls = Rich(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    ssn = npas.compile(
        model, 0.7, groups="single", frontend="export", example_inputs=(ids(),), example_kwargs={}
    )
    calls.clear()
    ssn(ids())
    assert calls == [1]


def test_hooks_below_the_root_are_no_part_of_a_graph_of_operators() -> None:
    model = Rich()
    model.fc.register_forward_hook(lambda *_: None)
    with pytest.raises(TraceError, match="fc has hooks"):
        export(model, (ids(),), None)


def test_another_dtype_of_the_model_runs_the_originals_forward() -> None:
    ssn = compiled().eval().double()
    found, expected = both(ssn, ids(), mask=torch.ones(2, 5))
    assert found.y.dtype == torch.float64 and torch.equal(found.y, expected.y)
    assert list(npas.report(ssn).fallbacks) == ["parameters of another dtype"]
    ssn.float()(ids(), mask=torch.ones(2, 5))
    assert sum(npas.report(ssn).fallbacks.values()) == 1


def test_copies_and_pickles_keep_the_graph() -> None:
    for mode in (True, False):
        ssn = compiled().train(mode)
        for other in (copy.deepcopy(ssn), pickle.loads(pickle.dumps(ssn))):
            assert other.code == ssn.code
            results = []
            for module in (ssn, other):
                torch.manual_seed(0)
                results.append(module(ids(), mask=torch.ones(2, 5)).y)
            assert torch.equal(*results)
            assert not npas.report(other).fallbacks
            other.train()(ids(), mask=torch.ones(2, 5)).y.sum().backward()


def test_constants_move_with_the_module_and_are_not_saved() -> None:
    ssn = compiled()
    parts = [name for name, _ in ssn.named_buffers() if name.startswith("npas.parts.")]
    assert parts
    assert not any(name.startswith("npas.parts.") for name in ssn.state_dict())


def test_torch_compile_traces_the_originals_forward() -> None:
    class Plain(Rich):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs).y

    torch.manual_seed(0)
    examples = {"example_inputs": (ids(),), "example_kwargs": {"mask": torch.ones(2, 5)}}
    ssn = npas.compile(Plain(), 0.7, groups="single", frontend="opaque", **examples).eval()
    expected = ssn(ids(), mask=torch.ones(2, 5))
    torch._dynamo.reset()
    found = torch.compile(ssn, backend="eager", fullgraph=True)(ids(), mask=torch.ones(2, 5))
    torch.testing.assert_close(found, expected)


def test_saving_and_loading(tmp_path: Any) -> None:
    ssn = compiled().eval()
    expected = ssn(ids(), mask=torch.ones(2, 5)).y
    npas.save(ssn, tmp_path)
    loaded = npas.load(tmp_path, Rich).eval()
    assert npas.report(loaded).front_end == "opaque"
    assert torch.equal(loaded(ids(), mask=torch.ones(2, 5)).y, expected)
    given = {"mask": torch.ones(2, 5)}
    loaded = npas.load(tmp_path, Rich, example_inputs=(ids(),), example_kwargs=given).eval()
    assert npas.report(loaded).front_end == "export"
    assert torch.equal(loaded(ids(), mask=torch.ones(2, 5)).y, expected)


def test_without_inputs_there_is_nothing_to_run() -> None:
    with pytest.raises(TraceError, match="example_inputs"):
        npas.compile(Rich(), 0.7, frontend="export")


def test_what_depends_on_values_is_refused() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if x.sum() > 0 else x

    model = Branches().eval()
    with pytest.raises(TraceError, match=r"cannot capture Branches\.forward .*test_export\.py"):
        export(model, (torch.ones(2, 4),), None)
    assert not model.training


def test_related_sizes_are_checked() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.fc(x + y)

    found = export(Adds(), (torch.ones(3, 4), torch.ones(3, 4)), None)
    guard = found.guards[True]
    assert isinstance(guard, ExampleGuard)
    assert guard.shapes[0][0] == guard.shapes[1][0] and guard.shapes[0][1] == 4
    guard.inputs((torch.ones(5, 4), torch.ones(5, 4)), {})
    with pytest.raises(Refused, match="equal"):
        # Broadcasting is the original's business.
        guard.inputs((torch.ones(5, 4), torch.ones(2, 4)), {})
    with pytest.raises(Refused, match="a size of 3, captured for 4"):
        guard.inputs((torch.ones(5, 3), torch.ones(5, 3)), {})


def test_conditions_on_sizes_are_checked() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] % 2 == 0:
                x = x + 1
            if x.shape[0] * x.shape[1] > 60:
                x = x * 3
            return self.fc(x[:, : x.shape[1] // 2])

    torch.manual_seed(0)
    model, x = Branches(), torch.randn(4, 6, 4)
    ssn = npas.compile(model, 1.0, groups="own", frontend="export", example_inputs=(x,))
    for shape in ((4, 6), (8, 6)):
        y = torch.randn(*shape, 4)
        assert torch.equal(ssn(y), model(y))
    assert not npas.report(ssn).fallbacks
    for shape in ((3, 6), (12, 6), (1, 6), (4, 20)):
        y = torch.randn(*shape, 4)
        assert torch.equal(ssn(y), model(y))
    assert sum(npas.report(ssn).fallbacks.values()) == 4


def test_what_the_first_call_alone_assigns_is_no_state() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.table: torch.Tensor | None = None
            self.ready = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.ready = True
            if self.table is None or self.table.shape[0] < x.shape[1]:
                self.table = torch.arange(float(x.shape[1]), device=x.device)[:, None]
            return self.fc(x + self.table[: x.shape[1]])

    torch.manual_seed(0)
    model, x = Lazy(), torch.randn(3, 6, 4)
    ssn = npas.compile(model, 1.0, groups="own", frontend="export", example_inputs=(x,))
    assert model.table is None and not model.ready
    for length in (6, 3, 9):
        y = torch.randn(2, length, 4)
        assert torch.equal(ssn(y), model(y))
    # A longer table is made by the original's forward.
    assert sum(npas.report(ssn).fallbacks.values()) == 1


def test_what_every_call_assigns_is_state() -> None:
    class Counts(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.fc(x)

    model = Counts()
    with pytest.raises(TraceError, match="forward assigns calls"):
        export(model, (torch.ones(2, 4),), None)
    assert model.calls == 0


def test_a_size_in_what_is_returned() -> None:
    class Measures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            return {"y": self.fc(x), "length": x.shape[1], "twice": 2 * x.shape[1]}

    torch.manual_seed(0)
    x = torch.randn(3, 6, 4)
    ssn = npas.compile(Measures(), 1.0, groups="own", frontend="export", example_inputs=(x,))
    for length in (6, 9):
        found = ssn(torch.randn(2, length, 4))
        assert (found["length"], found["twice"]) == (length, 2 * length)
    assert not npas.report(ssn).fallbacks
