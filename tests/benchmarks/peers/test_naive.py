"""A plan by parametrize is the same function of the same parameters as npas's own module."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import npas
from benchmarks.networks.recurrent import recurrent
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError, TooSmall
from benchmarks.peers.base import n_params
from benchmarks.peers.naive import Naive, build, naive
from npas.bank import banks_of
from tests.benchmarks.peers.networks import Spec, tensor, wide

pytestmark = pytest.mark.pure

DOUBLE = torch.float64


class Tokens(nn.Module):
    """An embedding with a padding row, or one whose table is the head's weight too."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=None if tied else 0)
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(self.up(self.embedding(ids)).relu()))


def both(module: nn.Module, budget: Any, **options: Any) -> tuple[nn.Module, Naive]:
    """Return npas's module and the naive one, with npas's numbers and gains that are not 1."""
    module = module.double()
    plan = npas.plan(module, budget, **options)
    ssn = npas.compile(module, plan=plan)
    for bank in banks_of(ssn).values():
        bank.set_gains(1 + 0.2 * torch.rand(len(bank.layer_names())))
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    made = naive(copy.deepcopy(module), plan)
    made.copy_from(ssn)
    return ssn, made


def check(ssn: nn.Module, made: Naive, x: torch.Tensor) -> None:
    """Compare parameters, outputs and gradients."""
    plan = made.plan
    assert n_params(made.module) == n_params(ssn) == plan.n_params
    ours, theirs = ssn(x), made.module(x)
    torch.testing.assert_close(theirs, ours, rtol=1e-11, atol=1e-11)
    probe = torch.randn_like(ours)
    (ours * probe).sum().backward()
    (theirs * probe).sum().backward()

    def near(theirs: torch.Tensor, ours: torch.Tensor) -> None:
        assert ours.grad is not None and theirs.grad is not None
        # Some gradients are zero but for rounding: that of a key's bias under softmax.
        scale = max(1.0, ours.grad.abs().max().item())
        torch.testing.assert_close(
            theirs.grad, ours.grad.view_as(theirs), rtol=0, atol=1e-11 * scale
        )

    banks = banks_of(ssn)
    for name, shared in made.shared.items():
        for part, parameter in shared.named_parameters():
            near(parameter, banks[name].get_parameter(part))
    for name, own in made.own.items():
        bank = banks[made.weights[name].layer.bank]
        layer, start, _ = bank.slot_of(name)
        if layer.has_coefficients and layer.downsample == "wavg":
            assert bank.alpha is not None and bank.alpha.grad is not None and own.grad is not None
            expected = bank.alpha.grad[start : start + layer.k]
            torch.testing.assert_close(own.grad, expected, rtol=1e-9, atol=1e-9)
    for name, parameter in made.module.named_parameters():
        if "parametrizations" not in name:
            near(parameter, ssn.get_parameter(name))


# budget, options -> the ways in which weights are made
CASES: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "windows": ("50%", {"groups": "by_shape", "k": 1}, {"window"}),
    "several templates": ("60%", {"groups": "by_shape"}, {"wavg x2"}),
    "embeddings": ("60%", {"groups": "by_shape", "downsample": "emb"}, {"emb x2"}),
    "average": ("60%", {"groups": "by_shape", "downsample": "avg"}, {"avg x2"}),
    "masks": ("20%", {"groups": "single"}, {"mask"}),
    "repeats": ("20%", {"groups": "single", "upsample": "repeat"}, {"repeat"}),
    "resized": ("20%", {"groups": "single", "upsample": "inter"}, {"inter"}),
    "scales": ("20%", {"groups": "single", "overrides": {"group3": {"scale": True}}}, {"mask"}),
    "ordinary": ("100%", {"groups": "own"}, {"window"}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_npas(case: str) -> None:
    torch.manual_seed(0)
    budget, options, modes = CASES[case]
    ssn, made = both(wrn(16, 1), budget, **options)
    assert modes <= {layer.mode for layer in made.plan.layers}
    if case == "ordinary":
        assert not made.weights
    check(ssn, made, torch.randn(3, 3, 8, 8, dtype=DOUBLE))


def test_templates_that_overlap() -> None:
    torch.manual_seed(0)
    ssn, made = both(wrn(16, 1), "120%", groups="by_shape")
    assert any(layer.k > 1 and layer.stride < layer.n for layer in made.plan.layers)
    check(ssn, made, torch.randn(3, 3, 8, 8, dtype=DOUBLE))


@pytest.mark.parametrize("budget", ["30%", "70%", "150%"])
def test_a_transformer_with_a_raw_parameter(budget: str) -> None:
    torch.manual_seed(0)
    ssn, made = both(transformer(vocab=40, dim=16, depth=2, heads=2, max_len=8), budget)
    check(ssn, made, torch.randint(40, (3, 8)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("budget", ["60%", "150%"])
def test_a_tied_weight_and_a_padding_row(budget: str, tied: bool) -> None:
    torch.manual_seed(0)
    ssn, made = both(Tokens(tied), budget, groups="single")
    check(ssn, made, torch.randint(20, (3, 5)))
    table, head = (tensor(made.module, f"{name}.weight") for name in ("embedding", "head"))
    assert torch.equal(table, head) is tied
    assert bool(table[0].any()) is tied and table[1].any()


def test_the_peer_starts_as_npas_does() -> None:
    torch.manual_seed(0)
    module = wrn(16, 1)
    spec = Spec("wrn-16-1", lambda: copy.deepcopy(module))
    torch.manual_seed(1)
    built = build(spec, 60_000)
    torch.manual_seed(1)
    ssn = npas.compile(module, 60_000)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(built.module(x), ssn(x), rtol=1e-4, atol=1e-5)
    assert built.n_params == npas.plan(module, 60_000).n_params
    assert built.generation_macs == npas.plan(module, 60_000).generation_macs > 0


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="recurrent layer"):
        build(Spec("recurrent", recurrent), 300_000)
    with pytest.raises(TooSmall, match="wrn-16-1: its minimum is") as caught:
        build(wide(16, 1), 100)
    assert build(wide(16, 1), caught.value.minimum).n_params == caught.value.minimum
