"""Fitting pretrained weights: `init="fit"`, `npas.fit`, and the errors in the report."""

import copy
import sys
import warnings
import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import is_tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import npas
from npas.bank import Bank, banks_of
from npas.errors import NpasError, NpasWarning
from npas.fitting.bank import BankFit
from npas.fitting.layer import FitLayer
from npas.fitting.start import copied, drawn, held
from npas.fitting.weights import fit_weights, layers_of

pytestmark = pytest.mark.pure


def stack(layers: int = 6, width: int = 32, seed: int = 0, **options: Any) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(width, width, bias=False, **options) for _ in range(layers)))


class Mixed(nn.Module):
    """Layers of many kinds and sizes, one tied, one with a padding row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(60, 32, padding_idx=2)
        self.conv = nn.Conv1d(32, 48, 3, padding=1)
        self.depthwise = nn.Conv1d(48, 48, 3, padding=1, groups=48)
        self.mids = nn.Sequential(*(nn.Linear(48, 48) for _ in range(4)))
        self.back = nn.Linear(48, 32)
        self.head = nn.Linear(32, 60, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.words(ids).transpose(1, 2))
        return self.head(self.back(self.mids(self.depthwise(x).transpose(1, 2))))


IDS = torch.randint(0, 60, (4, 9), generator=torch.Generator().manual_seed(3))
MODES: list[dict[str, Any]] = [
    *({"budget": b, "downsample": d} for d in ("wavg", "emb", "avg", "rr") for b in ("40%", "80%")),
    *({"budget": "12%", "upsample": u} for u in ("mask", "inter", "repeat")),
    {"budget": "250%", "downsample": "wavg"},
    {"budget": "250%", "downsample": "emb"},
]


def weights_of(ssn: nn.Module) -> dict[str, torch.Tensor]:
    return {
        n: bank.generate(n).detach() for bank in banks_of(ssn).values() for n in bank.layer_names()
    }


def fit_layers(bank: Bank, model: nn.Module, *, random: bool = False) -> list[FitLayer]:
    """Return a bank's layers as the fit sees them, with random importance where asked for."""
    found = []
    for name in bank.layer_names():
        layer = bank.slot_of(name)[0]
        count = layer.k if layer.has_coefficients else 1
        weight = model.get_parameter(name).detach()
        importance = torch.rand(weight.shape[1:]) + 0.1 if random else None
        found.append(FitLayer(layer, weight.flatten(), importance, torch.ones(count)))
    return found


def plain_error(layers: list[FitLayer], made: dict[str, torch.Tensor]) -> float:
    """Return the weighted squared error, written out."""
    total = 0.0
    for layer in layers:
        difference = layer.target.view(layer.layer.shape).double() - made[layer.layer.name].double()
        counts = 1.0 if layer.importance is None else layer.importance.double()
        if layer.layer.padding_idx is not None:
            difference[layer.layer.padding_idx] = 0
        total += float((counts * difference.square()).sum())
    return total


@pytest.mark.parametrize("options", MODES, ids=str)
@pytest.mark.parametrize("start", [copied, drawn])
def test_the_error_falls_in_every_step_of_every_mode(start: Any, options: dict[str, Any]) -> None:
    model, options = Mixed(), dict(options)
    ssn = npas.compile(model, options.pop("budget"), groups="single", **options)
    (bank,) = banks_of(ssn).values()
    layers = fit_layers(bank, model, random=True)
    fit = start(layers, bank, torch.Generator().manual_seed(1))
    last = first = fit.error()
    # Rounding, where next to nothing is left.
    noise = 1e-9 * sum(layer.energy() for layer in layers)
    for _ in range(4):
        for step in (fit.step_bank, fit.step_factors, fit.step_masks):
            step()
            error = fit.error()
            assert error <= last * (1 + 1e-6) + noise, step.__name__
            last = error
    assert last < 0.999 * first + noise


@pytest.mark.parametrize("options", MODES, ids=str)
def test_what_is_written_makes_the_fitted_weights(options: dict[str, Any]) -> None:
    model, options = Mixed(), dict(options)
    budget = options.pop("budget")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NpasWarning)
        ssn = npas.fit(model, budget, groups="single", **options)
    (bank,) = banks_of(ssn).values()
    layers = layers_of(bank, dict(model.named_parameters()), {})
    found = held(layers, bank)
    made = weights_of(ssn)
    for layer in layers:
        weight = layer.make(found.theta, found.mask).view(layer.layer.shape)
        if layer.layer.padding_idx is not None:
            weight[layer.layer.padding_idx] = 0
        torch.testing.assert_close(weight, made[layer.layer.name], rtol=1e-3, atol=1e-5)
    # No step of the alternation finds much more: what was written is where it settled.
    before = plain_error(layers, made)
    noise = 1e-11
    assert found.error() == pytest.approx(before, rel=1e-4, abs=noise)
    found.step_bank()
    found.step_factors()
    found.step_masks()
    assert found.error() > 0.9 * before - noise


