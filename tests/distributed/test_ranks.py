"""What is checked before ranks train together, and values that are drawn where they are sharded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import npas
from benchmarks.scale.ranks import on_ranks
from npas.sharding import gathered
from tests.distributed.networks import compiled, loss, smooth
from tests.distributed.test_fsdp import sharded


def _said(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except npas.NpasError as error:
        return str(error)
    return ""


def _work(rank: int, n: int) -> dict[str, Any]:
    alike = compiled(smooth())
    other = npas.compile(smooth(), "40%" if rank in (1, 3) else "50%")
    kept = compiled(smooth())
    kept.get_parameter("0.bias").requires_grad_(rank != 2)
    model = smooth()
    torch.manual_seed(rank)
    other_seed = npas.compile(model, "20%", groups="single", k=1)
    tied = npas.compile(Tied(), 0.5, ignored_modules=["embed"])
    tied.head.weight = nn.Parameter(tied.head.weight.detach().clone())  # type: ignore[union-attr]
    early = compiled(smooth())
    optimizer = torch.optim.SGD(early.parameters(), lr=0.1)
    sharded(early, n)
    return {
        "alike": _said(npas.check_ranks, alike, torch.optim.SGD(alike.parameters(), lr=0.1)),
        "other plans": _said(npas.check_ranks, other),
        "other parameters": _said(npas.check_ranks, kept),
        "other gains": _said(npas.check_ranks, other_seed),
        "untied": _said(npas.check_ranks, tied),
        "of a group": _of_a_group(rank),
        "an early optimizer": _said(npas.check_ranks, early, optimizer),
        "a late one": _said(npas.check_ranks, early, torch.optim.SGD(early.parameters(), lr=0.1)),
        "small": _small(rank, n),
        "drawn": _drawn(rank, n),
        "again": _again(n),
    }


class Tied(nn.Module):
    """A head with the weight of an embedding, which is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(ids)))


def _of_a_group(rank: int) -> str:
    """Return what ranks 1 and 3 are told if the last has another optimizer."""
    group = dist.new_group([1, 3])
    if rank not in (1, 3):
        return ""
    module = compiled(smooth())
    trained = module if rank == 1 else smooth()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    return _said(lambda: npas.check_ranks(module, optimizer, group=group))


def _tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 1, bias=False), nn.Tanh(), nn.Linear(1, 2, bias=False))


def _small(rank: int, n: int) -> Any:
    """Train a bank that has fewer elements than there are ranks."""
    module = npas.compile(_tiny(), 2, groups="single", k=1)
    assert module.get_parameter("npas.banks.b0.theta").numel() < 3
    if n > 1:
        sharded(module, n)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))[rank::n]
    for _ in range(3):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    return {name: gathered(p.detach()) for name, p in module.named_parameters()}


