import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

import npas
from npas.bank import Bank
from npas.errors import NpasError, NpasWarning
from npas.init import INITS, spread, zero_layers
from npas.module import Shapeshifter
from npas.naming import check_choice
from npas.originals import alone, least_change

pytestmark = pytest.mark.pure


class Net(nn.Module):
    """Layers of many shapes, kinds and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32, padding_idx=2)
        self.conv = nn.Conv1d(32, 48, 3, padding=1)
        self.mids = nn.Sequential(*(nn.Linear(48, 48) for _ in range(5)))
        self.wide = nn.Linear(48, 96)
        self.head = nn.Linear(96, 10)
        with torch.no_grad():
            self.get_parameter("mids.2.weight").mul_(7)
            self.head.weight.mul_(0.01)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.wide(self.mids(x)))


def banks_of(ssn: nn.Module) -> list[Bank]:
    return [m for m in ssn.modules() if isinstance(m, Bank)]


def compiled(
    model: nn.Module, budget: float | str | int, seed: int = 0, **options: Any
) -> Shapeshifter:
    torch.manual_seed(seed)
    return npas.compile(model, budget, **options)


def std(weight: torch.Tensor) -> float:
    return weight.detach().double().std(correction=0).item()


def generated(ssn: nn.Module) -> dict[str, torch.Tensor]:
    return {n: bank.generate(n).detach() for bank in banks_of(ssn) for n in bank.layer_names()}


_MODES = [
    *((d, "mask", b) for d in ("wavg", "emb", "avg", "rr") for b in ("30%", "70%")),
    ("wavg", "mask", "250%"),
    ("emb", "mask", "250%"),
    *(("wavg", u, "8%") for u in ("mask", "inter", "repeat")),
]


@pytest.mark.parametrize("groups", ["single", "by_shape", "random", "own"])
@pytest.mark.parametrize(("downsample", "upsample", "budget"), _MODES)
def test_every_weight_starts_at_the_originals_scale(
    groups: str, downsample: str, upsample: str, budget: str
) -> None:
    model = Net()
    try:
        ssn = compiled(model, budget, groups=groups, downsample=downsample, upsample=upsample)
    except npas.BudgetError as error:
        assert error.largest or error.smallest
        pytest.skip("the budget cannot be met in this mode")
    weights = generated(ssn)
    for name, weight in weights.items():
        expected = std(model.get_parameter(name))
        assert abs(std(weight) / expected - 1) < 0.05, name
    for bank in banks_of(ssn):
        assert bank.gain.abs().log().mean().abs() < 1e-3
        assert bool(bank.gain.all())


def test_gains_are_buffers_in_float32_and_not_in_the_plan() -> None:
    model = Net()
    ssn = compiled(model, "30%", groups="single")
    (bank,) = banks_of(ssn)
    assert bank.gain.dtype == torch.float32 and not bank.gain.requires_grad
    assert "gain" not in ssn._npas.plan.to_json()
    plan = npas.plan(model, "30%", groups="single")
    with torch.no_grad():
        model.get_parameter("mids.0.weight").mul_(3)
    assert npas.plan(model, "30%", groups="single") == plan


def test_gains_near_one_are_one() -> None:
    # So that a layer with one template is a view of its bank.
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(4)))
    with torch.no_grad():
        for layer in model:
            assert isinstance(layer, nn.Linear)
            layer.weight.normal_()
    ssn = compiled(model, "25.5%", groups="single")
    (bank,) = banks_of(ssn)
    assert bank.gain.abs().tolist() == [1.0] * 4
    for name, weight in generated(ssn).items():
        assert abs(std(weight) / std(model.get_parameter(name)) - 1) < 0.05


def alphas(bank: Bank) -> list[torch.Tensor]:
    """Return the coefficients of the layers that have some, without their gains."""
    found = []
    for name in bank.layer_names():
        layer, place, _ = bank.slot_of(name)
        if not layer.has_coefficients:
            continue
        if layer.downsample == "wavg":
            assert bank.alpha is not None
            found.append(bank.alpha[place : place + layer.k].detach())
        else:
            assert bank.phi is not None and bank.projection is not None and bank.bias is not None
            rows = bank.projection[: layer.k]
            found.append((rows @ bank.phi[place] + bank.bias[: layer.k]).detach())
    return found


def _exactly(n_layers: int, k: int, downsample: str) -> int:
    """Return the budget of a bank of k templates of 64 x 64, which every layer reads."""
    coefficients = n_layers * k if downsample == "wavg" else 24 * n_layers + 25 * k
    return 64 * 64 * k + coefficients


@pytest.mark.parametrize("k", [2, 4, 7])
@pytest.mark.parametrize("downsample", ["wavg", "emb"])
def test_alphas_are_orthogonal_where_k_allows(downsample: str, k: int) -> None:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(k)))
    ssn = compiled(model, _exactly(k, k, downsample), groups="single", downsample=downsample, k=k)
    found = torch.stack(alphas(*banks_of(ssn)))
    torch.testing.assert_close(found @ found.T, torch.eye(k), rtol=0, atol=1e-5)


@pytest.mark.parametrize("downsample", ["wavg", "emb"])
def test_alphas_are_spread_where_k_does_not_allow_it(downsample: str) -> None:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(10)))
    ssn = compiled(model, _exactly(10, 5, downsample), groups="single", downsample=downsample, k=5)
    found = torch.stack(alphas(*banks_of(ssn)))
    assert found.shape == (10, 5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(10))
    # Ten lines in five dimensions are at best 1/3 coherent; two random bases 0.8 to 0.95.
    assert (found @ found.T).fill_diagonal_(0).abs().max() < 0.6
    torch.testing.assert_close(found.T @ found, 2 * torch.eye(5), rtol=0, atol=0.02)


def test_rows_of_the_projection_are_orthonormal_and_its_bias_zero() -> None:
    ssn = compiled(Net(), "150%", groups="single", downsample="emb")
    (bank,) = banks_of(ssn)
    assert bank.projection is not None and bank.bias is not None
    rows = bank.projection.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
    assert not bank.bias.any()


def test_more_templates_than_an_embedding_has_dimensions() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    ssn = compiled(model, 32 * 32 * 40, groups="single", downsample="emb", k=30)
    for name, weight in generated(ssn).items():
        assert abs(std(weight) / std(model.get_parameter(name)) - 1) < 0.05


def zero_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(3)))
    nn.init.zeros_(model.get_parameter("1.weight"))
    return model


X = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))


def learns(ssn: Shapeshifter, name: str) -> None:
    """Check that a weight is zero now and not after a few steps, while the rest is as it was."""
    assert not generated(ssn)[name].any()
    assert npas.report(ssn).starts[name].start == "zero"
    target = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(ssn.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = ssn(X)
        assert bool(out.isfinite().all())
        loss = (out - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert generated(ssn)[name].any()
    assert losses[-1] < losses[0]


class Branch(nn.Module):
    """A residual branch whose last layer is zero: the output is the input at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.out = nn.Linear(32, 32, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x))) + 0.1 * self.out(x)


