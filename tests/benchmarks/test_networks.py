"""The reference networks are what their papers say they are."""

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

import npas
from benchmarks.networks import NETWORKS, example_inputs
from benchmarks.networks.mlp import mlp
from benchmarks.networks.recurrent import recurrent
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn

pytestmark = pytest.mark.pure

N_PARAMS = {
    "mlp": 932_362,
    "recurrent": 625_162,
    "transformer": 1_066_728,
    "wrn-16-1": 175_066,
    "wrn-16-2": 691_674,
    "wrn-28-10": 36_479_194,
}
OUTPUT_SHAPES = {
    "mlp": (3, 10),
    "recurrent": (3, 10),
    "transformer": (3, 16, 1000),
    "wrn-16-1": (3, 10),
    "wrn-16-2": (3, 10),
    "wrn-28-10": (3, 10),
}
MACS = {"wrn-16-1": 26_657_408, "wrn-28-10": 5_243_328_768}


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name]()


def n_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def test_every_network_is_listed_here():
    assert set(N_PARAMS) == set(OUTPUT_SHAPES) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_count(name: str):
    assert n_params(on_meta(name)) == N_PARAMS[name]


@pytest.mark.parametrize("name", MACS)
def test_multiply_accumulates_of_one_image(name: str):
    counted = macs(on_meta(name), *example_inputs(name, batch=1, device="meta"))
    assert counted == MACS[name]


def test_paper_figures():
    # Section 2 of the npas paper gives 26.7M for WRN-16-1; its tables give 36.5M for WRN-28-10.
    assert round(MACS["wrn-16-1"] / 1e6, 1) == 26.7
    assert round(N_PARAMS["wrn-28-10"] / 1e6, 1) == 36.5


@pytest.mark.parametrize("name", NETWORKS)
def test_output_shape_on_meta(name: str):
    output = on_meta(name)(*example_inputs(name, batch=3, device="meta"))
    assert output.shape == OUTPUT_SHAPES[name]
    assert output.is_meta


@pytest.mark.parametrize("name", NETWORKS)
def test_fx_traces_it_with_the_batch_left_open(name: str):
    traced = fx.symbolic_trace(on_meta(name))
    for batch in (1, 3):
        output = traced(*example_inputs(name, batch=batch, device="meta"))
        assert output.shape == (batch, *OUTPUT_SHAPES[name][1:])


@pytest.mark.parametrize("name", ["mlp", "recurrent", "transformer", "wrn-16-1"])
def test_traced_equals_eager(name: str):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    inputs = example_inputs(name)
    with torch.no_grad():
        expected = model(*inputs)
        actual = fx.symbolic_trace(model)(*inputs)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_example_inputs_are_the_same_at_every_call():
    for name in NETWORKS:
        first, second = example_inputs(name), example_inputs(name)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_unknown_network():
    with pytest.raises(KeyError, match="wrn-28-10"):
        example_inputs("wrn-99-1")


def test_wrn_starts_from_hes_initialisation():
    torch.manual_seed(0)
    weight = wrn(depth=10, width=4).group3[0].get_parameter("conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_wrn_projects_only_where_the_shape_changes():
    with torch.device("meta"):
        shortcuts = {n for n, _ in wrn(16, 1).named_modules() if n.endswith("shortcut")}
        widened = {n for n, _ in wrn(16, 2).named_modules() if n.endswith("shortcut")}
    assert shortcuts == {"group2.0.shortcut", "group3.0.shortcut"}
    assert widened == {"group1.0.shortcut", *shortcuts}


@pytest.mark.parametrize("depth", [4, 17, 27])
def test_wrn_refuses_a_depth_it_cannot_have(depth: int):
    with pytest.raises(ValueError, match="6n \\+ 4"):
        wrn(depth, 1)


@pytest.mark.parametrize("depth", [1, 2, 1000])
def test_mlp_has_as_many_linear_layers_as_asked(depth: int):
    with torch.device("meta"):
        model = mlp(depth, width=16, in_features=8, num_classes=4)
    assert sum(isinstance(m, nn.Linear) for m in model) == depth
    assert model(torch.empty(5, 8, device="meta")).shape == (5, 4)


def test_mlp_refuses_to_be_empty():
    with pytest.raises(ValueError, match="depth"):
        mlp(0)


@pytest.mark.parametrize("n_tokens", [1, 7, 128])
def test_transformer_traced_takes_any_length(n_tokens: int):
    with torch.device("meta"):
        traced = fx.symbolic_trace(transformer())
        ids = torch.zeros(2, n_tokens, dtype=torch.long)
    assert traced(ids).shape == (2, n_tokens, 1000)


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_transformer_hides_later_tokens(causal: bool):
    torch.manual_seed(0)
    model = transformer(vocab=50, dim=32, depth=2, heads=2, max_len=8, causal=causal).eval()
    ids = torch.arange(8).unsqueeze(0)
    changed = ids.clone()
    changed[0, -1] = 40
    with torch.no_grad():
        before, after = model(ids)[:, :-1], model(changed)[:, :-1]
    assert torch.allclose(before, after, atol=1e-6) is causal


def test_transformer_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="heads: got 3"):
        transformer(heads=3)


def test_recurrent_with_lstm():
    with torch.device("meta"):
        model = recurrent(cell="lstm")
        output = model(torch.zeros(2, 5, dtype=torch.long))
    assert n_params(model) == 790_026
    assert output.shape == (2, 10)


def test_recurrent_refuses_another_cell():
    with pytest.raises(ValueError, match="gru, lstm"):
        recurrent(cell="rnn")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", NETWORKS)
def test_npas_sees_all_of_it(name: str) -> None:
    report = npas.report(npas.compile(on_meta(name), "50%"))
    assert report.front_end == "fx" and report.visible == 1.0 and not report.leaves
