"""What is counted from a plan is what the compiled model does."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import npas
from benchmarks.networks.recurrent import recurrent
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from npas.counting_view import count_json

pytestmark = pytest.mark.pure


class Tied(nn.Module):
    """An embedding whose weight is also the head's, which needs all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.embedding(ids)))


class Placed(nn.Module):
    """Looks up positions once for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16, padding_idx=0), nn.Embedding(9, 16)
        self.fc = nn.Linear(16, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.fc(self.words(ids) + self.places(places[None]))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (lambda: wrn(10, 1), (3, 8, 8)),
    "transformer": (lambda: transformer(vocab=100, dim=32, depth=2, max_len=8), (8,)),
    "recurrent": (lambda: recurrent(vocab=100, dim=16, hidden=16), (5,)),
    "tied": (Tied, (7,)),
    "placed": (Placed, (7,)),
}


def inputs(name: str, batch: int) -> torch.Tensor:
    sizes = NETWORKS[name][1]
    if len(sizes) == 3:
        return torch.zeros(batch, *sizes, device="meta")
    return torch.zeros(batch, *sizes, dtype=torch.int64, device="meta")


def macs(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        ("20%", {}),
        ("20%", {"upsample": "inter"}),
        ("60%", {"groups": "single"}),
        ("100%", {"groups": "single", "downsample": "emb"}),
        ("100%", {"groups": "own"}),
        ("3x", {}),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_counted_equals_what_runs(name: str, budget: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = NETWORKS[name][0]()
    plan = npas.plan(model, budget, **options)
    ssn = npas.compile(model, plan=plan)
    for batch in (1, 3):
        x = inputs(name, batch)
        found = npas.count(model, plan, (inputs(name, 2),))
        assert found.macs is not None and found.macs == macs(model, x) // batch
        assert macs(ssn.train(), x) == batch * (found.macs + found.generation(batch, "train"))
        ssn.eval()
        with torch.no_grad():
            ssn(x)
            assert macs(ssn, x) == batch * (found.macs + found.generation(batch, "eval"))
        assert macs(npas.materialize(ssn), x) == batch * found.macs


def test_the_formula_is_generation_where_weights_are_made_whole() -> None:
    with torch.device("meta"):
        model = wrn(10, 2)
    for budget in ("2%", "30%", "2x"):
        plan = npas.plan(model, budget, groups="single")
        found = npas.count(model, plan, (torch.zeros(1, 3, 8, 8),))
        assert found.generation() == found.formula == sum(max(1, x.k) * x.n for x in plan.layers)
        assert found.overhead() == found.formula / (found.macs or 0)
        assert found.overhead(64) == pytest.approx((found.overhead() or 0) / 64)
        assert found.overhead(mode="eval") == 0


def test_one_input_stands_for_itself() -> None:
    model = nn.Linear(8, 8)
    plan, x = npas.plan(model, "80%"), torch.zeros(1, 8)
    assert npas.count(model, plan, x) == npas.count(model, plan, (x,))
    with pytest.raises(npas.NpasError, match="example_kwargs must be a dict"):
        npas.count(model, plan, x, [x])  # pyright: ignore[reportArgumentType]


def test_without_inputs_only_generation_is_counted() -> None:
    model = Tied()
    found = npas.count(model, npas.plan(model, "50%"))
    assert found.macs is None and found.overhead() is None and found.generation_macs > 0
    found_json = count_json(found, [1])
    assert [row["total_macs"] for row in found_json["rows"]] == [None, None]


def test_parameters_add_up() -> None:
    model = transformer(vocab=100, dim=32, depth=2)
    every: list[dict[str, Any]] = [{}, {"downsample": "emb", "groups": "single"}, {"k": 2}]
    for options in every:
        plan = npas.plan(model, "20%", **options)
        assert sum(plan.params.values()) == plan.n_params


def test_a_plan_of_another_model_is_refused() -> None:
    plan = npas.plan(wrn(10, 1), "50%")
    with pytest.raises(npas.PlanError, match="stem"):
        npas.count(Tied(), plan)


def test_a_model_that_looks_at_values_is_refused_with_the_way_out() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if x.sum() > 0 else self.b(x)

    model = Looks()
    plan = npas.plan(model, "60%")
    with pytest.raises(npas.NpasError, match="leave out the inputs"):
        npas.count(model, plan, (torch.ones(1, 8),))
    assert npas.count(model, plan).generation_macs > 0


def test_an_unknown_mode() -> None:
    model = Tied()
    with pytest.raises(npas.NpasError, match="eval"):
        npas.count(model, npas.plan(model, "50%")).generation(1, "evaluate")


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_batches_that_cannot_be(batch: Any) -> None:
    model = Tied()
    found = npas.count(model, npas.plan(model, "50%"))
    with pytest.raises(npas.NpasError, match="batch"):
        found.generation(batch)
