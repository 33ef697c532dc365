"""What counts as the same output, and what is said where it is not."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import npas
from npas import NpasError, TraceError
from npas.passes.trace import trace
from npas.passes.verify import _is_near, _same, check_generation, compare, copies, steady

pytestmark = pytest.mark.pure

INF, NAN = float("inf"), float("nan")


def same(value: Any, other: Any, name: str = "output 0", *, exact: bool = False) -> bool:
    tensors = [v if isinstance(v, torch.Tensor | None) else torch.tensor(v) for v in (value, other)]
    return _same({name: tensors[0]}, {name: tensors[1]}, "fx", True, exact=exact)


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0003], False),
        ([0.0, 2.0], [1.9e-4, 2.0], False),  # within 1e-4 of the largest
        ([NAN, INF, 1.0], [NAN, INF, 1.0], True),
        ([NAN, INF, 1.0], [NAN, INF, 1.0001], False),
        ([-INF, 1.0], [-INF, 1.0001], False),
        ([3, 4], [3, 4], True),
        (None, None, True),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
    ],
)
def test_what_is_the_same(value: Any, other: Any, equal: bool) -> None:
    assert same(value, other) is equal


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ([1.0, 2.0], [1.0, 2.0005]),
        ([0.0, 2.0], [2.1e-4, 2.0]),
        ([-INF, 1.0], [-INF, 2.0]),
        ([-INF, 1.0], [-3.0, 1.0]),
        ([NAN, 1.0], [NAN, 1.1]),
        ([NAN, 1.0], [0.0, 1.0]),
        ([100_000, 4], [100_001, 4]),
        (None, [1.0]),
        ([1.0], None),
        ([1.0], [[1.0]]),
        ([1.0, 1.0], [1.0]),
        ([1.0], torch.ones(1, dtype=torch.float64)),
        (torch.zeros(0, 3), torch.zeros(0, 4)),
    ],
)
def test_what_is_not(value: Any, other: Any) -> None:
    with pytest.raises(TraceError, match="the graph of fx gives another output 0 in training"):
        same(value, other)
    with pytest.raises(TraceError, match="the graph of fx returns something else in training"):
        _same({"output 0": None}, {"output 1": None}, "fx", True, exact=False)


def test_outputs_may_have_to_be_equal_where_gradients_need_not() -> None:
    assert same([1.0], [1.00005], "gradient of 0.weight", exact=True) is False
    with pytest.raises(TraceError, match="another output 0"):
        same([1.0], [1.00005], exact=True)


def test_what_generated_weights_may_differ_by() -> None:
    def near(value: Any, other: Any, dtype: torch.dtype = torch.float32) -> bool:
        pair = [torch.tensor(v, dtype=dtype) for v in (value, other)]
        return _is_near({"output 0": pair[0]}, {"output 0": pair[1]})

    assert near([0.0, 2.0], [1.9e-3, 2.0]) and not near([0.0, 2.0], [2.1e-3, 2.0])
    assert near([0.0, 2.0], [1.9e-3, 2.0], torch.float64)
    for dtype in (torch.float32, torch.float64):  # of the value itself besides
        assert near([1.0], [1.0019], dtype) and not near([1.0], [1.0021], dtype)
    assert near([0.0, 2.0], [0.039, 2.0], torch.bfloat16)
    assert not near([0.0, 2.0], [0.041, 2.0], torch.bfloat16)
    assert near([1, 2], [3, 4], torch.int64)  # indices may differ where scores are alike
    assert near([], []) and not near([], [1.0]) and not near([1.0], [[1.0]])
    assert near([-INF, 1.0], [-INF, 1.0005]) and not near([-INF, 1.0], [-INF, 2.0])
    assert near([NAN, 1.0], [NAN, 1.0005]) and not near([NAN, 1.0], [1.0, 1.0])
    for odd in (NAN, INF, -INF):  # what is not finite says nothing of the others' scale
        assert not near([odd, 1e-3], [odd, 1.1e-3])
    assert not _is_near({"output 0": torch.ones(1)}, {})


class Masked(nn.Module):
    """Logits of which some are masked, as decoders and pointers have them."""

    def __init__(self, mask: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
        self.register_buffer("mask", torch.where(torch.arange(8) > 5, mask, 0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.mask


@pytest.mark.parametrize("frontend", ["auto", "fx", "export", "opaque"])
@pytest.mark.parametrize("mask", [-INF, NAN])
def test_outputs_that_are_not_finite(mask: float, frontend: str) -> None:
    torch.manual_seed(0)
    model, x = Masked(mask), torch.randn(2, 8)
    ssn = npas.compile(model, "50%", groups="single", example_inputs=(x,), frontend=frontend)
    assert npas.report(ssn).front_end == (frontend if frontend != "auto" else "fx")
    found = ssn(x)
    assert bool(found[:, :6].isfinite().all()) and not bool(found[:, 6:].isfinite().any())


def test_a_wrong_graph_is_found_behind_a_mask() -> None:
    class Half(Masked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 2

    model, x = Masked(-INF), torch.randn(2, 8)
    assert "bit for bit" in compare(model, trace(Masked(-INF)), (x,), {})
    with pytest.raises(TraceError, match="gives another output 0"):
        compare(model, trace(Half(-INF)), (x,), {})


def test_gradients_are_compared_behind_a_mask() -> None:
    class Detached(Masked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[2](self.layers[1](self.layers[0](x).detach())) + self.mask

    model, x = Masked(-INF), torch.randn(2, 8)
    with pytest.raises(TraceError, match=r"gives another gradient of layers\.0\.weight"):
        compare(model, trace(Detached(-INF)), (x,), {})


def test_inputs_are_copied_and_what_was_one_stays_one() -> None:
    x, y = torch.ones(2), torch.ones(2, requires_grad=True)
    given = copies({"a": x, "b": [x, y], "c": 3})
    assert given["a"] is given["b"][0] is not x and given["c"] == 3
    assert given["b"][1] is not y and given["b"][1].is_leaf
    assert [given["a"].requires_grad, given["b"][1].requires_grad] == [False, True]
    assert torch.equal(given["b"][1], y)


def test_no_generator_moves() -> None:
    def states() -> list[Any]:
        numbers: Any = np.random.get_state()
        return [random.getstate(), numbers[1].tolist(), torch.get_rng_state().tolist()]

    model = nn.Linear(2, 2)
    before = states()
    with pytest.raises(ValueError, match="inside"), steady(model):
        assert random.random() + np.random.rand() + float(torch.rand(1)) > 0
        assert all(a != b for a, b in zip(states(), before, strict=True))
        raise ValueError("inside")
    assert states() == before


def test_weights_that_forward_changes() -> None:
    class Counts(nn.Module):
        def __init__(self, change: Callable[[Any], object]) -> None:
            super().__init__()
            self.fc, self.change = nn.Linear(2, 2), change

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.change(self.fc.weight)
            return self.fc(x)

    x = torch.ones(1, 2)
    for change in (lambda w: w.mul_(2), lambda w: w.data.mul_(2), lambda w: w.mul_(1)):
        with pytest.raises(NpasError, match=r"fc\.weight is changed in place by Counts\.forward"):
            compare(Counts(change), None, (x,), {})
    nans = Counts(lambda w: None)
    with torch.no_grad():
        nans.fc.weight[0, 0] = NAN
    assert compare(nans, None, (x,), {}) == "the original's own forward"


class Factor(nn.Module):
    """A matrix, times a number that depends on the mode."""

    def __init__(self, training: float = 1.0, evaluation: float = 1.0) -> None:
        super().__init__()
        self.fc, self.factors = nn.Linear(4, 4), (evaluation, training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.factors[self.training]


@pytest.mark.parametrize(
    ("training", "evaluation", "how"),
    [(1, 1, "bit for bit"), (1 + 1e-5, 1, "within rounding"), (1, 1 + 1e-5, "within rounding")],
)
def test_what_is_said_of_a_graph(training: float, evaluation: float, how: str) -> None:
    x, found = torch.randn(3, 4), trace(Factor(training, evaluation))
    said = f"outputs and gradients on the example inputs are the original's, {how}"
    assert compare(Factor(), found, (x,), {}) == said
    if how == "within rounding":
        with pytest.raises(TraceError, match="gives another output 0"):
            compare(Factor(), found, (x,), {}, exact=True)


class Counts(nn.Module):
    """Counts its calls, and returns a number too."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.fc, self.by = nn.Linear(4, 4), by
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        self.get_buffer("calls").add_(self.by)
        return {"y": self.fc(x), "number": 3}


