"""The reference networks are registered with what others build on, and run.

What papers print of them is in `test_published`.
"""

import functools
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import npas
from benchmarks.networks import NETWORKS, REFERENCE, Network, example_inputs, network
from benchmarks.networks.bert import albert, bert
from benchmarks.networks.mlp import mlp
from benchmarks.networks.recurrent import recurrent
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn

pytestmark = pytest.mark.pure

#: name -> shape of the output for three samples; the first one, where there are several.
OUTPUT_SHAPES = {
    "mlp": (3, 10),
    "recurrent": (3, 10),
    "transformer": (3, 16, 1000),
    "wrn-16-1": (3, 10),
    "wrn-16-2": (3, 10),
    "wrn-28-10": (3, 10),
    "wrn-40-1": (3, 10),
    "wrn-40-2": (3, 10),
    "wrn-40-4": (3, 10),
    "wrn-40-10": (3, 10),
    "wrn-52-10": (3, 10),
    "wrn-76-12": (3, 10),
    "resnet-10": (3, 100),
    "resnet-34": (3, 100),
    "resnet-34-imagenet": (3, 1000),
    "resnet-56": (3, 10),
    "wrn-50-2": (3, 1000),
    "densenet-bc-100-12": (3, 10),
    "densenet-bc-190-40": (3, 10),
    "efficientnet-b0": (3, 1000),
    "efficientnet-nd": (3, 100),
    "efficientnet-nd-all": (3, 100),
    "embnet": (3, 512),
    "adapt-t2i": (3, 3),
    "simnet": (3, 30),
    "bert-base": (3, 384, 768),
    "bert-large": (3, 384, 1024),
    "albert-base": (3, 384, 768),
    "albert-large": (3, 384, 1024),
    "albert-base-unshared": (3, 384, 768),
    "albert-large-unshared": (3, 384, 1024),
}
#: Those of which one forward pass on the CPU takes well under a second.
CHEAP = (
    *("wrn-16-1", "wrn-40-1", "resnet-10", "resnet-56", "densenet-bc-100-12"),
    *("efficientnet-nd", "efficientnet-nd-all", "embnet", "adapt-t2i", "simnet"),
)
BERT = tuple(name for name in NETWORKS if NETWORKS[name].family == "bert")
FACTORS = (0.01, 0.1, 0.5, 1.0, 1.1, 2.0)


@functools.cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return found(name).make()


def found(name: str) -> Network:
    """Return a network, or skip the test where what it is made of is not installed."""
    if NETWORKS[name].family == "bert":
        pytest.importorskip("transformers")
    return NETWORKS[name]


def n_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output[0]  # of a tuple, or of an output of transformers


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def test_the_reference_networks_are_registered():
    assert set(REFERENCE) <= set(NETWORKS)
    assert set(OUTPUT_SHAPES) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_registry_says_where_a_count_is_from_and_which_family_it_is(name: str):
    spec = NETWORKS[name]
    assert spec.source
    assert spec.kind in ("conv", "linear", "recurrent", "transformer")
    assert name in import_module(f"benchmarks.networks.{spec.family}").NETWORKS


@pytest.mark.parametrize("name", NETWORKS)
def test_output_shape_on_meta(name: str):
    output = first(on_meta(name)(*example_inputs(name, batch=3, device="meta")))
    assert output.shape == OUTPUT_SHAPES[name]
    assert output.is_meta


@pytest.mark.parametrize("name", CHEAP)
def test_it_computes_and_learns(name: str):
    torch.manual_seed(0)
    model = found(name).make()
    outputs = model(*example_inputs(name, batch=3))
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.stack([(output + 1).square().mean() for output in outputs]).sum().backward()
    assert all(torch.isfinite(output).all() and output.std() > 0 for output in outputs)
    for parameter in model.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_at_a_tenth_is_within_its_budget(name: str):
    model = on_meta(name)
    plan = npas.plan(model, "10%")
    assert plan.n_params <= n_params(model) // 10


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BERT])
def test_npas_sees_all_of_it(name: str) -> None:
    report = npas.report(npas.compile(on_meta(name), "50%"))
    assert report.front_end == "fx" and report.visible == 1.0
    # The running statistics of a deconvolution are kept by a module of their own, without weights.
    assert all(leaf.endswith("whitening") for leaf in report.leaves)
    assert bool(report.leaves) == (NETWORKS[name].family == "efficientnet_nd")


