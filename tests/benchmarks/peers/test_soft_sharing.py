"""Soft parameter sharing against its equation, and against npas with the same numbers."""

import copy
from math import prod

import pytest
import torch
from torch import nn

import npas
from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError, TooSmall
from benchmarks.peers.base import n_params
from benchmarks.peers.soft_sharing import Templates, build, groups_of, soft_sharing
from npas.bank import banks_of
from tests.benchmarks.peers.networks import Spec, doubles, macs, mlp, tensor, wide

pytestmark = pytest.mark.pure


def blocks() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(4)))


def test_weights_are_those_of_the_equation() -> None:
    torch.manual_seed(0)
    with doubles():
        module = blocks()
    soft_sharing(module, 2)
    shared = next(m for m in module.modules() if isinstance(m, Templates)).templates.tolist()
    for layer in range(4):
        alpha = tensor(module, f"{layer}.0.parametrizations.weight.original").tolist()
        weight = tensor(module, f"{layer}.0.weight").tolist()
        for row in range(3):
            for column in range(3):
                made = sum(a * t[row][column] for a, t in zip(alpha, shared, strict=True))
                assert weight[row][column] == pytest.approx(made, abs=1e-14)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_coefficients_start_orthogonal(k: int) -> None:
    module = blocks()
    soft_sharing(module, k)
    alphas = torch.stack(
        [tensor(module, f"{i}.0.parametrizations.weight.original") for i in range(4)]
    ).detach()
    torch.testing.assert_close(alphas.t() @ alphas, torch.eye(k), atol=1e-6, rtol=0)


def test_templates_start_as_the_networks_own_weights() -> None:
    module = blocks()
    first = tensor(module, "1.0.weight").detach().clone()
    soft_sharing(module, 2)
    shared = next(m for m in module.modules() if isinstance(m, Templates)).templates
    assert torch.equal(shared[1], first)


def test_wrn_28_10_in_the_papers_groups_and_sizes() -> None:
    """The npas paper: not below 12M; its 32.8% and 46.5% are 12M and 17M of 36.54M."""
    with torch.device("meta"):
        module = wrn(28, 10, num_classes=100)
        dense = n_params(module)
        assert [len(group.layers) for group in groups_of(module)] == [6, 6, 6]
        with pytest.raises(TooSmall, match="minimum is 12,344,902") as caught:
            build(wide(28, 10, 100), 12_000_000)
        one = build(wide(28, 10, 100), caught.value.minimum)
        two = build(wide(28, 10, 100), 17_200_000)
    weights = 9 * (160**2 + 320**2 + 640**2)
    assert one.n_params == caught.value.minimum == dense - 5 * weights + 18
    assert two.n_params == dense - 4 * weights + 36
    assert (one.n_params // 10**6, two.n_params // 10**6) == (12, 17)
    assert (12e6 / dense, 17e6 / dense) == pytest.approx((0.328, 0.465), abs=5e-4)


def test_with_ten_classes_the_minimum_is_12_3_million() -> None:
    with torch.device("meta"), pytest.raises(TooSmall, match="12,287,212"):
        build(wide(28, 10), 4_000_000)


def test_what_is_left_goes_to_the_largest_groups() -> None:
    with torch.device("meta"):
        module = wrn(22, 2)
        sizes = [prod(group.shape) for group in groups_of(module)]
        at_two = soft_sharing(wrn(22, 2), 2).n_params
        built = build(wide(22, 2), at_two + sizes[2] + sizes[0] + 8)
        full = build(wide(22, 2), 10**9)
    assert built.n_params == at_two + sizes[2] + sizes[0] + 8
    assert "2 x 3 for 4" in built.note and "1 x 2 for 4" in built.note
    assert "3 x 4 for 4" in full.note


@pytest.mark.parametrize("k", [1, 3])
def test_multiply_accumulates(k: int) -> None:
    with torch.device("meta"):
        module, x = wrn(22, 1), torch.empty(1, 3, 32, 32)
        dense = macs(module, x)
        built = soft_sharing(module, k)
        assert macs(module, x) == dense + built.generation_macs
    sizes = {6: 16 * 16 * 9, 4: (32 * 32 + 64 * 64) * 9}
    assert built.generation_macs == k * sum(n * size for n, size in sizes.items())


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="mlp has no two layers of one shape"):
        build(mlp(), 1000)

    def tied() -> nn.Module:
        module = nn.Sequential(blocks(), nn.Linear(3, 3))
        module.register_parameter("again", module.get_parameter("0.1.0.weight"))
        return module

    with pytest.raises(PeerError, match="tied"):
        build(Spec("tied", tied), 1000)