@pytest.mark.parametrize("downsample", ["wavg", "emb"])
def test_a_zero_weight_with_coefficients_starts_at_zero_and_learns(downsample: str) -> None:
    torch.manual_seed(0)
    ssn = compiled(Branch(), "160%", groups="single", downsample=downsample)
    layer = ssn._npas.plan.layer("down.weight")
    assert layer.has_coefficients
    (bank,) = banks_of(ssn)
    assert bank.scale is None, "no scalar is paid for where there is a coefficient"
    assert bool(bank.gain.all())
    learns(ssn, "down.weight")


@pytest.mark.parametrize(
    ("downsample", "upsample", "budget"),
    [("wavg", "mask", "40%"), ("avg", "mask", "100%"), ("rr", "mask", "60%")]
    + [("wavg", upsample, "25%") for upsample in ("mask", "inter", "repeat")],
)
def test_a_zero_weight_without_coefficients_gets_a_scalar_that_is_counted(
    downsample: str, upsample: str, budget: str
) -> None:
    torch.manual_seed(0)
    ssn = compiled(Branch(), budget, groups="single", downsample=downsample, upsample=upsample)
    plan = ssn._npas.plan
    assert plan.layer("down.weight").scale and not plan.layer("up.weight").scale
    (bank,) = banks_of(ssn)
    assert bank.scale is not None and bank.scale.tolist() == [0.0]
    assert plan.costs["b0"].scales == 1
    assert sum(p.numel() for p in ssn.parameters()) == plan.n_params <= plan.budget_params
    learns(ssn, "down.weight")