def test_the_bank_step_is_exact_where_it_decouples() -> None:
    model = stack()
    ssn = npas.compile(model, "30%", groups="single", downsample="rr")
    (bank,) = banks_of(ssn).values()
    layers = fit_layers(bank, model, random=True)
    fit = drawn(layers, bank, torch.Generator().manual_seed(0))
    fit.step_bank()
    # Each element is the weighted mean of what is asked of it.
    above, below = torch.zeros_like(fit.theta), torch.zeros_like(fit.theta)
    for layer in layers:
        counts = layer.weigh(torch.ones(layer.layer.n))
        window = slice(layer.layer.base, layer.layer.base + layer.layer.n)
        above[window] += layer.factors * counts * layer.target
        below[window] += layer.factors.square() * counts
    torch.testing.assert_close(fit.theta, above / below, rtol=1e-4, atol=1e-5)


def test_the_bank_step_is_that_of_a_dense_solver() -> None:
    model = stack(layers=3, width=6)
    ssn = npas.compile(model, 70, groups="single", k=3)
    (bank,) = banks_of(ssn).values()
    layers = fit_layers(bank, model)
    fit = drawn(layers, bank, torch.Generator().manual_seed(0))
    n = fit.theta.numel()
    columns = [torch.cat([layer.make(unit, fit.mask) for layer in layers]) for unit in torch.eye(n)]
    wanted = torch.cat([layer.target for layer in layers])
    best = torch.linalg.lstsq(torch.stack(columns, 1).double(), wanted.double()[:, None])
    expected = float(
        (torch.stack(columns, 1).double() @ best.solution - wanted[:, None]).square().sum()
    )
    for _ in range(8):
        fit.step_bank()
    assert fit.error() == pytest.approx(expected, rel=1e-4)


def test_aligned_layers_reach_the_optimum_of_a_truncated_svd() -> None:
    # 8 layers on the same two windows: the best is the SVD of their table, at rank 2.
    model = stack(layers=8)
    # Every layer counts the same, whatever its scale.
    with torch.no_grad():
        for index, layer in enumerate(model):
            layer.get_parameter("weight").mul_(1 + index)
    n = 32 * 32
    ssn = npas.fit(model, 2 * n + 16, groups="single", k=2)
    table = torch.stack(
        [nn.functional.normalize(p.detach().flatten(), dim=0) for p in model.parameters()]
    )
    best = float(torch.linalg.svdvals(table)[2:].square().sum())
    fit = npas.report(ssn).fit
    assert fit is not None
    found = sum(error.relative**2 for error in fit.layers.values())
    assert best * 0.999 < found < best * 1.02


@pytest.mark.parametrize("downsample", ["wavg", "emb"])
def test_weights_that_a_plan_made_are_recovered(downsample: str) -> None:
    source = npas.compile(stack(layers=12, seed=1), "10%", groups="single", downsample=downsample)
    model = npas.materialize(source)
    ssn = npas.fit(model, "10%", groups="single", downsample=downsample)
    fit = npas.report(ssn).fit
    assert fit is not None and fit.total.relative < 1e-3


def test_layers_that_are_copies_fit_into_one() -> None:
    # As an ALBERT whose shared block was unrolled into separate layers.
    model = stack(layers=8)
    with torch.no_grad():
        for layer in list(model)[1:]:
            layer.get_parameter("weight").copy_(model.get_parameter("0.weight"))
    ssn = npas.fit(model, 1 / 8, groups="fit")
    assert [bank.size for bank in ssn._npas.plan.banks] == [32 * 32]
    fit = npas.report(ssn).fit
    assert fit is not None and fit.total.relative < 1e-5
    x = torch.randn(3, 32)
    torch.testing.assert_close(ssn(x), model(x), rtol=1e-3, atol=1e-5)


def test_more_templates_than_an_embedding_has_dimensions() -> None:
    model = stack(layers=30)
    ssn = npas.fit(model, "126%", groups="single", downsample="emb", k=36)
    (bank,) = banks_of(ssn).values()
    assert bank.projection is not None and bank.projection.shape[0] > 24
    fit = npas.report(ssn).fit
    # Of 30 weights with nothing in common, coefficients of rank 24 reach 24.
    # Of 30 weights with nothing in common, coefficients of rank 24 on one basis would reach 24.
    assert fit is not None
    assert 0 < sum(error.relative**2 for error in fit.layers.values()) < 6.6
    history = _history(ssn, model)
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(history))


