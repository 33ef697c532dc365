"""Cross-layer sharing against its definition: every repeated block is the first one."""

import copy

import pytest
import torch
from torch import nn

import npas
from benchmarks.networks.transformer import transformer
from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError, TooSmall
from benchmarks.peers.albert import build, runs, share_blocks
from benchmarks.peers.base import n_params
from npas.bank import banks_of
from tests.benchmarks.peers.networks import Spec, mlp

pytestmark = pytest.mark.pure


def encoder() -> nn.Module:
    return transformer(vocab=50, dim=16, depth=4, heads=2, max_len=8, causal=False)


def test_it_computes_the_first_block_again_and_again() -> None:
    torch.manual_seed(0)
    module = encoder().double()
    expected = copy.deepcopy(module)
    ids = torch.randint(50, (3, 8))
    h = expected.get_submodule("embedding")(ids) + expected.get_parameter("positions")
    for _ in range(4):
        h = expected.get_submodule("blocks.0")(h)
    output = expected.get_submodule("head")(expected.get_submodule("norm")(h))
    made = share_blocks(module).module(ids)
    torch.testing.assert_close(made, output, rtol=0, atol=0)
    probe = torch.randn_like(output)
    (output * probe).sum().backward()
    (made * probe).sum().backward()
    for name, parameter in module.named_parameters():
        grad = expected.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-12)


def test_norms_and_biases_are_shared_too() -> None:
    module = encoder()
    dense, block = n_params(module), n_params(module.get_submodule("blocks.0"))
    built = share_blocks(module)
    assert built.n_params == dense - 3 * block
    assert built.note == "blocks that are one: 4 x Block"
    shared = dict(module.get_submodule("blocks.3").named_parameters())
    assert "norm1.weight" in shared and "attention.q.bias" in shared
    for name, parameter in module.get_submodule("blocks.0").named_parameters():
        assert shared[name] is parameter


def test_blocks_of_another_structure_are_not_shared() -> None:
    module = wrn(22, 2)
    found = [tuple(run) for run in runs(module)]
    expected = [[module.get_submodule(f"group{g}.{b}") for b in (1, 2)] for g in (1, 2, 3)]
    assert found == [tuple(row) for row in expected]
    norms = [m for m in share_blocks(module).module.modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = {id(norm.running_mean) for norm in norms}
    assert len(statistics) == len(norms)


def test_settings_count_as_structure() -> None:
    alike = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU(), nn.ReLU())
    other = nn.Sequential(nn.Conv2d(3, 3, 1, stride=1), nn.Conv2d(3, 3, 1, stride=2))
    assert len(runs(alike)) == 1 and not runs(other)


def test_runs_inside_of_a_run_stay_apart() -> None:
    inner = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2)]
    module = nn.Sequential(*inner)
    assert share_blocks(module).n_params == n_params(inner[0]) == 24


def test_the_budget_chooses_nothing() -> None:
    spec = Spec("encoder", encoder)
    with pytest.raises(TooSmall, match="encoder with 100 parameters") as caught:
        build(spec, 100)
    assert build(spec, caught.value.minimum).n_params == caught.value.minimum
    assert build(spec, 10**9).n_params == caught.value.minimum


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="in mlp"):
        build(mlp(), 1000)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_npas_with_the_same_numbers_is_equal(dtype: torch.dtype, tolerance: float) -> None:
    """The weights are shared alike; norms and biases npas keeps a layer each.

    Given equal numbers, those have gradients that sum up to the gradient of the one that is shared.
    """
    torch.manual_seed(0)
    module = encoder().to(dtype)
    peer = share_blocks(copy.deepcopy(module)).module
    ssn = npas.compile(module, "largest", groups="albert")
    assert len(banks_of(ssn)) == 6  # embedding, positions and head are ordinary parameters
    dense = dict(peer.named_parameters(remove_duplicate=False))
    kept = {name: p for name, p in ssn.named_parameters() if name in dense}
    with torch.no_grad():
        for name, parameter in kept.items():
            parameter.copy_(dense[name])
        for bank in banks_of(ssn).values():
            bank.theta.copy_(dense[bank.layer_names()[0]].flatten())
            bank.set_gains(torch.ones(4))
    ids = torch.randint(50, (3, 8))
    ours, theirs = ssn(ids), peer(ids)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    probe = torch.randn_like(ours)
    (ours * probe).sum().backward()
    (theirs * probe).sum().backward()

    def near(found: torch.Tensor | None, shared: nn.Parameter) -> None:
        assert found is not None and shared.grad is not None
        atol = tolerance * max(1.0, shared.grad.abs().max().item())
        torch.testing.assert_close(found.view_as(shared), shared.grad, rtol=0, atol=atol)

    for bank in banks_of(ssn).values():
        near(bank.theta.grad, dense[bank.layer_names()[0]])
    # Every parameter of the peer, and the sum over those of npas that have its numbers.
    summed: dict[int, torch.Tensor] = {}
    for name, parameter in kept.items():
        assert parameter.grad is not None
        shared = id(dense[name])
        summed[shared] = summed.get(shared, torch.zeros_like(parameter)) + parameter.grad
    for parameter in peer.parameters():
        if id(parameter) in summed:
            near(summed.pop(id(parameter)), parameter)
    assert not summed
    n_own = n_params(module.get_submodule("blocks.0")) - sum(
        bank.theta.numel() for bank in banks_of(ssn).values()
    )
    assert n_params(ssn) == n_params(peer) + 3 * n_own