def test_a_scalar_is_for_the_zero_weight_alone_however_names_end() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(32, 32, bias=False)
            self.block = nn.ModuleDict({"fc": nn.Linear(32, 32, bias=False)})
            nn.init.zeros_(self.fc.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block["fc"](x) + self.fc(x)

    ssn = compiled(Nested(), "55%", groups="single")
    scales = {layer.name: layer.scale for layer in ssn._npas.plan.layers}
    assert scales == {"fc.weight": True, "block.fc.weight": False}


def test_a_zero_weight_whose_name_is_a_pattern() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleDict({"a[0]": nn.Linear(32, 32), "b": nn.Linear(32, 32)})
            nn.init.zeros_(self.get_parameter("heads.a[0].weight"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.heads["b"](x) + self.heads["a[0]"](x)

    ssn = compiled(Named(), "60%", groups="single")
    assert ssn._npas.plan.layer("heads.a[0].weight").scale


def test_a_plan_without_a_scalar_warns_and_starts_at_fan_in() -> None:
    torch.manual_seed(0)
    model = Branch()
    plan = npas.plan(model, "40%", groups="single")
    with pytest.warns(NpasWarning, match=r"down\.weight is zero in the original.*'scale': True"):
        ssn = npas.compile(model, plan=plan)
    assert npas.report(ssn).starts["down.weight"].start == "fan-in"
    assert std(generated(ssn)["down.weight"]) == pytest.approx(32**-0.5, rel=0.1)


def test_a_plan_with_a_scalar_does_not_warn() -> None:
    torch.manual_seed(0)
    model = Branch()
    plan = npas.plan(model, "40%", groups="single", overrides={"down": {"scale": True}})
    ssn = npas.compile(model, plan=plan)
    assert not generated(ssn)["down.weight"].any()


def test_a_scalar_that_was_asked_for_starts_at_one_where_the_weight_is_not_zero() -> None:
    torch.manual_seed(0)
    model = Branch()
    nn.init.normal_(model.down.weight)
    ssn = compiled(model, "40%", groups="single", overrides={"down": {"scale": True}})
    (bank,) = banks_of(ssn)
    assert bank.scale is not None and bank.scale.tolist() == [1.0]
    assert std(generated(ssn)["down.weight"]) == pytest.approx(std(model.down.weight), rel=0.05)


def test_a_user_who_refuses_the_scalar_is_warned() -> None:
    torch.manual_seed(0)
    with pytest.warns(NpasWarning, match=r"down\.weight"):
        ssn = compiled(Branch(), "40%", groups="single", overrides={"down": {"scale": False}})
    assert generated(ssn)["down.weight"].any()


def test_a_zero_weight_in_its_own_bank_stays_the_originals() -> None:
    torch.manual_seed(0)
    ssn = compiled(Branch(), "100%", groups="own")
    assert not ssn.get_parameter("down.weight").any()
    assert npas.report(ssn).starts["down.weight"].start == "original"
    ssn(X).sum().backward()
    assert ssn.get_parameter("down.weight").grad is not None


def test_all_weights_zero() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    ssn = compiled(model, "70%", groups="single")
    assert not ssn(X).any()
    (bank,) = banks_of(ssn)
    assert bool(bank.theta.isfinite().all()) and bool(bank.theta.any())


def test_a_constant_weight_is_matched_by_its_root_mean_square() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    nn.init.constant_(model.get_parameter("0.weight"), 0.25)
    ssn = compiled(model, "70%", groups="single")
    assert std(generated(ssn)["0.weight"]) == pytest.approx(0.25, rel=0.05)


def test_spread() -> None:
    assert spread(torch.tensor([1.0, 3.0])) == 1.0
    assert spread(torch.tensor([2.0, 2.0])) == 2.0
    assert spread(torch.zeros(3)) == 0.0
    assert spread(torch.tensor([5.0])) == 5.0
    assert spread(torch.full((4,), 300.0, dtype=torch.float16)) == 300.0


def test_zero_layers() -> None:
    weights = {"a": torch.zeros(3), "b": torch.ones(3), "c": torch.zeros(3, device="meta")}
    assert zero_layers(weights, weights) == ("a",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_start_at_scale_too(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    for budget in ("8%", "30%", "150%"):
        for name, weight in generated(compiled(model, budget, groups="single")).items():
            assert abs(std(weight) / std(model.get_parameter(name)) - 1) < 0.05, (budget, name)


def test_meta_tensors_have_no_start() -> None:
    with torch.device("meta"):
        model = Net()
    ssn = compiled(model, "30%", groups="single")
    assert all(p.is_meta for p in ssn.parameters())
    assert npas.report(ssn).starts == {}


def test_copy_starts_windows_with_the_originals_weights() -> None:
    # At twice its size a layer's first template is its own; here it has one.
    model = Net()
    ssn = compiled(model, "90%", groups="by_shape", init="copy", k=1, downsample="rr")
    kept = 0
    for bank in banks_of(ssn):
        layers = [bank.slot_of(name)[0] for name in bank.layer_names()]
        largest = max(layers, key=lambda layer: layer.n)
        weight = bank.generate(largest.name).detach().flatten().double()
        original = model.get_parameter(largest.name).detach().flatten().double()
        n = min(bank.theta.numel(), largest.n)
        pair = torch.stack([weight[:n], original[:n]])
        if float(torch.corrcoef(pair)[0, 1]) > 0.99:
            kept += 1
    assert kept >= len(banks_of(ssn)) - 1


def test_copy_of_one_layer_upsampled_keeps_its_first_tile() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    ssn = compiled(model, "60%", groups="own", init="copy", upsample="repeat")
    weight = generated(ssn)["0.weight"].flatten()
    original = model.get_parameter("0.weight").detach().flatten()
    n = ssn.get_parameter("npas.banks.b0.theta").numel()
    ratio = weight[:n] / original[:n]
    assert torch.allclose(ratio, ratio[0].expand(n), rtol=1e-3)
    assert std(weight) == pytest.approx(std(original), rel=0.05)


@pytest.mark.parametrize("init", ["random", "copy"])
def test_a_bank_that_one_layer_fills_keeps_the_originals_weights(init: str) -> None:
    model = Net()
    ssn = compiled(model, 1.0, groups="own", init=init)
    for name, parameter in model.named_parameters():
        assert torch.equal(ssn.get_parameter(name), parameter)
    assert {s.start for s in npas.report(ssn).starts.values()} == {"original"}


def test_random_starts_differ_by_torchs_seed_alone() -> None:
    model = Net()
    state = model.state_dict()
    first, again, other = (compiled(model, "30%", seed, groups="single") for seed in (0, 0, 1))
    assert torch.equal(generated(first)["wide.weight"], generated(again)["wide.weight"])
    assert not torch.equal(generated(first)["wide.weight"], generated(other)["wide.weight"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_report_says_how_each_layer_starts() -> None:
    model = Net()
    starts = npas.report(compiled(model, "30%", groups="single")).starts
    assert list(starts) == [layer.name for layer in npas.plan(model, "30%").layers]
    for name, start in starts.items():
        assert start.start == "generated"
        assert start.std == pytest.approx(std(model.get_parameter(name)), rel=1e-4)
        assert start.gain and math.isfinite(start.gain)


def test_masks_start_as_signs() -> None:
    ssn = compiled(Net(), "8%", groups="single")
    (bank,) = banks_of(ssn)
    assert bank.mask is not None
    assert set(bank.mask.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("wrong", ["rnadom", "fitt", 3, None])
def test_an_unknown_init(wrong: Any) -> None:
    with pytest.raises(NpasError, match=rf"init={wrong!r} is unknown"):
        npas.compile(Net(), "30%", init=wrong)
    check_choice("init", "random", INITS)


def test_reset_draws_every_bank_again_at_the_scales_that_were_compiled() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(4)]
    for i, layer in enumerate(layers):
        nn.init.normal_(layer.weight, std=0.1 * (i + 1))
    nn.init.zeros_(layers[3].weight)
    model = nn.Sequential(*layers)
    ssn = npas.compile(model, 0.5, groups="single")
    before = {n: p.detach().clone() for n, p in ssn.named_parameters()}
    expected = {n: float(w.std(correction=0)) for n, w in weights_of(ssn).items()}
    empty = copy.deepcopy(ssn).to("meta").to_empty(device="cpu")
    for module in (ssn, empty):
        npas.reset(module)
        for name, weight in weights_of(module).items():
            assert float(weight.std(correction=0)) == pytest.approx(expected[name], rel=0.05)
        assert not weights_of(module)["3.weight"].any()
    assert not torch.equal(ssn.get_parameter("npas.banks.b0.theta"), before["npas.banks.b0.theta"])
    assert torch.equal(ssn.get_parameter("0.bias"), before["0.bias"])


def test_reset_of_a_module_that_was_compiled_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 32), nn.Linear(32, 32))
    ssn = npas.compile(model, 0.5, groups="single")
    with pytest.raises(NpasError, match="on the meta device"):
        npas.reset(ssn)
    ssn.to_empty(device="cpu")
    npas.reset(ssn, stds={"2.weight": 0.5})
    found = {n: float(w.std(correction=0)) for n, w in weights_of(ssn).items()}
    wanted = {"0.weight": 1.0, "1.weight": (3 * 32) ** -0.5, "2.weight": 0.5}
    assert found == pytest.approx(wanted, rel=0.05)
    with pytest.raises(NpasError, match=r"stds: '3\.weight' is no generated layer"):
        npas.reset(ssn, stds={"3.weight": 0.5})
    with pytest.raises(NpasError, match="not compiled by npas"):
        npas.reset(nn.Linear(2, 2))


def weights_of(ssn: nn.Module) -> dict[str, torch.Tensor]:
    banks = [m for m in ssn.modules() if isinstance(m, Bank)]
    return {n: bank.generate(n).detach() for bank in banks for n in bank.layer_names()}


@pytest.mark.parametrize("groups", ["own", "single"])
@pytest.mark.parametrize("downsample", ["wavg", "emb", "avg"])
def test_layers_that_share_nothing_start_with_the_originals_weights(
    groups: str, downsample: str
) -> None:
    """At 400% with own banks templates overlap; with k=1 or 2 windows of one bank do not."""
    model = Net()
    k = None if groups == "own" else 2
    budget = "400%" if groups == "own" else "195%"
    ssn = compiled(model, budget, groups=groups, downsample=downsample, k=k)
    kept = 0
    for bank in banks_of(ssn):
        layers = [bank.slot_of(name)[0] for name in bank.layer_names()]
        for name in alone(layers):
            kept += 1
            assert npas.report(ssn).starts[name].start == "original"
            weight, original = generated(ssn)[name], model.get_parameter(name)
            torch.testing.assert_close(weight, original.detach(), rtol=1e-4, atol=1e-5)
            # What the layer does not need stays random: no template is empty, and none is another.
        theta = bank.theta.detach()
        assert float(theta.std()) > 0 and bool((theta[:-1] != theta[1:]).all())
    assert kept >= 8 if groups == "own" else kept >= 4


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 3e-7), (torch.float64, 1e-9)])
def test_what_is_kept_of_originals_is_off_by_rounding_alone(dtype: torch.dtype, off: float) -> None:
    for seed in range(4):
        model = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 12)).to(dtype)
        nn.init.constant_(model.get_parameter("1.weight"), 0.1)
        weights = dict(model.named_parameters())
        ssn = compiled(model, "115%", seed=seed, groups="own")
        for bank in banks_of(ssn):
            for name in bank.layer_names():
                assert npas.report(ssn).starts[name].start == "original"
                made, wanted = bank.generate(name).detach(), weights[name].detach()
                assert float((made - wanted).abs().max()) <= off, (name, seed)