def _history(ssn: nn.Module, model: nn.Module) -> list[float]:
    from npas.fitting.shared import SharedRows

    (bank,) = banks_of(ssn).values()
    fit: BankFit = drawn(fit_layers(bank, model), bank, torch.Generator().manual_seed(0))
    fit.shared = SharedRows.of([layer for layer in fit.layers if layer.free])
    fit.run(6)
    return fit.errors


@pytest.mark.parametrize("compiler", ["compile", "compile_"])
def test_own_banks_at_100_percent_are_the_original_bit_for_bit(compiler: str) -> None:
    model = Mixed()
    expected = model(IDS)
    given = copy.deepcopy(model)
    ssn = getattr(npas, compiler)(given, "100%", groups="own", init="fit")
    assert torch.equal(ssn(IDS), expected)
    fit = npas.report(ssn).fit
    assert fit is not None and fit.total.relative == 0
    assert {start.start for start in npas.report(ssn).starts.values()} == {"original"}


def test_the_report_tells_the_errors_that_the_weights_have() -> None:
    model = Mixed()
    ssn = npas.fit(model, "60%", n_banks=2)
    report = npas.report(ssn)
    assert report.fit is not None
    squares = []
    for name, weight in weights_of(ssn).items():
        original = model.get_parameter(name).detach()
        error = float((weight - original).norm() / original.norm())
        assert report.fit.layers[name].relative == pytest.approx(error, rel=1e-4)
        assert f"fit of {name}: relative error {error:.4f}" in str(report)
        squares.append(error**2)
    mean = sum(squares) / len(squares)
    assert report.fit.total.relative == pytest.approx(mean**0.5, rel=1e-4)
    assert set(report.fit.banks) == set(banks_of(ssn))
    for name, bank in banks_of(ssn).items():
        parts = [report.fit.layers[layer].relative ** 2 for layer in bank.layer_names()]
        expected = (sum(parts) / len(parts)) ** 0.5
        assert report.fit.banks[name].relative == pytest.approx(expected, rel=1e-6)
    assert npas.report(npas.compile(model, "60%")).fit is None


def test_gains_stay_fixed_and_of_geometric_mean_one() -> None:
    ssn = npas.fit(Mixed(), "40%", groups="single")
    (bank,) = banks_of(ssn).values()
    assert abs(float(bank.gain.double().log().mean())) < 1e-5
    assert bool((bank.gain > 0).all()) and not bank.gain.requires_grad
    for start, gain in zip(npas.report(ssn).starts.values(), bank.gain.tolist(), strict=True):
        assert start.start == "fitted" and start.gain == pytest.approx(gain)


def test_the_model_is_not_changed_and_the_same_model_gives_the_same_fit() -> None:
    model = Mixed()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    first = npas.fit(model, "50%", batches=[IDS]).state_dict()
    torch.manual_seed(2)
    again = npas.fit(model, "50%", batches=[IDS]).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_tied_weights_are_one_layer() -> None:
    ssn = npas.fit(Mixed(), "50%", groups="single")
    dense = npas.dense_state_dict(ssn)
    assert torch.equal(dense["words.weight"], dense["head.weight"])
    fit = npas.report(ssn).fit
    assert fit is not None and "words.weight" in fit.layers and "head.weight" not in fit.layers


def test_padding_rows_stay_zero() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16, padding_idx=3), nn.Linear(16, 50), nn.Linear(50, 16))
    for budget in ("60%", "35%"):
        ssn = npas.fit(model, budget, groups="single", batches=[torch.arange(50)[None]])
        assert not npas.dense_state_dict(ssn)["0.weight"][3].any()
        assert npas.dense_state_dict(ssn)["0.weight"][4].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_banks_of_other_dtypes_are_fitted_in_float32_or_more(dtype: torch.dtype) -> None:
    model = stack().to(dtype)
    ssn = npas.fit(model, "50%", groups="single")
    reference = npas.report(npas.fit(stack(), "50%", groups="single")).fit
    (bank,) = banks_of(ssn).values()
    assert bank.theta.dtype == dtype
    fit = npas.report(ssn).fit
    assert fit is not None and reference is not None
    assert fit.total.relative == pytest.approx(reference.total.relative, abs=0.01)


