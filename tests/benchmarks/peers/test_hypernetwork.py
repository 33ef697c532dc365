"""The static hypernetwork against its equations, one element at a time."""

import pytest
import torch
from torch import nn

from benchmarks.networks.wrn import wrn
from benchmarks.peers import PeerError
from benchmarks.peers.base import n_params
from benchmarks.peers.hypernetwork import HyperNetwork, build, hypernetwork
from tests.benchmarks.peers.networks import Spec, doubles, macs, mlp, tensor, wide

pytestmark = pytest.mark.pure


def unit_kernel(hyper: HyperNetwork, z: list[float]) -> list[list[list[float]]]:
    """K of the paper for one embedding: [input][output][tap], in plain Python."""
    w_in, b_in = hyper.w_in.tolist(), hyper.b_in.tolist()
    w_out, b_out = hyper.w_out.tolist(), hyper.b_out.tolist()
    unit = len(w_in)
    kernel = []
    for i in range(unit):
        a = [
            sum(w * x for w, x in zip(row, z, strict=True)) + b
            for row, b in zip(w_in[i], b_in[i], strict=True)
        ]
        flat = [
            sum(w * x for w, x in zip(row, a, strict=True)) + b
            for row, b in zip(w_out, b_out, strict=True)
        ]
        kernel.append([flat[o * 9 : (o + 1) * 9] for o in range(unit)])
    return kernel


def test_weights_are_those_of_the_equations() -> None:
    torch.manual_seed(0)
    with doubles():
        module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3, bias=False))
    hypernetwork(module, n_z=3, d=5, unit=4)
    hyper = next(m for m in module.modules() if isinstance(m, HyperNetwork))
    with torch.no_grad():
        hyper.b_in.normal_()
        hyper.b_out.normal_()
    for name, rows, columns in (("0", 2, 1), ("1", 1, 2)):
        embeddings = tensor(module, f"{name}.parametrizations.weight.original").tolist()
        weight = tensor(module, f"{name}.weight").tolist()
        for row in range(rows):
            for column in range(columns):
                kernel = unit_kernel(hyper, embeddings[row][column])
                for i in range(4):
                    for o in range(4):
                        made = weight[row * 4 + o][column * 4 + i]
                        for tap in range(9):
                            found = made[tap // 3][tap % 3]
                            assert found == pytest.approx(kernel[i][o][tap], abs=1e-12)


def test_one_hypernetwork_makes_all_convolutions() -> None:
    module = wrn(16, 1)
    hypernetwork(module)
    hypers = {id(m) for m in module.modules() if isinstance(m, HyperNetwork)}
    assert len(hypers) == 1


@pytest.mark.parametrize(
    ("width", "dense", "ours", "published_dense", "published"),
    [(1, 563_930, 97_770, 0.563, 0.097), (2, 2_243_546, 155_626, 2.236, 0.148)],
)
def test_published_counts(
    width: int, dense: int, ours: int, published_dense: float, published: float
) -> None:
    """Table 11. What is above is above in the dense network too, so it is not generated."""
    with torch.device("meta"):
        module = wrn(40, width)
        assert n_params(module) == dense
        assert hypernetwork(module).n_params == ours
    above = dense - published_dense * 1e6
    assert abs(ours - published * 1e6 - above) < 1000  # both are given in thousands
    assert above < {1: 1000, 2: 8000}[width]


def test_the_count_is_the_papers_sum() -> None:
    """Hypernetwork, 64 an embedding, and what is kept as it is."""
    with torch.device("meta"):
        module = wrn(40, 2)
        kept = n_params(module) - 9 * sum(
            m.in_channels * m.out_channels
            for n, m in module.named_modules()
            if isinstance(m, nn.Conv2d) and ".conv" in n
        )
        units = 2 + 11 * 4 + 8 + 11 * 16 + 32 + 11 * 64
        hyper = 16 * 64 * 64 + 16 * 64 + 144 * 64 + 144
        assert hypernetwork(module).n_params == kept + units * 64 + hyper


@pytest.mark.parametrize(("n_z", "d"), [(64, 64), (7, 20)])
def test_multiply_accumulates(n_z: int, d: int) -> None:
    with torch.device("meta"):
        module, x = wrn(16, 2), torch.empty(1, 3, 32, 32)
        dense = macs(module, x)
        built = hypernetwork(module, n_z, d)
        assert macs(module, x) == dense + built.generation_macs
        assert built.generation_macs > 0


def test_layers_start_as_wide_as_they_were() -> None:
    torch.manual_seed(0)
    module = wrn(16, 4)
    names = [n for n, _ in module.named_modules() if ".conv" in n]
    before = {name: tensor(module, f"{name}.weight").std().item() for name in names}
    hypernetwork(module)
    for name in names:
        after = tensor(module, f"{name}.weight").std().item()
        assert after == pytest.approx(before[name], rel=0.2)


def test_a_larger_budget_has_longer_embeddings() -> None:
    with torch.device("meta"):
        small = build(wide(16, 2), 30_000)
        large = build(wide(16, 2), 200_000)
        module = wrn(16, 2)
        n_z = hypernetwork(module).n_params
        exact = build(wide(16, 2), n_z)
    assert small.n_params <= 30_000 < large.n_params <= 200_000
    assert exact.n_params == n_z and "N_z = 64, d = 64" in exact.note


def test_other_channels_have_another_unit() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 36, 3), nn.Conv2d(36, 24, 3))

    built = build(Spec("twelve", make), 9000)
    assert "2 of 3 convolutions" in built.note and "12x12" in built.note


def test_what_it_does_not_apply_to() -> None:
    with pytest.raises(PeerError, match="mlp has no 3x3 convolution"):
        build(mlp(), 1000)
    with pytest.raises(PeerError, match="16n"):
        hypernetwork(nn.Sequential(nn.Conv2d(3, 8, 3)))
