from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import npas
from npas.errors import NpasError
from npas.passes.macs import watch

pytestmark = pytest.mark.pure


def macs(model: nn.Module, *inputs: torch.Tensor, **kwargs: Any) -> dict[str, int | None]:
    names = [name for name, p in model.named_parameters() if p.dim() >= 2]
    run = watch(model, names, inputs, kwargs)
    return dict.fromkeys(names) if run is None else {name: run.uses[name].macs for name in names}


def test_linear_is_in_times_out_per_row() -> None:
    assert macs(nn.Linear(3, 5), torch.randn(7, 3)) == {"weight": 15}
    # Positions of a sequence are not samples.
    assert macs(nn.Linear(3, 5), torch.randn(7, 4, 3)) == {"weight": 60}
    assert macs(nn.Linear(3, 5, bias=False), torch.randn(1, 3)) == {"weight": 15}


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        # out positions x out channels x in channels / groups x taps
        (lambda: nn.Conv1d(2, 3, 5), (4, 2, 9), 5 * 3 * 2 * 5),
        (lambda: nn.Conv2d(2, 3, 3, padding=1), (4, 2, 8, 6), 48 * 3 * 2 * 9),
        (lambda: nn.Conv2d(2, 3, 3, stride=2), (4, 2, 9, 9), 16 * 3 * 2 * 9),
        (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 4, 5, 5), 25 * 4 * 1 * 9),
        (lambda: nn.Conv3d(2, 3, 2), (4, 2, 3, 3, 3), 8 * 3 * 2 * 8),
        # A transposed convolution multiplies every input by every tap of every output channel.
        (lambda: nn.ConvTranspose2d(2, 3, 4, stride=2), (4, 2, 5, 5), 25 * 2 * 3 * 16),
    ],
)
def test_convolutions(make: Callable[[], nn.Module], shape: tuple[int, ...], expected: int) -> None:
    assert macs(make(), torch.randn(shape)) == {"weight": expected}


def test_lstm() -> None:
    n_in, hidden, steps = 3, 5, 7
    model = nn.LSTM(n_in, hidden, batch_first=True)
    assert macs(model, torch.randn(4, steps, n_in)) == {
        "weight_ih_l0": steps * 4 * hidden * n_in,
        "weight_hh_l0": steps * 4 * hidden * hidden,
    }


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.RNN, 1)])
def test_other_recurrent_layers_in_two_layers_and_both_directions(
    kind: type[nn.GRU] | type[nn.RNN], gates: int
) -> None:
    steps, hidden = 6, 5
    model = kind(3, hidden, num_layers=2, bidirectional=True, batch_first=True)
    expected: dict[str, int] = {}
    for layer, n_in in ((0, 3), (1, 2 * hidden)):
        for end in ("", "_reverse"):
            expected[f"weight_ih_l{layer}{end}"] = steps * gates * hidden * n_in
            expected[f"weight_hh_l{layer}{end}"] = steps * gates * hidden * hidden
    assert macs(model, torch.randn(4, steps, 3)) == expected


def test_cell() -> None:
    model = nn.LSTMCell(3, 5)
    assert macs(model, torch.randn(4, 3)) == {"weight_ih": 4 * 5 * 3, "weight_hh": 4 * 5 * 5}


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mha(x, x, x)[0]


@pytest.mark.parametrize("mode", [True, False])
def test_attention_projections(mode: bool) -> None:
    steps = 5
    assert macs(Attends().train(mode), torch.randn(4, steps, 6)) == {
        "mha.in_proj_weight": steps * 18 * 6,
        "mha.out_proj.weight": steps * 6 * 6,
    }


@pytest.mark.parametrize("mode", [True, False])
def test_transformer_encoder_does_not_take_its_fused_path(mode: bool) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(mode)
    found = macs(model, torch.randn(4, 5, 6))
    for i in range(2):
        assert found[f"layers.{i}.self_attn.in_proj_weight"] == 5 * 18 * 6
        assert found[f"layers.{i}.self_attn.out_proj.weight"] == 5 * 36
        assert found[f"layers.{i}.linear1.weight"] == 5 * 60
        assert found[f"layers.{i}.linear2.weight"] == 5 * 60


def test_bilinear() -> None:
    found = macs(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4))
    assert found == {"weight": 3 * 4 * 5}


def test_a_lookup_costs_nothing() -> None:
    assert macs(nn.Embedding(9, 4), torch.zeros(2, 3, dtype=torch.int64)) == {"weight": 0}
    assert macs(nn.EmbeddingBag(9, 4), torch.zeros(2, 3, dtype=torch.int64)) == {"weight": 0}


def test_tied_and_repeated_uses_add_up() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)
            self.fc = nn.Linear(4, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.fc(self.fc(self.embedding(ids)))
            return F.linear(x, self.embedding.weight)

    ids = torch.zeros(2, 3, dtype=torch.int64)
    assert macs(Tied(), ids) == {"embedding.weight": 3 * 36, "fc.weight": 2 * 3 * 16}


def test_views_of_a_weight_count_for_it() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 4))
            self.stack = nn.Parameter(torch.randn(2, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.w.chunk(2)
            x = x @ left.t() + x @ right.t()
            return x @ self.stack[1]

    assert macs(Views(), torch.randn(5, 4)) == {"w": 2 * 12, "stack": 9}


def test_keyword_inputs_and_the_batch_of_the_first_tensor() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor, scale: float, y: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * scale + self.fc(y)

    assert macs(Two(), torch.randn(4, 3), scale=2.0, y=torch.randn(4, 3)) == {"fc.weight": 30}


def test_a_model_that_needs_values_has_no_count() -> None:
    class Valued(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if float(x.sum()) > 0 else x

    assert macs(Valued(), torch.randn(2, 3)) == {"fc.weight": None}
    model = nn.Sequential(nn.Linear(3, 3), Valued())
    plan = npas.plan(model, "200%", example_inputs=(torch.randn(2, 3),))
    assert plan.n_macs is None


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NpasError, match=r"example inputs do not run through Linear: RuntimeError"):
        macs(nn.Linear(3, 5), torch.randn(2, 4))


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    macs(model, torch.randn(4, 2, 5))
    assert model.training and model[1].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_double_and_half_models_count_the_same() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = nn.Linear(3, 5).to(dtype)
        assert macs(model, torch.randn(2, 3, dtype=dtype)) == {"weight": 15}


def test_the_plan_carries_the_counts() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    plan = npas.plan(model, 3.0, example_inputs=(torch.randn(2, 3),))
    assert [layer.macs for layer in plan.layers] == [15, 10]
    assert plan.n_macs == 25
    assert npas.plan(model, 3.0).n_macs is None