def test_what_a_graph_writes_is_compared() -> None:
    x, model = torch.randn(3, 4), Counts()
    assert "bit for bit" in compare(model, trace(Counts()), (x,), {})
    with pytest.raises(TraceError, match="gives another buffer calls in training"):
        compare(model, trace(Counts(2.0)), (x,), {})
    assert model.get_buffer("calls") == 0


@pytest.mark.parametrize("needs", [False, True])
def test_parameters_that_are_not_trained(needs: bool) -> None:
    x = torch.randn(3, 4, requires_grad=needs)
    for frozen in ("fc.weight", "fc."):  # one of two, all
        model = Factor()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        assert compare(model, trace(model), (x,), {}).endswith("the original's, bit for bit")


def test_the_mode_in_which_a_graph_is_wrong() -> None:
    x = torch.randn(3, 4)
    for factors, mode in (((2, 1), "training"), ((1, 2), "evaluation")):
        with pytest.raises(TraceError, match=f"gives another output 0 in {mode}$"):
            compare(Factor(), trace(Factor(*factors)), (x,), {})


def test_a_graph_that_does_not_run() -> None:
    found = trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    with pytest.raises(TraceError, match="the graph of fx does not run on the example inputs: "):
        compare(nn.Sequential(nn.Linear(4, 4)), found, (torch.randn(3, 4),), {})