def test_a_pretrained_model_at_400_percent_with_own_banks_computes_what_it_did() -> None:
    model = Net()
    ids = torch.randint(0, 60, (4, 7))
    for downsample in ("wavg", "emb"):
        ssn = compiled(model, "400%", groups="own", downsample=downsample)
        torch.testing.assert_close(ssn(ids), model(ids), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("factors", "stride"),
    [([0.5, -0.5, 0.7], 50), ([0.6, 0.8], 20), ([0.3, 0.5, 0.8], 37), ([2], 0)],
)
def test_the_least_change(factors: list[float], stride: int) -> None:
    wanted = torch.randn(50, dtype=torch.float64)
    found = least_change(wanted, factors, stride)
    assert found is not None
    matrix = torch.zeros(50, len(found), dtype=torch.float64)
    for k, factor in enumerate(factors):
        matrix[:, k * stride : k * stride + 50] += factor * torch.eye(50, dtype=torch.float64)
    torch.testing.assert_close(matrix @ found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, torch.linalg.pinv(matrix) @ wanted, rtol=1e-4, atol=1e-4)


def test_templates_that_cancel_have_no_least_change() -> None:
    assert least_change(torch.ones(50), [1.0, -1.0], 0) is None
    assert least_change(torch.randn(5000), [1.0, -1.0], 1) is None


