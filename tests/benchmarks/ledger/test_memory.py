"""Bytes of training: what is expected, what is counted, and the tables of both."""

import pytest
import torch

from benchmarks.ledger import full_size, memory
from benchmarks.networks.transformer import transformer
from benchmarks.training import saved_bytes

pytestmark = pytest.mark.pure


def row(budget: str, params: int, steady: int, peak: int) -> dict[str, object]:
    return {
        "network": memory.NETWORK,
        "budget": budget,
        "activations": "kept",
        "params": params,
        "steady_bytes": steady,
        "peak_bytes": peak,
    }


def test_what_is_saved_is_compared_with_four_numbers_a_parameter() -> None:
    rows = [row("dense", 1000, 20_000, 30_000), row("10%", 100, 5_600, 17_040)]
    found = memory.saving(rows[1], rows)
    assert found["expected"] == 16 * 900
    assert found["steady"] == 1.0 and found["peak"] == pytest.approx(0.9)
    assert memory.saving(rows[0], rows) == rows[0]
    other = dict(rows[1], activations="made again")
    assert "expected" not in memory.saving(other, [*rows, other])


def test_the_peak_can_be_forgotten() -> None:
    block = torch.ones(1 << 25)
    high = memory.peak()
    del block
    memory.forget_peak()
    assert memory.peak() < high and memory.resident() <= memory.peak()


def test_saved_bytes_on_meta_tensors_are_those_on_real_ones() -> None:
    ids = torch.randint(1000, (2, 16))
    real = transformer(depth=2)
    with torch.device("meta"):
        meta = transformer(depth=2)
    # The loss of benchmarks.training keeps the output, to square it.
    expected = saved_bytes(real, ids) - 4 * real(ids).numel()
    assert full_size.saved_bytes(real, ids) == expected
    # On meta tensors attention runs as its mathematical definition, which keeps more.
    assert full_size.saved_bytes(meta, ids.to("meta")) >= expected


def test_full_size_counts_sixteen_bytes_a_parameter() -> None:
    (found,) = full_size.rows_of("wrn-16-1", "10%", "wrn-16-2")
    assert found["dense"] == 691_674 and found["params"] <= 17_507
    assert found["saved_bytes"] == 16 * (found["dense"] - found["params"])
    assert (
        found["weight_bytes"] + found["gradient_bytes"] + found["adam_bytes"]
        == 16 * found["params"]
    )
    shares = list(found["of_total"].values())
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] < 1
