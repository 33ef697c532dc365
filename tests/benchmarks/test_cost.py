"""What a step costs: every method has its numbers, and memory is counted by its kind."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import npas
from benchmarks import cost as command
from benchmarks.ledger import cost
from benchmarks.ledger.cost import QUICK, cases_of, rows_of, sections, slower
from benchmarks.ledger.cost_memory import Held, intervals, peak_of, step_memory
from benchmarks.ledger.cost_methods import METHODS, one_by_one, probe_loss, same
from benchmarks.ledger.plots import step_memory_plot, step_time_plot
from benchmarks.networks.wrn import wrn
from benchmarks.peers.naive import Naive, naive
from benchmarks.runner import Times
from benchmarks.tables import table_lines
from benchmarks.traffic import Change, Memory
from benchmarks.training import Step
from npas.bank import banks_of

pytestmark = pytest.mark.pure

FIELDS = {
    *("network", "kind", "budget", "asked", "method", "params", "batch", "step_ms", "step_spread"),
    *("optimizer_ms", "eval_ms", "generation_ms", "to_npas", "to_dense", "npas_slower"),
    *("weights_bytes", "gradients_bytes", "optimizer_bytes", "saved_bytes", "temporaries_bytes"),
    *("peak_bytes", "rounds", "seed", "minimum", "note"),
}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return the rows of both quick cases."""
    return [row for case in cases_of(QUICK, 2) for row in case.run()]


def measured(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["step_ms"] is not None]


def test_rows_have_every_field_and_method(rows: list[Row]) -> None:
    assert {frozenset(row) for row in rows} == {frozenset(FIELDS)}
    for setting in QUICK:
        own = [row for row in rows if row["network"] == setting.name]
        assert sorted(row["method"] for row in own) == sorted(METHODS)
    assert {r["method"] for r in rows if r["step_ms"] is None} == {"soft_sharing", "hypernetwork"}
    json.dumps(rows)


def test_methods_have_at_most_what_was_asked(rows: list[Row]) -> None:
    for row in measured(rows):
        if row["method"] == "dense":
            assert row["asked"] < row["params"]
        else:
            assert 0.9 * row["asked"] < row["params"] <= row["asked"]
    for setting in QUICK:
        same_plan = {"npas", "npas-layer", "npas-bank", "parametrize"}
        own = [r for r in rows if r["network"] == setting.name and r["method"] in same_plan]
        assert len(own) == 4 and len({r["params"] for r in own}) == 1


def test_what_cannot_be_had_says_its_minimum(rows: list[Row]) -> None:
    absent = {(r["network"], r["method"]): r for r in rows if r["step_ms"] is None}
    shared = absent["wrn-16-1", "soft_sharing"]
    assert shared["minimum"] > shared["asked"] and "its minimum is" in shared["note"]
    assert absent["embnet-small", "hypernetwork"]["minimum"] is None
    assert all(
        row["params"] is row["peak_bytes"] is row["to_npas"] is None for row in absent.values()
    )


def test_memory_by_kind_adds_up(rows: list[Row]) -> None:
    for row in measured(rows):
        own = 4 * row["params"]
        assert row["weights_bytes"] == row["gradients_bytes"] == own
        # Two moments, and a count of steps for each tensor.
        assert 2 * own < row["optimizer_bytes"] < 2 * own + 4 * 200
        standing = row["weights_bytes"] + row["optimizer_bytes"]
        assert row["peak_bytes"] >= standing + max(row["saved_bytes"], row["gradients_bytes"])
        moving = row["gradients_bytes"] + row["saved_bytes"] + row["temporaries_bytes"]
        # What the forward pass returns is of no kind.
        assert row["peak_bytes"] <= standing + moving + 4096