def test_what_is_alone_in_a_bank() -> None:
    plan = npas.plan(Net(), "100%", groups="single", k=1)
    assert set(alone(plan.layers)) == {layer.name for layer in plan.layers}
    assert alone(npas.plan(Net(), "30%", groups="single").layers) == []
    upsampled = npas.plan(Net(), "60%", groups="own").layers
    assert not upsampled[0].k and alone(upsampled[:1]) == [upsampled[0].name]


def special_net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(6)))
    nn.init.orthogonal_(model.get_parameter("1.weight"))
    nn.init.eye_(model.get_parameter("2.weight"))
    nn.init.constant_(model.get_parameter("3.weight"), 0.1)
    nn.init.zeros_(model.get_parameter("4.weight"))
    return model


def test_special_weights_are_kept_where_nothing_is_shared() -> None:
    model = special_net()
    for budget in ("100%", "300%"):
        ssn = compiled(model, budget, groups="own")
        for name, weight in weights_of(ssn).items():
            assert npas.report(ssn).starts[name].lost == ""
            torch.testing.assert_close(weight, model.get_parameter(name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("init", ["random", "copy"])
def test_special_weights_are_reported_where_they_are_lost(init: str) -> None:
    ssn = compiled(special_net(), "50%", groups="single", init=init)
    report = npas.report(ssn)
    assert {name: start.lost for name, start in report.starts.items()} == {
        "0.weight": "",
        "1.weight": "orthogonal",
        "2.weight": "zero in 97% of its elements and orthogonal",
        "3.weight": "constant",
        "4.weight": "",
        "5.weight": "",
    }
    assert re.search(r"1\.weight: starts \w+, .*, was orthogonal\n", str(report))
    starts = {start.start for start in report.starts.values()}
    assert starts == {"zero", "generated" if init == "random" else "copied"}


class Tied(nn.Module):
    """Thirty blocks that add the same function to a stream, where a plan ties them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + 0.3 * block(torch.nn.functional.layer_norm(x, (64,)))
        return x


@pytest.mark.parametrize("budget", [64 * 64, "1.5%"])  # one window for all; upsampled for all
def test_layers_without_coefficients_that_read_the_same_differ_in_sign(budget: str | int) -> None:
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(64, 64)
    ssn = compiled(model, budget, groups="single")
    (bank,) = banks_of(ssn)
    signs = bank.gain.sign().tolist()
    assert signs[0] == 1 and 8 <= signs.count(-1) <= 22
    # The report's gains carry the sign.
    assert [npas.report(ssn).starts[n].gain for n in bank.layer_names()] == bank.gain.tolist()
    weights = [*generated(ssn).values()]
    for sign, weight in zip(signs, weights, strict=True):
        torch.testing.assert_close(weight * sign, weights[0], rtol=0.05, atol=1e-6)
    with torch.no_grad():
        off = float(ssn(x).std() / model(x).std())
        bank.set_gains(bank.gain.abs())
        off_without = float(ssn(x).std() / model(x).std())
    assert max(off, 1 / off) < 1.5 < off_without


def test_only_layers_whose_gain_is_not_one_are_made() -> None:
    torch.manual_seed(0)
    ssn = compiled(Tied(), 64 * 64, groups="single")
    (bank,) = banks_of(ssn)
    start = bank.theta.data_ptr()
    for name, gain in zip(bank.layer_names(), bank.gain.tolist(), strict=True):
        assert (bank.generate(name).data_ptr() == start) == (gain == 1.0)


_ZERO_MODES = [
    ("wavg", "mask", "160%", "wavg x4"),
    ("emb", "mask", "160%", "emb x4"),
    ("avg", "mask", "160%", "avg x4"),
    ("rr", "mask", "60%", "window"),
    ("wavg", "mask", "40%", "window"),
    *(("wavg", upsample, "25%", upsample) for upsample in ("mask", "inter", "repeat")),
]


@pytest.mark.parametrize(("downsample", "upsample", "budget", "mode"), _ZERO_MODES)
@pytest.mark.parametrize("how", ["compile", "compile_", "calibrated"])
def test_a_zero_weight_learns_in_the_first_steps(
    downsample: str, upsample: str, budget: str, mode: str, how: str
) -> None:
    torch.manual_seed(0)
    model = Branch()
    make: Any = npas.compile_ if how == "compile_" else npas.compile
    given = X if how == "calibrated" else None
    options = {"groups": "single", "downsample": downsample, "upsample": upsample, "k": 4}
    ssn = make(copy.deepcopy(model), budget, calibrate=given, **options)
    (bank,) = banks_of(ssn)
    assert bank.slot_of("down.weight")[0].mode == mode

    def loss() -> torch.Tensor:
        return (ssn(X) - X.flip(0)).square().sum(1).mean()

    with torch.no_grad():
        assert not bank.generate("down.weight").any()
        torch.testing.assert_close(ssn(X), X + 0.1 * (X @ bank.generate("out.weight").T))
        before = float(loss())
    optimizer = torch.optim.SGD(ssn.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(bank.generate("down.weight").detach().std()) > 1e-3
    assert float(loss().detach()) < before
