"""Soft parameter sharing against its equation, and against npas with the same numbers."""

import copy
from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import nn

import npas
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError, TooSmall
from benchmarks.peers.base import n_params
from benchmarks.peers.soft_sharing import Templates, build, groups_of, soft_sharing
from npas.bank import Bank, banks_of
from npas.module import Shapeshifter
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


# With the same parameters npas's groups="soft_sharing" is this peer: the same banks, and given the
# same numbers the same outputs and gradients.


def encoder() -> nn.Module:
    return transformer(vocab=20, dim=12, depth=3, heads=2, max_len=6, causal=False)


def as_npas(module: nn.Module, peer: nn.Module, k: int) -> Shapeshifter:
    """Compile a network to the peer's parameters, and put the peer's numbers into the banks."""
    groups = groups_of(module)
    plan = npas.plan(module, n_params(peer), groups="soft_sharing")
    assert plan.n_params == n_params(peer)
    shared = [bank for bank in plan.banks if len(bank.layers) > 1]
    assert [(bank.name, bank.layers) for bank in shared] == [(g.name, g.layers) for g in groups]
    for bank, group in zip(shared, groups, strict=True):
        n, most = prod(group.shape), min(k, len(group.layers))
        assert bank.size == most * n
        windows = {(layer.base, layer.stride, layer.k) for layer in plan.layers_of(bank.name)}
        assert windows == {(0, n if most > 1 else 0, most)}
    ssn = npas.compile(module, plan=plan)
    assert n_params(ssn) == n_params(peer)
    for bank, group in zip(banks_of(ssn).values(), groups, strict=True):
        own = [tensor(peer, _original(name)).detach() for name in group.layers]
        with torch.no_grad():
            bank.theta.copy_(tensor(peer, _templates(group.layers[0])).flatten())
            coefficients_of(bank).copy_(torch.cat(own))
        bank.set_gains(torch.ones(len(group.layers)))
    return ssn


def coefficients_of(bank: Bank) -> nn.Parameter:
    """Return the coefficients of a bank, which stand elsewhere where there is one template."""
    found = bank.scale if bank.alpha is None else bank.alpha
    assert found is not None
    return found


def _original(name: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.parametrizations.{last}.original"


def _templates(name: str) -> str:
    owner, _, last = name.rpartition(".")
    return f"{owner}.parametrizations.{last}.0.templates"


# Groups of 6, 4 and 4 convolutions; of 12 projections, and of two shapes of 3 layers.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "wrn": (lambda: wrn(22, 1), lambda: torch.randn(3, 3, 8, 8)),
    "encoder": (encoder, lambda: torch.randint(20, (3, 6))),
}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # In float64 sums of another order differ by less than 1e-12 of what is summed. In float32 they
    # do by some 1e-7 a sum, which twenty layers carry on.
    [(torch.float64, 1e-12), (torch.float32, 1e-5)],
)
def test_npas_with_the_same_numbers_is_equal(
    network: str, k: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    make, draw = NETWORKS[network]
    module = make().to(dtype)
    peer = soft_sharing(copy.deepcopy(module), k).module
    ssn = as_npas(module, peer, k)
    x = draw()
    x = x.to(dtype) if x.is_floating_point() else x
    ours, theirs = ssn(x), peer(x)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    probe = torch.randn_like(ours)
    (ours * probe).sum().backward()
    (theirs * probe).sum().backward()
    # A key's bias adds the same to all scores of a query: its gradient is 0 but for rounding.
    most = max(p.grad.abs().max().item() for p in peer.parameters() if p.grad is not None)

    def near(a: torch.Tensor | None, b: torch.Tensor | None) -> None:
        assert a is not None and b is not None
        scale = max(b.abs().max().item(), 1e-3 * most)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)

    for bank, group in zip(banks_of(ssn).values(), groups_of(module), strict=True):
        shared = tensor(peer, _templates(group.layers[0]))
        near(bank.theta.grad, None if shared.grad is None else shared.grad.flatten())
        own = [tensor(peer, _original(name)).grad for name in group.layers]
        near(coefficients_of(bank).grad, torch.cat([grad for grad in own if grad is not None]))
    sharing = {name for group in groups_of(module) for name in group.layers}
    for name in dict(module.named_parameters()).keys() - sharing:
        near(tensor(ssn, name).grad, tensor(peer, name).grad)


@pytest.mark.parametrize("depth_width", [(28, 10), (22, 1), (16, 4), (40, 2)], ids=str)
def test_npas_has_the_peers_banks_at_every_number_of_templates(
    depth_width: tuple[int, int],
) -> None:
    with torch.device("meta"):
        groups = groups_of(wrn(*depth_width))
        for k in range(1, 7):
            wanted = soft_sharing(wrn(*depth_width), k).n_params
            plan = npas.plan(wrn(*depth_width), wanted, groups="soft_sharing")
            assert plan.n_params == wanted
            found = {bank.name: bank for bank in plan.banks if not plan.is_ordinary(bank.name)}
            assert list(found) == [group.name for group in groups]
            for group in groups:
                most, n = min(k, len(group.layers)), prod(group.shape)
                assert found[group.name].size == most * n
                for layer in plan.layers_of(group.name):
                    assert (layer.base, layer.k) == (0, most)
                    assert layer.stride == (n if most > 1 else 0)
