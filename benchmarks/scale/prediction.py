"""What the model of `benchmarks.scale.step_time` says: of the paper's two points, and of 70B."""

from dataclasses import replace
from typing import Any

import torch

import npas
from benchmarks.networks import network
from benchmarks.scale.machines import (
    H100,
    H100_FLOPS,
    H100_REACHED,
    H100_SLOW,
    V100,
    V100_FASTER,
    V100_FASTEST,
    Machine,
)
from benchmarks.scale.planning import CONFIGS
from benchmarks.scale.step_time import (
    Step,
    compiled_gradients,
    ddp_step,
    dense_gradients,
    fsdp_step,
    generated_bytes,
    segmented_gradients,
)
from npas.model_source import load_model
from npas.plan import Plan

#: Published training speeds of one V100 in mixed precision (NVIDIA DeepLearningExamples):
#: ResNet-50 v1.5, images a second (PyTorch/Classification/ConvNets/resnet50v1.5, DGX-1 16GB), and
#: the multiply-accumulates of an image; BERT-Large, sequences of 512 tokens a second at 8 a step
#: (PyTorch/LanguageModeling/BERT, March 2020, DGX-1 32G).
RESNET_RATE, RESNET_MACS = 1200, 4.089e9
BERT_RATE, BERT_BATCH = 30.08, 8
#: Multiply-accumulates of WRN-50-2 to those of ResNet-50 (docs/benchmarks.md has the first).
_WRN_TO_RESNET = 11_398_021_120 / RESNET_MACS
#: Images of a GPU's step; the paper does not say.
WRN_BATCH = 64
#: The paper's speed-ups (appendix G.1).
PUBLISHED = {"WRN-50-2 on 64 GPUs, 10.5M": 1.04, "BERT-Large on 128 GPUs, SSN at 18M": 1.4}
#: Adam and LAMB move 28 bytes a parameter, SGD with momentum 20.
_SGD = 20.0

GPUS = (64, 256, 1024, 4096)
BUDGETS = ("10%", "25%", "50%")
STAGES = 8
BLOCKS = 80
#: Tokens of a GPU's step.
TOKENS = 8192


def published(machine: Machine = V100) -> dict[str, tuple[Step, Step]]:
    """Return the steps of the dense network and of the compiled one, for each published point."""
    plan = _plan("wrn-50-2", 10_500_000)
    compute = WRN_BATCH / RESNET_RATE * _WRN_TO_RESNET
    bert = _plan("bert-large", "100%")
    ssn = _plan("albert-large-unshared", 18_000_000, n_banks=4)
    first, second = PUBLISHED
    return {
        first: _pair(machine, 64, compute, plan, plan, state_bytes=_SGD),
        second: _pair(machine, 128, BERT_BATCH / BERT_RATE, bert, ssn),
    }


def _plan(name: str, budget: Any, **how: Any) -> Plan:
    spec = network(name)
    with torch.device("meta"):
        model = spec.make()
    return npas.plan(model, budget, example_inputs=spec.inputs(1), **how)


def _pair(
    machine: Machine, n: int, compute: float, dense: Plan, ours: Plan, **how: float
) -> tuple[Step, Step]:
    made = generated_bytes(ours)
    return (
        ddp_step(machine, n, compute, dense_gradients(dense), **how),
        ddp_step(machine, n, compute, compiled_gradients(ours), generated_bytes=made, **how),
    )


def checked() -> list[dict[str, Any]]:
    """Return rows of the published points, on the stated machine and on others."""
    rows: list[dict[str, Any]] = []
    changed = [replace(V100, contention=share) for share in (0.0, 0.15, 0.35)]
    for machine in (V100, *changed, V100_FASTER, V100_FASTEST):
        for case, (dense, ours) in published(machine).items():
            rows.append(
                {
                    "case": case,
                    "machine": machine.name,
                    "contention": machine.contention,
                    "dense_s": dense.total,
                    "dense_exposed_s": dense.exposed,
                    "compiled_s": ours.total,
                    "compiled_exposed_s": ours.exposed,
                    "generation_s": ours.generation,
                    "ratio": dense.total / ours.total,
                    "published": PUBLISHED[case],
                }
            )
    return rows


def segments() -> list[dict[str, Any]]:
    """Return rows that say what it would gain to send banks in pieces, on the slowest network."""
    rows: list[dict[str, Any]] = []
    cases: tuple[tuple[str, Any, int], ...] = (
        ("wrn-50-2", 10_500_000, 64),
        ("wrn-50-2", "50%", 64),
        ("albert-large-unshared", "10%", 128),
        ("albert-large-unshared", "25%", 128),
        ("albert-large-unshared", "50%", 128),
    )
    for name, budget, n in cases:
        plan = _plan(name, budget)
        compute = BERT_BATCH / BERT_RATE if n == 128 else WRN_BATCH / RESNET_RATE * _WRN_TO_RESNET
        whole = ddp_step(V100, n, compute, compiled_gradients(plan))
        pieces = ddp_step(V100, n, compute, segmented_gradients(plan))
        rows.append(
            {
                "network": name,
                "budget": str(budget),
                "banks": len(plan.banks),
                "exposed_s": whole.exposed,
                "pieces_exposed_s": pieces.exposed,
                "gain": (whole.exposed - pieces.exposed) / whole.total,
            }
        )
    return rows


def predicted() -> list[dict[str, Any]]:
    """Return rows of the 70B decoder: seconds of a step, and bytes that a rank holds and sends."""
    model = load_model(f"hf:{CONFIGS / 'decoder-70b'}.json", {})
    plans = {budget: npas.plan(model, budget) for budget in BUDGETS}
    n_dense = next(iter(plans.values())).n_dense
    compute = 6 * n_dense * TOKENS / (H100_FLOPS * H100_REACHED)
    rows: list[dict[str, Any]] = []
    for machine in (H100, H100_SLOW):
        for n in GPUS:
            dense = fsdp_step(machine, n, compute, BLOCKS, n_dense)
            rows.append(_row(machine, n, "dense", dense, dense, n_dense, BLOCKS))
            for budget, plan in plans.items():
                made = generated_bytes(plan, itemsize=2, again=1)
                step = fsdp_step(machine, n, compute, STAGES, plan.n_params, generated_bytes=made)
                rows.append(_row(machine, n, budget, step, dense, plan.n_params, STAGES))
    return rows


def _row(
    machine: Machine, n: int, budget: str, step: Step, dense: Step, n_params: int, units: int
) -> dict[str, Any]:
    """Return a row.

    A rank holds its shards (weight, gradient, two moments, four bytes each), two parts gathered in
    two bytes, and the gradient of one in two bytes, and once more in four while it is reduced.
    """
    return {
        "machine": machine.name,
        "gpus": n,
        "budget": budget,
        "params": n_params,
        "step_s": step.total,
        "exposed_s": step.exposed,
        "generation_s": step.generation,
        "ratio": dense.total / step.total,
        "held_bytes": 16 * n_params / n + (2 * 2 + 2 + 4) * n_params / units,
        "sent_bytes": (2 * 2 + 4) * n_params * (n - 1) / n,
    }