def test_inputs_that_one_mode_refuses() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    said = compare(model, trace(model), (torch.randn(1, 4),), {})
    assert said.startswith("outputs and gradients on the example inputs are the original's, bit f")
    assert "bit; not compared in training, where they fail (ValueError: Expected more" in said


def test_inputs_that_both_modes_refuse() -> None:
    class Refuses(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise ValueError("in training" if self.training else "in evaluation")

    hooked = Refuses(2, 2)
    hooked.register_forward_hook(lambda *_: None)  # it is run with them too
    for model in (Refuses(2, 2), hooked):
        says = r"example inputs do not run through Refuses: ValueError: in evaluation"
        with pytest.raises(NpasError, match=says) as caught:
            compare(model, None, (torch.ones(1, 2),), {})
        assert str(caught.value.__cause__) == "in evaluation"


def test_hooks_are_not_run_where_it_works_without() -> None:
    calls: list[int] = []
    model = nn.Linear(4, 4)
    model.register_forward_hook(lambda *_: calls.append(1))
    compare(model, trace(nn.Linear(4, 4)), (torch.randn(3, 4),), {})
    assert not calls


def test_hooks_without_which_it_does_not_work() -> None:
    class Narrow(Factor):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x[:, :4])

    model, x = Factor(), torch.randn(3, 5)
    model.register_forward_pre_hook(lambda _, args: (args[0][:, :4],))
    assert "bit for bit" in compare(model, trace(Narrow()), (x,), {}, exact=True)
    assert "within rounding" in compare(model, trace(Narrow(1 + 1e-5)), (x,), {})
    with pytest.raises(TraceError, match="gives another output 0"):
        compare(model, trace(Narrow(1 + 1e-5)), (x,), {}, exact=True)


