"""Ctrl-C, and memory that is full, at any line: what there was is there still, or what was asked.

Each call is stopped at many of the lines of npas that it runs. A KeyboardInterrupt is what Ctrl-C
raises; a MemoryError comes from anywhere too, and must not be taken for something else.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import npas
from npas.compiled import state_of
from npas.pipeline import Recorder
from npas.saved import read_folder
from tests.faults.points import Point, Trace, points, sample
from tests.test_semantics import Snapshot

pytestmark = pytest.mark.pure

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
ERRORS: list[Callable[[], BaseException]] = [KeyboardInterrupt, MemoryError]
# What changes a model in place.
IN_PLACE = ("inplace.py", "leaf.py", "calibrate_modules.py")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.cell = nn.RNN(6, 6)
        self.last = nn.Linear(6, 6)
        self.last.register_forward_hook(_look)
        self.norm.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.cell(self.norm(self.first(x)))[0])


def _look(module: nn.Module, args: Any, output: Any) -> None:
    del module, args, output


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def in_place() -> Net:
    return npas.compile_(net(), "60%", groups="single")


SINGLE: dict[str, Any] = {"groups": "single", "example_inputs": (X,)}
CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], int]] = {
    "plan": (net, lambda m: npas.plan(m, "60%", **SINGLE), 15),
    "compile": (net, lambda m: npas.compile(m, "60%", **SINGLE), 20),
    "compile, without a graph": (
        net,
        lambda m: npas.compile(m, "60%", frontend="opaque", calibrate=X, **SINGLE),
        15,
    ),
    "fit": (net, lambda m: npas.fit(m, "90%", batches=[X], **SINGLE), 15),
    "compile_": (net, lambda m: npas.compile_(m, "60%", calibrate=X, **SINGLE), 20),
    "search_model": (net, lambda m: npas.search_model(m, templates=4), 10),
    "uncompile_": (in_place, npas.uncompile_, 10),
}
quiet = pytest.mark.filterwarnings("ignore::npas.NpasWarning")


def _modes() -> int:
    found: Any = torch._C
    return found._len_torch_dispatch_stack() + found._len_torch_function_stack()


def _stop(call: Callable[[], object], at: Point, error: BaseException) -> bool:
    """Return whether the error came out of the call, as it is."""
    with Trace(at, error) as trace:
        try:
            call()
        except BaseException as found:
            assert trace.raised, found
            assert found is error, f"{at}: {found!r} in place of {error!r}"
            return True
    assert not trace.raised, f"{at}: the call took the error for something else"
    return False


def _check(name: str, at: Point, error: BaseException) -> bool:
    make, call, _ = CALLS[name]
    model = make()
    was_compiled = state_of(model) is not None
    before, rng = Snapshot(model), torch.get_rng_state()
    others = random.getstate(), str(np.random.get_state())
    if not _stop(lambda: call(model), at, error):
        return False
    if (state_of(model) is not None) is was_compiled:
        # Calibrating writes to buffers and puts them back.
        before.check(rng=False, versions=name != "compile_")
        call(model)
    else:
        assert at.function == name, f"{at}: changed, and not by the last line"
    assert (random.getstate(), str(np.random.get_state())) == others, at
    assert _modes() == 0, f"{at}: a mode of torch is still on"
    assert name != "plan" or torch.equal(torch.get_rng_state(), rng)
    return True


@quiet
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_stopped_leaves_the_model_as_it_was(name: str) -> None:
    make, call, n = CALLS[name]
    call(make())  # what is imported, or made once, is made here
    model = make()
    chosen = sample(points(lambda: call(model)), n)
    stopped = [_check(name, at, ERRORS[i % 2]()) for i, at in enumerate(chosen)]
    assert sum(stopped) > 0.9 * len(chosen), "hardly any point was met again"


@quiet
@pytest.mark.parametrize("name", ["compile_", "uncompile_"])
def test_every_line_that_changes_a_model_in_place(name: str) -> None:
    make, call, _ = CALLS[name]
    model = make()
    chosen = points(lambda: call(model), IN_PLACE)
    assert {"unchanged_on_error", "give_back" if name == "uncompile_" else "take_over"} <= {
        at.function for at in chosen
    }
    # Classes that were made before are found again, by fewer lines.
    stopped = [_check(name, at, KeyboardInterrupt()) for at in sample(chosen, 40)]
    assert sum(stopped) > 0.7 * len(stopped)


# A full memory, pass by pass.

FULL: dict[str, Callable[[], BaseException]] = {
    "MemoryError": MemoryError,
    "OutOfMemoryError": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "the CPU's allocator": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),
}
every_error = pytest.mark.parametrize("kind", FULL)


@quiet
@every_error
@pytest.mark.parametrize("name", ["compile", "fit", "compile_"])
def test_a_pass_that_runs_out_of_memory(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, call, _ = CALLS[name]
    passes = [record.name for record in npas.report(call(make())).passes]
    assert {"analyse", "plan", "initialise"} <= set(passes)
    plain = Recorder.__call__
    for chosen in passes:
        for before in (True, False):
            error, model = FULL[kind](), make()
            snapshot = Snapshot(model)

            def run(
                self: Any, name: str, function: Any, *args: Any, error: Any = error, **kwargs: Any
            ) -> Any:
                if name == chosen and before:  # noqa: B023
                    raise error
                result = plain(self, name, function, *args, **kwargs)
                if name == chosen:  # noqa: B023
                    raise error
                return result

            with monkeypatch.context() as patch:
                patch.setattr(Recorder, "__call__", run)
                with pytest.raises(type(error)) as caught:
                    call(model)
            assert caught.value is error
            snapshot.check(rng=False, versions=name != "compile_")


class HungryNorm(nn.BatchNorm1d):
    """Its forward needs more than there is. For its hook a graph calls it as it is."""

    error: ClassVar[BaseException | None] = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.error is not None and not input.is_meta:
            raise self.error
        return super().forward(input)


class Hungry(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = HungryNorm(6)
        self.norm.register_forward_hook(_look)


FORWARDS: dict[str, Callable[[nn.Module], Any]] = {
    "comparing": lambda m: npas.compile(m, "60%", **SINGLE),
    "comparing what fx makes": lambda m: npas.compile(m, "60%", frontend="fx", **SINGLE),
    "running it once": lambda m: npas.compile(m, "60%", frontend="opaque", **SINGLE),
    "checking in place": lambda m: npas.compile_(m, "60%", **SINGLE),
    "calibrating": lambda m: npas.compile_(m, "60%", groups="single", calibrate=X),
    "weighing": lambda m: npas.fit(m, "90%", groups="single", batches=[X]),
}


@quiet
@every_error
@pytest.mark.parametrize("what", FORWARDS)
def test_a_forward_that_runs_out_of_memory_is_no_reason_for_anything(
    what: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another front end, an error about the inputs, or no check at all: that would be by chance."""
    torch.manual_seed(0)
    model, error = Hungry(), FULL[kind]()
    before = Snapshot(model)
    with monkeypatch.context() as patch:
        patch.setattr(HungryNorm, "error", error)
        with pytest.raises(type(error)) as caught:
            FORWARDS[what](model)
    assert caught.value is error
    before.check(rng=False, versions=what != "calibrating")
    assert state_of(FORWARDS[what](model)) is not None