def test_no_more_than_the_weights_is_saved(rows: list[Row]) -> None:
    """Those of a small network are kept; parametrize keeps what they are made from too."""
    saved = {r["method"]: r["saved_bytes"] for r in measured(rows) if r["network"] == "wrn-16-1"}
    assert saved["dense"] < saved["npas"] == saved["npas-bank"] < saved["parametrize"]
    assert saved["npas-layer"] <= 1.05 * saved["dense"] and saved["npas-layer"] < saved["npas"]


def test_generation_is_timed_where_there_is_one(rows: list[Row]) -> None:
    for row in measured(rows):
        assert (row["generation_ms"] is None) == (row["method"] in ("dense", "reduced_width"))


def test_ratios_are_of_the_rounds_and_to_npas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are given here: 2 ms for npas, 3 for the others, in a round that is slow 20 and 15."""

    def given(variants: dict[str, Callable[[], object]], *_: Any) -> Times:
        for call in variants.values():
            call()
        return Times({n: [2, 2, 20] if n == "npas" else [3, 3, 15] for n in variants})

    monkeypatch.setattr(cost, "paired", given)
    found = {row["method"]: row for row in rows_of(QUICK[1], "50%", 3)}
    assert found["npas"]["to_npas"] == found["dense"]["to_dense"] == 1
    assert found["parametrize"]["to_npas"] == 1.5 and found["parametrize"]["to_dense"] == 1
    assert found["npas"]["to_dense"] == pytest.approx(2 / 3)
    assert found["parametrize"]["npas_slower"] == 1 and found["npas"]["npas_slower"] == 0
    assert found["npas"]["step_ms"] == 2 and found["dense"]["eval_ms"] == 3


def test_rivals_that_are_faster_are_named(rows: list[Row]) -> None:
    changed = [
        row
        | {"to_npas": 0.5 if row["method"] in ("parametrize", "reduced_width") else 1.5}
        | {"npas_slower": 15 if row["budget"] == "50%" else 9, "rounds": 15}
        for row in rows
    ]
    # To be smaller and faster is what reduced_width is for.
    assert {row["method"] for row in slower(measured(changed))} == {"parametrize"}
    certain, _, rest = sections(changed)[0].note.partition("Not resolved")
    for row in slower(measured(changed)):
        said = f"{row['network']} (batch {row['batch']}, {row['budget']}) parametrize 0.500"
        assert said in (certain if row["budget"] == "50%" else rest)
    fast = [row | {"to_npas": 1.5} for row in rows]
    assert "at 5%: none. Not resolved: none." in sections(fast)[0].note


def test_tables_and_pictures_hold_every_row(rows: list[Row]) -> None:
    time, memory, absent = sections(rows)
    n_measured = len(measured(rows))
    assert len(table_lines(time)) == len(table_lines(memory)) == 2 + n_measured
    assert len(time.rows) + len(absent.rows) == len(rows)
    figure = step_time_plot(rows)
    points = sum(len(line.get_xdata()) for line in figure.axes[0].lines) - 2  # the line at 1
    assert points == n_measured - len(QUICK)  # the dense network is the line
    bars = step_memory_plot(rows).axes
    assert len(bars) == len(QUICK)
    for panel, setting in zip(bars, QUICK, strict=True):
        own = [r for r in measured(rows) if r["network"] == setting.name]
        assert len(panel.patches) == 5 * len(own)
        drawn = sum(patch.get_width() for patch in panel.patches)
        kinds = ("weights", "gradients", "optimizer", "saved", "temporaries")
        assert drawn == pytest.approx(sum(r[f"{k}_bytes"] for r in own for k in kinds) / 1e6)


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in cases_of()]
    assert len(names) == len(set(names)) and not any("/" in name or " " in name for name in names)
    assert [c.name for c in cases_of(QUICK, 2, ["10%"])] == []


class Chain(nn.Module):
    """Two linear layers without bias, whose memory is known."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(50, 50, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_memory_of_a_known_network() -> None:
    module, x = Chain(), torch.randn(30, 50)
    step = Step(module, lambda: module(x).sum())
    step()
    found = step_memory(module, step, (x,))
    weight, activation = 50 * 50 * 4, 30 * 50 * 4
    assert found["weights_bytes"] == found["gradients_bytes"] == 2 * weight
    assert found["optimizer_bytes"] == 4 * weight + 2 * 4
    assert found["saved_bytes"] == activation
    # The gradient of the output is a number that is expanded.
    assert activation <= found["temporaries_bytes"] <= 2 * activation + 100
    assert all(parameter.grad is None for parameter in module.parameters())


