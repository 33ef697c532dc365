"""The checks of `benchmarks.starting` on small networks, and that they can fail."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import npas
from benchmarks import starting
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.starting import NETWORKS, Case, misses, run
from benchmarks.starting_measure import Network, compared, generator, measured, normal
from benchmarks.starting_plain import coefficients
from benchmarks.tables import read_markdown
from npas.bank import banks_of

pytestmark = pytest.mark.pure


def ids() -> tuple[torch.Tensor, ...]:
    return (torch.randint(100, (4, 32), generator=generator()),)


def small_bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    config = transformers.BertConfig(vocab_size=100, num_hidden_layers=3, **sizes)
    return transformers.BertModel(config, add_pooling_layer=False)


SMALL = {
    "pre-norm": Network(
        partial(transformer, vocab=100, dim=64, depth=10, max_len=32), ids, r"blocks\.\d+"
    ),
    "wrn": Network(partial(wrn, depth=16, width=1), normal(16, 3, 16, 16), r"group\d\.\d+"),
    "post-norm": Network(small_bert, ids, r"encoder\.layer\.\d", r".*\.output\.dense"),
}


@pytest.mark.parametrize(
    ("network", "groups", "budgets"),
    [
        ("pre-norm", "single", ("4%", "50%")),
        ("pre-norm", "auto", ("12%",)),
        ("pre-norm", "own", ("20%", "400%")),
        ("wrn", "single", ("4%", "100%")),
        ("wrn", "auto", ("12%",)),
        ("wrn", "own", ("400%",)),
        ("post-norm", "single", ("8%",)),
    ],
)
def test_small_networks_keep_what_is_promised(
    network: str,
    groups: str,
    budgets: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starting, "NETWORKS", SMALL)
    monkeypatch.setattr(starting, "KEPT", tmp_path / "rows.jsonl")
    cases = [Case(network, groups, budget) for budget in budgets]
    rows = run(cases)
    assert [row["budget"] for row in rows] == list(budgets)
    for row in rows:
        assert row["misses"] == "", row
        assert row.get("calibrated_inside", 1.0) < 1.02
    assert run(cases) == rows, "rows that are kept are not made again"


def test_what_is_measured_is_what_changed() -> None:
    network = SMALL["pre-norm"]
    torch.manual_seed(0)
    model = network.make()
    names = [layer.name for layer in npas.plan(model, "100%").layers]
    original = measured(model, network, names)
    assert len(original.activations) == len(original.gradients) == 10
    assert set(original.weight_gradients) == set(original.weights) == set(names)
    same = compared("same", measured(copy.deepcopy(model), network, names), original)
    assert all(value == 1 for value in same.values() if isinstance(value, float))
    # Kept weights are the original's, whose gradients are then the same too.
    own = npas.compile_(copy.deepcopy(model), "400%", groups="own", recompute=True)
    found = compared("own", measured(own, network, names), original)
    assert all(value < 1.001 for value in found.values() if isinstance(value, float)), found
    for bank in banks_of(own).values():
        if "blocks.3.down.weight" in bank.layer_names():
            bank.scale_gain("blocks.3.down.weight", 3.0)
    found = compared("own", measured(own, network, names), original)
    assert found["own_weights_at"] == "blocks.3.down.weight"
    assert found["own_weights"] == pytest.approx(3, rel=1e-3)
    assert found["own_weight_gradients"] > 2


def test_what_is_missed_is_named() -> None:
    row = {"shared": 0.5, "plain_weights": 1.06, "plain_activations": 3.0, "plain_gradients": 3.0}
    row |= {"calibrated_activations": 1.05, "calibrated_gradients": 2.5}
    assert misses(row) == ["plain weights", "calibrated gradients"]
    row |= {"shared": 0.0, "plain_weights": 1.0, "calibrated_gradients": 1.9}
    assert misses(row) == ["plain activations", "plain gradients"]


def test_coefficients_are_more_even_than_random_bases() -> None:
    for row in coefficients():
        assert row["bound"] - 1e-6 <= row["ours"] <= row["bases"] + 1e-6
        assert row["uneven"] < 0.02
        if row["k"] < row["layers"] <= 16 * row["k"]:
            assert row["ours"] < row["bases"] - 0.1


def test_the_committed_table_keeps_what_is_promised() -> None:
    page = Path(__file__).parents[2] / "docs" / "starting.md"
    rows = [row for row in read_markdown(page) if "misses" in row]
    compiled = [row for row in rows if row["banks"] != "-"]
    assert {row["network"] for row in compiled} == set(NETWORKS) and len(compiled) == 72
    assert {row["misses"] for row in compiled} == {"none"}
    for row in compiled:
        assert float(row["weights"]) < 1.05
        assert float(row["activations, calibrated"]) < 1.1
        assert float(row["gradients, calibrated"]) < 2