# Files.


def _held(folder: Path) -> torch.Tensor:
    tensors = read_folder(folder).tensors
    return next(t for n, t in tensors.items() if n.endswith("theta"))


# A trace may raise between the opening of a file and the `with` that closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_is_stopped_at_any_line(tmp_path: Path) -> None:
    old, new = (npas.compile(net(), "60%", groups="single") for _ in range(2))
    with torch.no_grad():
        new.npas.banks.b0.theta.add_(1.0)
    thetas = [module.npas.banks.b0.theta.detach() for module in (old, new)]
    npas.save(old, tmp_path)
    chosen = points(lambda: npas.save(new, tmp_path), ("checkpoint.py", "saved.py"))
    assert len(chosen) > 40
    was_new = []
    for at in sample(chosen, 40):
        npas.save(old, tmp_path)
        before = Snapshot(new)
        if not _stop(lambda: npas.save(new, tmp_path), at, KeyboardInterrupt()):
            continue
        before.check()
        held = _held(tmp_path)
        was_new.append(torch.equal(held, thetas[1]))
        assert was_new[-1] or torch.equal(held, thetas[0]), at
        npas.save(new, tmp_path)
        assert torch.equal(_held(tmp_path), thetas[1])
        assert len(list(tmp_path.iterdir())) == 2, at
    assert set(was_new) == {True, False}


def test_a_load_that_is_stopped(tmp_path: Path) -> None:
    ssn = npas.compile(net(), "60%", groups="single")
    npas.save(ssn, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = net()
    npas.load(tmp_path, model)
    for i, at in enumerate(sample(points(lambda: npas.load(tmp_path, model)), 12)):
        before = Snapshot(model)
        if not _stop(lambda: npas.load(tmp_path, model), at, ERRORS[i % 2]()):
            continue
        before.check(rng=False)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
        loaded = npas.load(tmp_path, model).eval()
        assert torch.equal(loaded(X), ssn.eval()(X))


def test_a_search_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """Not by a signal, which waits for the end of a step, but at any line."""
    path = tmp_path / "search.pt"
    batches = [X + i for i in range(4)]
    model = net()

    def search() -> npas.Mapping:
        return npas.search(
            model,
            batches,
            lambda m, x: m(x).square().mean(),
            groups=2,
            templates=4,
            checkpoint=path,
        )

    whole = search()
    assert not path.exists()
    for at in sample(points(search, ("loop.py", "search.py", "state.py", "cluster.py")), 15):
        before = Snapshot(model)
        if not _stop(search, at, KeyboardInterrupt()):
            continue
        before.check()
        assert search().to_json() == whole.to_json()
        assert not path.exists()