# npas with the same mapping computes the same, given the same numbers. What shares nothing is
# ignored: npas gives every bank the same share of its weights, and so would make those layers from
# less than they have.


def as_npas(module: nn.Module, peer: nn.Module, k: int) -> nn.Module:
    """Compile a network with banks of exactly k templates, and the peer's numbers in them."""
    groups = groups_of(module)
    sharing = {name for group in groups for name in group.layers}
    alone = [n for n, p in module.named_parameters() if p.dim() > 1 and n not in sharing]
    kept = n_params(module) - sum(len(g.layers) * prod(g.shape) for g in groups)
    # With one template npas has no coefficient.
    coefficients = sum(k * len(g.layers) for g in groups) if k > 1 else 0
    budget = kept + sum(k * prod(g.shape) for g in groups) + coefficients
    plan = npas.plan(module, budget, groups="soft_sharing", k=k, ignored_modules=alone)
    assert [bank.layers for bank in plan.banks] == [group.layers for group in groups]
    ssn = npas.compile(module, plan=plan)
    for bank, group in zip(banks_of(ssn).values(), groups, strict=True):
        assert bank.theta.numel() == k * prod(group.shape)
        own = [tensor(peer, _original(name)).detach() for name in group.layers]
        shared = tensor(peer, _templates(group.layers[0]))
        with torch.no_grad():
            bank.theta.copy_(shared.flatten())
            if bank.alpha is not None:
                bank.alpha.copy_(torch.cat(own))
        bank.set_gains(torch.ones(len(group.layers)))
        assert [bank.slot_of(n)[0].k for n in group.layers] == [k] * len(group.layers)
    return ssn


def _original(name: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.parametrizations.{last}.original"


def _templates(name: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.parametrizations.{last}.0.templates"


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # In float64 sums of another order differ by less than 1e-12 of what is summed. In float32 they
    # do by some 1e-7 a sum, which twenty layers carry on.
    [(torch.float64, 1e-12), (torch.float32, 1e-5)],
)
def test_npas_with_the_same_numbers_is_equal(k: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    module = wrn(22, 2).to(dtype)
    peer = soft_sharing(copy.deepcopy(module), k).module
    if k == 1:
        with torch.no_grad():
            for name, parameter in peer.named_parameters():
                if parameter.shape == (1,) and name.endswith("original"):
                    parameter.fill_(1.0)
    ssn = as_npas(module, peer, k)
    x = torch.randn(3, 3, 8, 8, dtype=dtype)
    ours, theirs = ssn(x), peer(x)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    probe = torch.randn_like(ours)
    (ours * probe).sum().backward()
    (theirs * probe).sum().backward()

    def near(a: torch.Tensor | None, b: torch.Tensor | None) -> None:
        assert a is not None and b is not None
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)

    for bank, group in zip(banks_of(ssn).values(), groups_of(module), strict=True):
        shared = tensor(peer, _templates(group.layers[0]))
        near(bank.theta.grad, None if shared.grad is None else shared.grad.flatten())
        if bank.alpha is not None:
            own = [tensor(peer, _original(name)).grad for name in group.layers]
            near(bank.alpha.grad, torch.cat([grad for grad in own if grad is not None]))
    sharing = {name for group in groups_of(module) for name in group.layers}
    for name in dict(module.named_parameters()).keys() - sharing:
        near(tensor(ssn, name).grad, tensor(peer, name).grad)
