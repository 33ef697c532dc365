"""The model of step times against what can be worked out by hand, and against its two points."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import npas
from benchmarks.scale.machines import V100
from benchmarks.scale.prediction import PUBLISHED, published
from benchmarks.scale.step_time import (
    BUCKET,
    FIRST_BUCKET,
    Gradient,
    backward,
    buckets,
    compiled_gradients,
    ddp_step,
    dense_gradients,
    fsdp_step,
    generated_bytes,
    half_ring,
    overlapped,
    ring,
    segmented_gradients,
)

#: A machine on which a byte takes a second, and everything else nothing.
PLAIN = replace(
    V100, network=1.0, reached=1.0, near=0.0, far=0.0, start=0.0, memory=1.0, memory_reached=1.0
)
FREE = replace(PLAIN, contention=0.0)


def plan_of(budget: str, **how: object) -> npas.Plan:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
    return npas.plan(model, budget, example_inputs=(torch.zeros(1, 8),), **how)  # type: ignore


def test_a_ring_passes_every_byte_twice_but_its_own_part() -> None:
    assert ring(PLAIN, 4, 8.0) == pytest.approx(2 * 8 * 3 / 4)
    assert half_ring(PLAIN, 4, 8.0) == pytest.approx(8 * 3 / 4)
    hops = replace(PLAIN, near=1.0, far=10.0, start=100.0)
    # Two nodes of eight: 15 steps, 2 of them between the nodes.
    assert half_ring(hops, 16, 0.0) == pytest.approx(100 + 13 + 20)
    assert ring(hops, 16, 0.0) == pytest.approx(100 + 2 * 33)
    assert half_ring(hops, 8, 0.0) == pytest.approx(100 + 7)


def test_what_is_ready_at_the_end_is_exposed_and_what_is_ready_at_once_is_hidden() -> None:
    n_bytes = 4.0  # 6 seconds on 4 ranks
    assert backward(FREE, 4, 10.0, [Gradient(1.0, n_bytes)]) == pytest.approx(16)
    assert backward(FREE, 4, 10.0, [Gradient(0.0, n_bytes)]) == pytest.approx(10)
    assert backward(FREE, 4, 10.0, [Gradient(0.5, n_bytes)] * 2) == pytest.approx(5 + 12)
    assert backward(FREE, 4, 10.0, []) == 10


def test_work_beside_a_collective_is_slower() -> None:
    # 6 seconds in which 4.5 are worked, then 5.5 more.
    assert backward(PLAIN, 4, 10.0, [Gradient(0.0, 4.0)]) == pytest.approx(6 + 5.5)
    assert overlapped(PLAIN, 10.0, 6.0) == pytest.approx(11.5)
    assert overlapped(PLAIN, 1.0, 6.0) == 6


def test_buckets_are_those_of_ddp() -> None:
    found = buckets(Gradient(i / 8, 2**20) for i in range(60))
    assert found[0].n_bytes == FIRST_BUCKET
    assert found[1] == Gradient(25 / 8, BUCKET)
    assert sum(bucket.n_bytes for bucket in found) == 60 * 2**20
    whole = buckets([Gradient(0.5, 100 * 2**20), Gradient(0.7, 1.0)])
    assert [bucket.ready for bucket in whole] == [0.5, 0.7]


def test_gradients_of_layers_come_in_turn_and_that_of_a_bank_at_the_end() -> None:
    plan = plan_of("50%", groups="single")
    dense = dense_gradients(plan)
    assert [gradient.ready for gradient in dense] == [0.25, 0.5, 0.75, 1.0]
    assert sum(gradient.n_bytes for gradient in dense) == 4 * plan.n_dense
    (bank,) = compiled_gradients(plan)
    assert bank == Gradient(1.0, 4 * plan.n_params)
    two = plan_of(
        "60%", groups={"0.weight": "a", "1.weight": "a", "2.weight": "b", "3.weight": "b"}
    )
    assert [gradient.ready for gradient in compiled_gradients(two)] == [0.5, 1.0]


def test_pieces_of_a_bank_are_ready_when_their_last_layer_is() -> None:
    plan = plan_of("100%", groups="single", k=1)
    ready = {layer.base: i for i, layer in enumerate(reversed(plan.layers))}
    found = segmented_gradients(plan, segment=64)
    assert [gradient.ready for gradient in found] == [
        0.25 * (i + 1) for i in sorted(ready.values())
    ]
    whole = segmented_gradients(plan, segment=10**6)
    assert [gradient.ready for gradient in whole] == [1.0]


@pytest.mark.parametrize(("budget", "k"), [("50%", 1), ("60%", 2)])
def test_generation_reads_templates_and_adds_up_their_gradients(budget: str, k: int) -> None:
    plan = plan_of(budget, groups="single", k=2)
    assert [layer.k for layer in plan.layers] == [k] * 4
    # Forward k windows are read and a weight is written, and again the same, in two bytes; backward
    # the weight's gradient is read, and k windows of four bytes are read and written.
    each = {1: 2 * (2 + 2) + 2 + 8, 2: 2 * (4 + 2) + 2 + 16}[k]
    assert generated_bytes(plan, itemsize=2, again=1) == 4 * 64 * each


def test_steps_add_up() -> None:
    step = ddp_step(FREE, 4, 30.0, [Gradient(1.0, 4.0)], generated_bytes=7.0, state_bytes=28.0)
    assert step.total == pytest.approx(30 + 7 + 6 + 28)
    one = fsdp_step(FREE, 4, 30.0, units=1, n_params=4.0)
    # Gathered twice and reduced once, nothing beside it: 6, 6 and 12 seconds; 7 bytes a shard.
    assert one.total == pytest.approx(30 + 24 + 28)
    many = fsdp_step(FREE, 4, 30000.0, units=1000, n_params=4.0)
    assert many.exposed == pytest.approx(24 / 1000)


def test_the_published_points_are_met() -> None:
    for case, (dense, ours) in published().items():
        assert dense.total / ours.total == pytest.approx(PUBLISHED[case], abs=0.02), case