class Draws(nn.Linear):
    """A graph calls it as it is, for its hook."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__(4, 4)
        self.draw = draw
        self.register_forward_hook(lambda *_: None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * self.draw()


# A copy of a model has its own copy of what a method belongs to, and draws from that.
DRAWS: list[Callable[[], float]] = [
    lambda: random.random(),
    lambda: np.random.random(),
    lambda: torch.rand(()).item(),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_both_draw_the_same_numbers(draw: Callable[[], float]) -> None:
    model = nn.Sequential(Draws(draw))
    assert "bit for bit" in compare(model, trace(model), (torch.randn(3, 4),), {})


#: Modes in which `Around` ran; a copy of it appends here too.
RAN: list[bool] = []


class Around(nn.Module):
    """Where asked, reads its parameters and not its weights."""

    def __init__(self, around: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.around = around
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor:
        RAN.append(self.training)
        self.get_buffer("count").fill_(len(list(self.parameters())))
        y = self.last(self.first(torch.ones(2, 4) if x is None else x))
        around = self.around and x is not None
        return y + sum(p.sum() for p in self.parameters()) if around else y


def in_place(model: nn.Module) -> nn.Module:
    ssn = npas.compile_(model, "60%", groups="single")
    RAN.clear()
    return ssn


def test_a_forward_that_computes_something_else() -> None:
    ssn, x = in_place(Around()), torch.randn(2, 4)
    says = r"Around\.forward does not work with generated weights \(it computes something else\): "
    for args, kwargs in (((x,), None), ((x,), {}), ((), {"x": x})):
        with pytest.raises(NpasError, match=says):
            check_generation(ssn, args, kwargs)


def test_what_objects_hold_is_compared() -> None:
    class Held(Around):
        def forward(self, x: torch.Tensor | None = None) -> Any:
            return SimpleNamespace(y=super().forward(x), number=3)

    with pytest.raises(NpasError, match="it computes something else"):
        check_generation(in_place(Held()), (torch.randn(2, 4),), None)


def test_what_is_not_checked() -> None:
    ssn, meta = in_place(Around()), torch.empty(2, 4, device="meta")
    for args, kwargs in (((), None), ((), {}), ((meta,), None), ((), {"x": meta})):
        check_generation(ssn, args, kwargs)
    assert not RAN


def test_only_outputs_are_compared_in_evaluation_without_hooks() -> None:
    calls: list[int] = []
    ssn = in_place(Around(around=False))
    ssn.register_forward_hook(lambda *_: calls.append(1))
    for args, kwargs in (((torch.randn(2, 4),), None), ((), {"x": torch.randn(2, 4)})):
        RAN.clear()
        check_generation(ssn.train(), args, kwargs)
        assert RAN == [False, False] and not calls


#: Calls of `Full` until it fails.
LEFT: list[None] = []


class Full(nn.Linear):
    """A graph calls it as it is, for its hook."""

    def __init__(self, error: type[Exception] = MemoryError) -> None:
        super().__init__(4, 4)
        self.error = error
        self.register_forward_hook(lambda *_: None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not LEFT:
            raise self.error
        LEFT.pop()
        return super().forward(input)


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_full_memory_is_not_for_the_graph_to_answer(calls: int) -> None:
    model = nn.Sequential(Full())
    found = trace(model)
    LEFT[:] = [None] * calls
    with pytest.raises(MemoryError):
        compare(model, found, (torch.randn(3, 4),), {})
    assert not LEFT


@pytest.mark.parametrize("calls", [0, 1])
def test_a_full_memory_is_not_for_the_weights_to_answer(calls: int) -> None:
    LEFT[:] = [None] * 9
    ssn = npas.compile_(nn.Sequential(Full(), nn.Linear(4, 4)), "60%", groups="single")
    LEFT[:] = [None] * calls
    with pytest.raises(MemoryError):
        check_generation(ssn, (torch.randn(3, 4),), None)
    assert not LEFT


def test_what_generated_weights_raise_is_said() -> None:
    LEFT[:] = [None] * 9
    ssn = npas.compile_(nn.Sequential(Full(KeyError), nn.Linear(4, 4)), "60%", groups="single")
    LEFT[:] = [None]
    with pytest.raises(NpasError, match=r"with generated weights \(KeyError"):
        check_generation(ssn, (torch.randn(3, 4),), None)