def test_weights_of_zeros_start_at_zero_and_learn() -> None:
    model = stack()
    nn.init.zeros_(model.get_parameter("2.weight"))
    ssn = npas.fit(model, "60%", groups="single")
    assert npas.report(ssn).starts["2.weight"].start == "zero"
    assert not weights_of(ssn)["2.weight"].any()
    x = torch.randn(4, 32)
    optimizer = torch.optim.SGD(ssn.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (ssn(x) - 1).square().mean().backward()
        optimizer.step()
    assert weights_of(ssn)["2.weight"].any()
    every = stack()
    for parameter in every.parameters():
        nn.init.zeros_(parameter)
    ssn = npas.fit(every, "60%", groups="single")
    assert not any(weight.any() for weight in weights_of(ssn).values())


def test_a_zero_that_nothing_can_make_is_said() -> None:
    model = stack()
    plan = npas.plan(model, "30%", groups="single", downsample="rr")
    nn.init.zeros_(model.get_parameter("2.weight"))
    with pytest.warns(NpasWarning, match=r"2\.weight is zero.*'scale': True"):
        ssn = npas.compile(model, plan=plan, init="fit")
    assert npas.report(ssn).starts["2.weight"].start == "fan-in"


def test_a_fit_that_finds_next_to_nothing_warns_with_the_number() -> None:
    with pytest.warns(NpasWarning, match=r"relative error of 0\.9\d"):
        npas.fit(stack(layers=12), "8%", groups="single")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("compiler", ["compile", "compile_"])
def test_weights_that_are_not_finite_are_refused_by_name(compiler: str, value: float) -> None:
    model = stack()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 1] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NpasError, match=r"3\.weight holds 1 values that are NaN or infinite"):
        getattr(npas, compiler)(model, "50%", init="fit")
    assert all(
        torch.equal(before[n].nan_to_num(), v.nan_to_num()) for n, v in model.state_dict().items()
    )


def test_meta_tensors_have_nothing_to_fit() -> None:
    with torch.device("meta"):
        model = stack()
    with pytest.raises(NpasError, match=r"0\.weight is on the meta device.*init='random'"):
        npas.fit(model, "50%")


@pytest.mark.parametrize("frontend", ["fx", "opaque"])
def test_every_front_end_starts_from_the_same_fit(frontend: str) -> None:
    model = Mixed()
    ssn = npas.fit(model, "60%", batches=[IDS], frontend=frontend)
    other = npas.compile_(copy.deepcopy(model), "60%", init="fit", fit_batches=[IDS])
    assert npas.report(ssn).fit == npas.report(other).fit
    torch.testing.assert_close(ssn(IDS), other(IDS))


class Taken(nn.Module):
    """Has what fx calls its own, so that it is compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(16, 16)
        self.next = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.next(self.graph(x))


def test_a_model_without_a_graph_is_fitted_too() -> None:
    ssn = npas.fit(Taken(), "70%", batches=(torch.randn(3, 16) for _ in range(2)))
    fit = npas.report(ssn).fit
    assert fit is not None and fit.total.weighted is not None


def test_gains_are_calibrated_after_the_fit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
    x = torch.randn(64, 32)
    ratios = {}
    for calibrate in (None, x):
        ssn = npas.fit(model, "40%", groups="single", calibrate=calibrate)
        ratios[calibrate is None] = float((ssn(x).std() / model(x).std()).detach())
    assert abs(ratios[False] - 1) < abs(ratios[True] - 1)


def test_fit_takes_no_other_start() -> None:
    with pytest.raises(NpasError, match="fit takes no init"):
        npas.fit(stack(), "50%", init="copy")
    with pytest.raises(NpasError, match="compile has no argument 'bach'"):
        npas.fit(stack(), "50%", bach=1)


def test_progress_shows_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npas.fit(stack(), "50%", groups="single")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    npas.fit(stack(), "50%", groups="single")
    captured = capsys.readouterr()
    assert "fit" in captured.err and "b0" in captured.err and captured.out == ""


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operators made and something still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_tensor(t)
        }
        out = func(*args, **(kwargs or {}))
        for made in filter(is_tensor, tree_leaves(out)):
            place = made.untyped_storage().data_ptr()
            if place in given and place not in self._held:
                continue  # a view of what was there before
            size = made.untyped_storage().nbytes()
            if not self._held.get(place):
                self.now += size
            self._held[place] = self._held.get(place, 0) + 1
            self.most = max(self.most, self.now)
            weakref.finalize(made, self._drop, place, size)
        return out

    def _drop(self, place: int, size: int) -> None:
        self._held[place] -= 1
        if not self._held[place]:
            del self._held[place]
            self.now -= size


def test_memory_is_a_small_multiple_of_a_bank() -> None:
    # 32 banks of two layers, in turn.
    model = stack(layers=64, width=96)
    groups = {f"{i}": f"b{i // 2}" for i in range(64)}
    ssn = npas.compile(model, "50%", groups=groups)
    with Live() as live:
        fit_weights(ssn._npas.plan, banks_of(ssn), dict(model.named_parameters()))
    layer = 4 * 96 * 96
    # A bank is as large as a layer here; the banks together are 32 of them.
    assert 4 * layer < live.most < 14 * layer
    assert live.now < layer