class Scaled(nn.Module):
    """A module with a parameter and a buffer of its own, which its method sets."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(24))
        self.register_buffer("shift", torch.empty(24), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.scale)
        self.shift = torch.full_like(self.shift, 0.5)  # assigned, not written

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        model = nn.Sequential(*smooth().children(), Scaled(), nn.LayerNorm(24), nn.Linear(24, 24))
    return npas.compile(model, "50%", n_banks=2)


def _drawn(rank: int, n: int) -> dict[str, torch.Tensor]:
    """Draw a module that never had values: each rank with another generator than the first."""
    module = _on_meta()
    if n > 1:
        sharded(module, n)
    module.to_empty(device="cpu")
    torch.manual_seed(5 + rank)
    npas.reset(module, init="reset_parameters")
    values = {name: gathered(p.detach()) for name, p in module.named_parameters()}
    return values | {name: buffer.clone() for name, buffer in module.named_buffers()}


def _again(n: int) -> bool:
    """Tell whether a reset reaches the shards of a module that is gathered."""
    module = sharded(compiled(smooth()), n)
    with torch.no_grad():
        module(torch.zeros(1, 8))  # leaves what was gathered in place
    before = gathered(module.get_parameter("npas.banks.b0.theta")).clone()
    npas.reset(module)
    after = module.npas.banks.b0.theta.full_tensor()  # type: ignore[union-attr]
    loss(module, 0).backward()
    kept = torch.equal(module.npas.banks.b0.theta.full_tensor(), after)  # type: ignore[union-attr]
    return kept and not torch.equal(before, after)


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return on_ranks(4, _work)


def test_ranks_that_are_alike_pass(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert not found["alike"]
        assert not found["a late one"]


def test_ranks_that_differ_are_named_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["other plans"].startswith("ranks 1, 3 have other plans than rank 0: ")
        assert "write one plan.json" in found["other plans"]
        assert found["other parameters"].startswith(
            "rank 2 has other parameters or buffers than rank 0: "
        )


def test_ranks_of_other_seeds_are_named(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "other gains than rank 0" in found["other gains"]
        assert "torch.manual_seed with the same number" in found["other gains"]


def test_ranks_are_global_ones(ranks: list[dict[str, Any]]) -> None:
    for rank in (1, 3):
        assert ranks[rank]["of a group"].startswith("the optimizer on rank 3 does not train ")


def test_what_was_tied_and_is_not_is_named(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["untied"].startswith("head.weight was tied to embed.weight and is no longer")


def test_to_empty_unties_and_reset_and_save_say_so(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Tied()
    module: Any = npas.compile(model, 0.5, ignored_modules=["embed"]).to_empty(device="cpu")
    with pytest.raises(npas.NpasError, match=r"head\.weight was tied to embed\.weight"):
        npas.reset(module, init="reset_parameters")
    with pytest.raises(npas.NpasError, match=r"head\.weight was tied to embed\.weight"):
        npas.save(module, tmp_path)
    module.head.weight = module.embed.weight
    npas.reset(module, init="reset_parameters")
    # As in the model, where the embedding is made first: a std of 1, not that of a linear layer.
    assert float(module.head.weight.detach().std()) == pytest.approx(1, rel=0.3)
    npas.save(module, tmp_path)


def test_two_optimizers_may_train_a_module() -> None:
    module = compiled(smooth())
    parameters = list(module.parameters())
    halves = [torch.optim.SGD(part, lr=0.1) for part in (parameters[:4], parameters[4:])]
    npas.check_ranks(module, *halves)
    with pytest.raises(npas.NpasError, match="pass them all"):
        npas.check_ranks(module, halves[0])


def test_an_optimizer_made_before_sharding_is_an_error(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "ranks 0, 1, 2, 3 does not train" in found["an early optimizer"]
        assert "make it after npas.compile and fully_shard" in found["an early optimizer"]


def test_the_optimizer_is_checked_on_one_process_too() -> None:
    module = compiled(smooth())
    npas.check_ranks(module, torch.optim.SGD(module.parameters(), lr=0.1))
    with pytest.raises(npas.NpasError, match=r"does not train 10 of"):
        npas.check_ranks(module, torch.optim.SGD(smooth().parameters(), lr=0.1))
    with pytest.raises(npas.NpasError, match="nothing in Linear is compiled"):
        npas.check_ranks(nn.Linear(2, 2))


def test_a_bank_may_be_smaller_than_the_world(ranks: list[dict[str, Any]]) -> None:
    alone = _small(0, 1)
    for found in ranks:
        for name, value in alone.items():
            torch.testing.assert_close(found["small"][name], value, msg=name)


def test_values_are_the_same_on_any_number_of_ranks(ranks: list[dict[str, Any]]) -> None:
    alone = _drawn(0, 1)
    for found in (*ranks, *on_ranks(2, _only_drawn)):
        assert all(torch.equal(found["drawn"][name], value) for name, value in alone.items())


def _only_drawn(rank: int, n: int) -> dict[str, Any]:
    return {"drawn": _drawn(rank, n)}


def test_a_reset_reaches_the_shards(ranks: list[dict[str, Any]]) -> None:
    assert all(found["again"] for found in ranks)


class _Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor with memory that is made."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.found = max(self.found, result.numel())
        return result


def test_one_bank_or_one_layer_at_a_time_is_whole() -> None:
    module = _on_meta().to_empty(device="cpu")
    dense = sum(p.numel() for p in smooth().parameters())
    with _Largest() as largest:
        npas.reset(module, init="reset_parameters")
    banks = [module.get_parameter(f"npas.banks.b{i}.theta").numel() for i in range(2)]
    assert largest.found <= max(*banks, 24 * 24) < dense / 2


def test_layers_start_at_the_scale_that_their_modules_give_them() -> None:
    module = _on_meta().to_empty(device="cpu")

    def init(part: nn.Module) -> None:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02 if part.out_features == 24 else 0.3)
            nn.init.zeros_(part.bias)
        else:
            part.reset_parameters()  # type: ignore[operator]

    npas.reset(module, init=init)
    for name, weight in npas.dense_state_dict(module).items():
        if name.endswith("weight") and weight.dim() == 2:
            wanted = 0.3 if name == "7.weight" else 0.02
            assert float(weight.std()) == pytest.approx(wanted, rel=0.15), name
    starts = npas.report(module).starts
    assert starts["1.0.weight"].std == pytest.approx(0.02, rel=0.15)


def test_what_init_leaves_without_a_value_is_named() -> None:
    module = _on_meta().to_empty(device="cpu")
    with pytest.raises(npas.NpasError, match=r"init='nothing': 0 has parameters .*and \d+ others"):
        npas.reset(module, init="nothing")
    with pytest.raises(npas.NpasError, match=r"init leaves 0\.weight without a value"):
        npas.reset(module, init=lambda part: None)

    def all_but_the_buffer(part: Any) -> None:
        if not isinstance(part, Scaled):
            part.reset_parameters()
        else:
            nn.init.ones_(part.scale)

    with pytest.raises(npas.NpasError, match=r"init leaves 8\.shift without a value"):
        npas.reset(module, init=all_but_the_buffer)


@pytest.mark.parametrize("values", [torch.arange(3), torch.tensor([True]), torch.zeros(2) * 1j])
def test_buffers_of_any_dtype_have_to_be_set(values: torch.Tensor) -> None:
    class Indexed(nn.Linear):
        def __init__(self) -> None:
            super().__init__(24, 24)
            self.register_buffer("index", torch.empty_like(values))
            self.sets = True

        def reset_parameters(self) -> None:
            super().reset_parameters()
            if getattr(self, "sets", False):
                self.get_buffer("index").copy_(values)

    with torch.device("meta"):
        model = nn.Sequential(*(Indexed() for _ in range(3)))
    module: Any = npas.compile(model, 0.5).to_empty(device="cpu")
    npas.reset(module, init="reset_parameters")
    assert torch.equal(module[2].index, values)
    module[1].sets = False
    with pytest.raises(npas.NpasError, match=r"init leaves 1\.index without a value"):
        npas.reset(module, init="reset_parameters")
