"""Kernels of two networks, paired one to one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.filters import LAYERS, NETWORKS, SHOWN, compare, draw, kernels, pair
from benchmarks.quality.networks import network

pytestmark = pytest.mark.pure


def test_kernels_that_were_shuffled_are_found_again() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 5, 3, 3)
    order = torch.randperm(20)
    shuffled = weight.flatten(0, 1)[order].view(4, 5, 3, 3) * 3
    partners, cosines = pair(kernels(weight), kernels(shuffled))
    assert np.array_equal(order.numpy()[partners], np.arange(20))
    assert cosines == pytest.approx(np.ones(20))


def test_of_many_kernels_evenly_spaced_ones_are_paired() -> None:
    torch.manual_seed(0)
    one = kernels(torch.randn(10, 10, 3, 3))
    partners, cosines = pair(one, one, most=10)
    assert partners.tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99] and min(cosines) > 0.999


def test_networks_are_compared_layer_by_layer_and_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = network("wrn-16-2").make().state_dict()
    weights = {
        name: {place: state[layer] for place, layer in LAYERS.items()}
        | ({"last": torch.randn_like(state[LAYERS["last"]])} if "bank" in name else {})
        for name in NETWORKS
    }
    rows = compare(weights)
    assert [row["place"] for row in rows] == list(LAYERS)
    assert all(row["dense, another seed"] == 1 for row in rows)
    assert rows[0]["one bank at 100%"] == 1 > rows[-1]["one bank at 100%"]
    for path in (tmp_path / "a.svg", tmp_path / "b.svg"):
        draw(weights, path)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text().count("<image") == 2 * len(LAYERS) * SHOWN