@pytest.mark.parametrize("name", BERT)
def test_without_inputs_npas_calls_bert_as_it_is(name: str) -> None:
    assert npas.report(npas.compile(on_meta(name), "50%")).front_end == "opaque"


@pytest.mark.parametrize("make", [bert, albert, partial(albert, shared=False)])
def test_with_inputs_npas_sees_all_of_bert(make: Callable[..., nn.Module]) -> None:
    pytest.importorskip("transformers")
    with torch.device("meta"):
        model, ids = make(768, 2), torch.zeros(2, 16, dtype=torch.long)
    report = npas.report(npas.compile(model, "50%", example_inputs=(ids,)))
    assert report.front_end == "export" and report.visible == 1.0


@pytest.mark.parametrize("name", NETWORKS)
def test_scaled_by_one_it_is_the_network_and_it_grows_with_the_factor(name: str):
    scaled = found(name).scaled
    assert scaled is not None
    with torch.device("meta"):
        assert shapes(scaled(1.0)) == shapes(on_meta(name))
        counts = [n_params(scaled(factor)) for factor in FACTORS]
    assert all(less <= more for less, more in pairwise(counts))
    # At a tenth of the widths the weights between hidden layers are a hundredth.
    assert counts[1] < 0.3 * counts[3] and counts[3] < counts[4] < counts[5]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scaled_network_takes_the_same_inputs(name: str):
    scaled = found(name).scaled
    assert scaled is not None
    with torch.device("meta"):
        small = scaled(0.1)
    output = first(small(*example_inputs(name, batch=3, device="meta")))
    assert output.shape[:2] == OUTPUT_SHAPES[name][:2]


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].shallower])
def test_shallower_ones_grow_up_to_the_network(name: str):
    shallower = found(name).shallower
    with torch.device("meta"):
        models = [make() for make in sorted({*shallower[:2], shallower[-1]}, key=shallower.index)]
    models.append(on_meta(name))
    counts = [n_params(model) for model in models]
    assert all(less < more for less, more in pairwise(counts))
    output = first(models[0](*example_inputs(name, batch=3, device="meta")))
    assert output.shape == OUTPUT_SHAPES[name]


@pytest.mark.parametrize("name", REFERENCE)
def test_fx_traces_it_with_the_batch_left_open(name: str):
    traced = fx.symbolic_trace(on_meta(name))
    for batch in (1, 3):
        output = traced(*example_inputs(name, batch=batch, device="meta"))
        assert output.shape == (batch, *OUTPUT_SHAPES[name][1:])


@pytest.mark.parametrize("name", ["mlp", "recurrent", "transformer", "wrn-16-1"])
def test_traced_equals_eager(name: str):
    torch.manual_seed(0)
    model = NETWORKS[name].make().eval()
    inputs = example_inputs(name)
    with torch.no_grad():
        expected = model(*inputs)
        actual = fx.symbolic_trace(model)(*inputs)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_example_inputs_are_the_same_at_every_call():
    for name in REFERENCE:
        once, again = example_inputs(name), example_inputs(name)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_example_inputs_on_meta_have_the_shapes_of_those_on_the_cpu(name: str, batch: int):
    found(name)
    real, meta = (example_inputs(name, batch, device) for device in ("cpu", "meta"))
    assert [x.shape for x in real] == [x.shape for x in meta]
    assert [x.dtype for x in real] == [x.dtype for x in meta]
    assert all(x.is_meta and len(x) == batch for x in meta)


@pytest.mark.parametrize("take", [example_inputs, network])
def test_an_unknown_network_is_met_with_the_nearest_name(take: Any):
    with pytest.raises(KeyError, match="nearest: 'wrn-28-10'"):
        take("wrn28-10")


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