def test_memory_is_held_from_when_it_is_given() -> None:
    changes = [(1, 7, 10), (2, 8, 5), (3, 7, -10), (4, 7, 4), (5, 99, -1000), (6, 8, -5)]
    held = intervals(Memory([Change(*change) for change in changes], {}))
    assert set(held) == {Held(10, 1, 3), Held(5, 2, 6), Held(4, 4, float("inf"))}
    assert peak_of(held) == 15
    assert peak_of([Held(3, 0, 1), Held(3, 1, 2)]) == 3
    assert peak_of([]) == 0


def pair(budget: str) -> tuple[Any, Any, Naive, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    module = wrn(10, 1)
    plan = npas.plan(module, budget)
    ssn = npas.compile(module, plan=plan)
    bank = npas.compile(module, plan=plan, schedule="bank", recompute=False)
    bank.load_state_dict(ssn.state_dict())
    made = naive(module, plan)
    made.copy_from(ssn)
    return ssn, bank, made, (torch.randn(2, 3, 8, 8),)


def broken_alpha(ssn: Any, bank: Any, made: Naive) -> None:
    own = next(own for own in made.own.values() if own.numel())
    own.data.mul_(1.01)


def broken_bank(ssn: Any, bank: Any, made: Naive) -> None:
    next(iter(banks_of(bank).values())).theta.data[0].add_(0.1)


def broken_gradient(ssn: Any, bank: Any, made: Naive) -> None:
    weight = next(iter(made.weights.values()))
    weight.register_forward_hook(lambda module, args, out: out + 0.01 * (out - out.detach()))


@pytest.mark.parametrize("broken", [None, broken_alpha, broken_bank, broken_gradient])
def test_what_is_not_the_same_is_not_measured(broken: Callable[..., None] | None) -> None:
    ssn, bank, made, inputs = pair("50%")
    if broken is None:
        before = {name: value.clone() for name, value in ssn.state_dict().items()}
        same(ssn, (bank,), made, inputs)
        assert all(torch.equal(value, before[name]) for name, value in ssn.state_dict().items())
        return
    broken(ssn, bank, made)
    with pytest.raises(AssertionError):
        same(ssn, (bank,), made, inputs)


def test_one_by_one_makes_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    ssn, *_ = pair("50%")
    make = one_by_one(ssn)
    asked: list[str] = []
    for bank in banks_of(ssn).values():
        bank.register_forward_pre_hook(lambda module, args: asked.extend(args))
    make()
    assert sorted(asked) == sorted(n for b in banks_of(ssn).values() for n in b.layer_names())


def test_the_loss_reaches_an_output_of_length_one() -> None:
    module = nn.Linear(4, 4)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(nn.Linear.forward(module, x), dim=-1)

    module.forward = normalised  # pyright: ignore
    probe_loss(module, (torch.randn(3, 4),)).backward()
    assert module.weight.grad is not None and module.weight.grad.abs().max() > 1e-3


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, what in (
        (["--network", "wrn"], "no network"),
        (["--rounds", "1"], "at least 2"),
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert what in capsys.readouterr().err


def test_the_command_prints_json_alone(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--json", "--rounds", "2", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert command.main([*arguments, "--network", "embnet-small"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capfd.readouterr().out)["rows"]
    assert {row["method"] for row in found} == set(METHODS)
    assert all(row["threads"] == 1 and row["rounds"] == 2 for row in found)
