"""Generated weights as DTensors: the same results and gradients as on one process."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import npas
from benchmarks.scale.ranks import moved, on_ranks
from npas.sharding import gathered

HOW: dict[str, dict[str, Any]] = {
    "defaults": {},
    "a layer at a time": {"schedule": "layer", "recompute": True},
    "a bank at a time": {"n_banks": 2, "schedule": "bank"},
    "emb": {"downsample": "emb", "groups": "single"},
    # Of one template: gains are signs, other ones with other seeds.
    "signs": {"groups": "single", "k": 1},
}


class MLP(nn.Module):
    """Two linear layers behind a norm, added to their input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 16), *(MLP() for _ in range(3)), nn.Linear(16, 4))


def plan() -> dict[str, Any]:
    rows = RowwiseParallel(input_layouts=Replicate())
    return {"0": rows, "[123].up": ColwiseParallel(), "[123].down": RowwiseParallel()}


def batch() -> Tensor:
    return torch.randint(0, 12, (8, 5), generator=torch.Generator().manual_seed(1))


def found(module: nn.Module, ids: Tensor) -> dict[str, Any]:
    """Return outputs and gradients, those of two backward passes that add up."""
    y = module(ids)
    y.square().mean().backward()
    module(ids.flip(0)).square().mean().backward()
    grads = {name: gathered(p.grad) for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y.detach(), **grads}


def _work(rank: int, n: int, folder: str) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (n,))
    results: dict[str, Any] = {}
    for name, how in HOW.items():
        for compiles in (npas.compile, npas.compile_):
            model = network()
            torch.manual_seed(1 + rank)  # the first rank's values are those that count
            module = npas.parallelize_module(compiles(model, "50%", **how), mesh, plan())
            results[f"{name}, {compiles.__name__}"] = found(module, batch())
    module = npas.parallelize_module(npas.compile(network(), "50%"), mesh, plan())
    module.zero_grad()
    results["part"] = tuple(module.get_submodule("1.up").weight.to_local().shape)  # type: ignore
    results["moved"] = moved(lambda: module(batch()).square().mean().backward())
    results["bank"] = module.get_parameter("npas.banks.b0.theta").numel()
    npas.save(module, Path(folder) / "tensor parallel")
    results["dense"] = {n: gathered(p) for n, p in module.named_parameters()}
    results["said"] = [
        _said(npas.parallelize_module, module, mesh, plan()),
        _said(npas.parallelize_module, network(), mesh, plan()),
        _said(npas.reset, module),
        _said(parallelize_module, npas.compile(network(), "50%"), mesh, plan()),
    ]
    torch.manual_seed(1)
    module = npas.parallelize_module(npas.compile(network(), "50%"), mesh, plan())
    results["trained"] = [_losses(one) for one in (copy.deepcopy(module), module)]
    results["without a bias"] = _bare(rank, mesh, folder)
    if n == 4:
        results["both"] = _both(rank)
    return results


def _losses(module: nn.Module) -> list[float]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, foreach=False)
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        value = (module(batch().roll(step)) - 1).square().mean()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def _bare(rank: int, mesh: Any, folder: str) -> list[str]:
    """Save a module that has nothing but banks; return what is there, and what a failure says."""
    torch.manual_seed(rank)
    module = npas.compile(nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4))), "50%")
    module = npas.parallelize_module(module, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    npas.save(module, Path(folder) / "bare")
    Path(folder, "a file").touch()
    there = sorted(path.suffix for path in Path(folder, "bare").iterdir())
    return [*there, _said(npas.save, module, Path(folder) / "a file" / "x")]


def _said(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except (npas.NpasError, RuntimeError, AttributeError) as error:
        return str(error)
    return ""


def _both(rank: int) -> dict[str, Any]:
    """Divide weights over two ranks, and shard banks over two others."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    several = _said(npas.parallelize_module, npas.compile(network(), "50%"), mesh, plan())
    torch.manual_seed(1)
    module = npas.parallelize_module(npas.compile(network(), "50%"), mesh["tp"], plan())
    for unit in npas.fsdp_units(module):
        fully_shard(unit, mesh=mesh["dp"], reshard_after_forward=False)
    half = batch()[mesh["dp"].get_local_rank() :: 2]
    module(half).square().mean().backward()
    grads = {n: gathered(p.grad) for n, p in module.named_parameters() if p.grad is not None}
    return {"several": several, **grads}


@pytest.fixture(scope="module", params=[2, 4])
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("saved")
    return on_ranks(request.param, _work, str(folder)), folder


Ranks = tuple[list[dict[str, Any]], Path]


@pytest.mark.parametrize("name", HOW)
def test_results_and_gradients_are_those_of_one_process(ranks: Ranks, name: str) -> None:
    model = network()
    torch.manual_seed(1)
    expected = found(npas.compile(model, "50%", **HOW[name]), batch())
    for results in ranks[0]:
        for compiles in ("compile", "compile_"):
            got = results[f"{name}, {compiles}"]
            assert got.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_training_and_that_of_a_copy_are_those_of_one_process(ranks: Ranks) -> None:
    torch.manual_seed(1)
    expected = _losses(npas.compile(network(), "50%"))
    assert expected[-1] < expected[0]
    for results in ranks[0]:
        for losses in results["trained"]:
            assert losses == pytest.approx(expected, rel=1e-4)


def test_one_rank_writes_and_all_hear_of_a_failure(ranks: Ranks) -> None:
    first, *others = (results["without a bias"] for results in ranks[0])
    assert first[:-1] == [".json", ".safetensors"]
    assert "cannot be written" in first[-1]
    for found in others:
        assert found[:-1] == first[:-1]
        assert "it failed on the first rank" in found[-1]


def test_a_rank_multiplies_with_its_part(ranks: Ranks) -> None:
    for results in ranks[0]:
        assert results["part"] == (32 // len(ranks[0]), 16)


def test_a_banks_gradient_is_added_up_once(ranks: Ranks) -> None:
    for results in ranks[0]:
        sizes = [size for kind, size in results["moved"] if kind == "all-reduce"]
        assert sizes.count(results["bank"]) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_folder_of_it_loads_on_one_process(ranks: Ranks) -> None:
    results, folder = ranks
    again = npas.load(folder / "tensor parallel", network)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, results[0]["dense"][name]), name


def test_what_cannot_be_done_is_said(ranks: Ranks) -> None:
    twice, plain, reset, by_torch = ranks[0][0]["said"]
    assert "is sharded already; call parallelize_module once" in twice
    assert "Sequential was not compiled by npas" in plain
    assert "call reset before parallelize_module" in reset
    assert by_torch


def test_weights_may_be_divided_and_banks_sharded(ranks: Ranks) -> None:
    torch.manual_seed(1)
    alone = npas.compile(network(), "50%")
    for i in range(2):
        (alone(batch()[i::2]).square().mean() / 2).backward()
    for results in ranks[0]:
        if "both" in results:
            assert "a mesh of one dimension, found 2" in results["both"]["several"]
            for name, parameter in alone.named_parameters():
                assert parameter.grad is not None
                torch.testing.assert_close(
                    results["both"][name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name
                )
