"""The paper's full-size cases, planned on meta tensors: bytes of weights, gradients and Adam."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import npas
from benchmarks import paper
from benchmarks.ledger.suite import Case, Rows, Suite
from benchmarks.networks import example_inputs, network
from benchmarks.tables import Column, Row, Section, count, percent
from benchmarks.training import kept_bytes

#: network that is trained, its budget, and the network that it is compared with.
CASES = (
    ("albert-large-unshared", "18M", "bert-large"),
    ("albert-base-unshared", "12M", "bert-base"),
    ("bert-large", "18M", "bert-large"),
    ("wrn-50-2", "10.5M", "wrn-50-2"),
    ("wrn-76-12", "5M", "wrn-76-12"),
)
#: Float32, of a weight, a gradient and both moments of Adam.
ITEMSIZE, COPIES = 4, 4
BATCHES = (1, 2, 4, 8, 16, 32)


def rows_of(trained: str, budget: str, compared: str) -> Rows:
    """Plan one case and count bytes.

    Args:
        trained: network whose weights are generated.
        budget: of it, as the paper prints it.
        compared: the dense network that is trained instead.
    """
    with torch.device("meta"):
        model, dense = network(trained).make(), network(compared).make()
    n_dense = sum(p.numel() for p in dense.parameters() if p.requires_grad)
    n_model = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = npas.plan(model, paper.n_params(budget, n_model))
    activations = saved_bytes(dense, *example_inputs(compared, 1, "meta"))
    state = COPIES * ITEMSIZE * n_dense
    saved = COPIES * ITEMSIZE * (n_dense - plan.n_params)
    return [
        {
            "case": f"{trained} at {budget}",
            "compared": compared,
            "dense": n_dense,
            "params": plan.n_params,
            "share": plan.n_params / n_dense,
            "weight_bytes": ITEMSIZE * plan.n_params,
            "gradient_bytes": ITEMSIZE * plan.n_params,
            "adam_bytes": 2 * ITEMSIZE * plan.n_params,
            "dense_bytes": state,
            "saved_bytes": saved,
            "activation_bytes": activations,
            "of_total": {str(b): saved / (state + b * activations) for b in BATCHES},
        }
    ]


def saved_bytes(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, also on meta tensors."""
    module.train()

    def loss() -> torch.Tensor:
        returned = tree_leaves(module(*inputs))
        outputs = [t for t in returned if isinstance(t, torch.Tensor) and t.requires_grad]
        return torch.stack([output.sum() for output in outputs]).sum()

    return kept_bytes(loss, (*module.parameters(), *module.buffers()))


def sections(rows: Sequence[Row]) -> list[Section]:
    """Return one table."""
    said = paper.claims()
    saves, third = said["memory-saved"], said["memory-saved-share"]
    note = (
        "Planned on meta tensors: nothing of this size is allocated. Weights, gradients and both "
        "moments of Adam take 16 bytes a parameter in float32; what is saved is 16 bytes for each "
        "parameter that the dense network has and the compiled one has not. The paper (G.2) says "
        f"of SSN-ALBERT-Large against BERT-Large: about {saves.value:g} {saves.unit}, "
        f"{third.said} of the memory used. How much of the total it is depends on the "
        "activations, which it does not change: kept for backward by one sample of the dense "
        "network (sequences of as many tokens as `benchmarks.networks` gives), and the share of "
        "the whole at each batch size."
    )
    columns = [
        Column("trained", "case"),
        Column("against", "compared"),
        Column("parameters", "dense", count),
        Column("trained", "params", count),
        Column("share", "share", percent),
        Column("dense state GB", "dense_bytes", _gb),
        Column("saved GB", "saved_bytes", _gb),
        Column("activations of a sample MB", "activation_bytes", lambda v: f"{v / 1e6:,.1f}"),
        *(Column(f"of all, batch {b}", f"at_{b}", percent) for b in BATCHES),
    ]
    shown = [{**row, **{f"at_{b}": v for b, v in row["of_total"].items()}} for row in rows]
    return [Section("Full size", note, columns, shown)]


def _gb(value: float) -> str:
    return f"{value / 1e9:.2f}"


def cases() -> list[Case]:
    """Return a case for each of `CASES`."""
    return [Case(f"{case[0]}-{case[1]}", partial(rows_of, *case)) for case in CASES]


SUITE = Suite("full_size", "Full size, on meta tensors", cases, sections)
