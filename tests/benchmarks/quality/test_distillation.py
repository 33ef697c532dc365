"""Distillation: the losses by hand, who learns and who does not, and the files of teachers."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import truncnorm
from torch import Tensor, nn

import npas
from benchmarks.networks.wrn import wrn
from benchmarks.quality import teachers
from benchmarks.quality.distillation import Distilled, Pupil, still
from benchmarks.quality.distillation_features import Exposed, exposed
from benchmarks.quality.distillation_losses import LESSONS, Ofd, Srr, margin, partial_l2
from benchmarks.quality.experiments.distillation import EXPERIMENTS
from benchmarks.quality.networks import NETWORKS
from benchmarks.quality.printed import printed
from benchmarks.quality.quick import IMAGES, quick
from benchmarks.quality.spec import Build, Recipe, Run, missing, npas_build, options
from benchmarks.quality.tasks import task
from benchmarks.quality.teachers import Teacher, kept, teacher
from benchmarks.quality.train import train
from benchmarks.sources import Sources

pytestmark = pytest.mark.pure

NOWHERE = Sources()
TINY = replace(IMAGES, lr=0.1)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(teachers, "FOLDER", tmp_path / "quality")
    return tmp_path / "quality"


def distilled(method: str) -> Recipe:
    return replace(TINY, how=options(distil=method, teacher=IMAGES.network))


def test_partial_l2_counts_what_a_relu_would_tell_apart() -> None:
    target = torch.tensor([0.5, 2.0, -1.0, -1.0, -1.0])
    features = torch.tensor([1.0, -1.0, -2.0, -0.5, 0.5])
    # Squared errors 0.25, 9, 1 (both negative, and below the target: left out), 0.25 and 2.25.
    assert partial_l2(features, target).item() == pytest.approx(0.25 + 9 + 0.25 + 2.25)


def test_margins_are_means_of_negative_values() -> None:
    norm = nn.BatchNorm2d(6)
    means, stds = [0.0, 1.0, -2.0, 0.5, 4.0, 1.0], [1.0, 2.0, 0.5, -1.5, 1.0, 0.0]
    norm.load_state_dict(
        norm.state_dict() | {"bias": torch.tensor(means), "weight": torch.tensor(stds)}
    )
    found = margin(norm).tolist()
    assert found[0] == pytest.approx(-math.sqrt(2 / math.pi))
    for mean, std, value in zip(means[:4], stds[:4], found[:4], strict=True):
        std = abs(std)
        assert value == pytest.approx(truncnorm.mean(-math.inf, -mean / std, mean, std), rel=1e-5)
    assert found[4] == -3.0  # negative values are too rare for a mean
    assert -1e-9 <= found[5] <= 0


def test_ofd_by_hand() -> None:
    norms = [nn.BatchNorm2d(1) for _ in range(3)]
    lesson = Ofd((1, 1, 1), norms, nn.Linear(1, 2))
    lesson.connectors = nn.ModuleList([nn.Identity() for _ in range(3)])
    own = [torch.full((2, 1, size, size), value) for size, value in ((4, 1.0), (2, 2.0), (1, 0.0))]
    taught = [torch.full_like(x, value) for x, value in zip(own, (3.0, 1.5, -5.0), strict=True)]
    low = -math.sqrt(2 / math.pi)  # in place of -5
    by_group = [16 * 4.0 / 4, 4 * 0.25 / 2, low**2]
    wanted = 1e-3 * 32 * 32 / (4 * 4) * sum(by_group)
    assert lesson(own, torch.zeros(2, 2), taught).item() == pytest.approx(wanted)
    twice = Ofd((1, 1, 1), norms, nn.Linear(1, 2), strength=2e-3)
    twice.connectors = lesson.connectors
    assert twice(own, torch.zeros(2, 2), taught).item() == pytest.approx(2 * wanted)


def test_srr_by_hand() -> None:
    head = nn.Linear(2, 2)
    head.load_state_dict(
        {"weight": torch.tensor([[1.0, 0.0], [1.0, 2.0]]), "bias": torch.tensor([0.0, 1.0])}
    )
    lesson = Srr((7, 7, 2), [nn.BatchNorm2d(2)] * 3, head)
    lesson.connector = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
    weight = torch.tensor([[1.0, -0.5], [0.0, 1.0]]).view(2, 2, 1, 1)
    lesson.connector.load_state_dict({"0.weight": weight})
    # Behind the ReLU the student's two pixels are (3, 2) and (1, 0), connected (2, 2) and (1, 0);
    # their mean is (1.5, 1), the teacher's (1, 1).
    own = torch.tensor([[[[3.0, 1.0]], [[2.0, -9.0]]]])
    taught = torch.tensor([[[[2.0, -7.0]], [[1.0, 1.0]]]])
    logits = torch.tensor([[1.0, 4.0]])
    unused = torch.full((1, 7, 1, 1), math.nan)
    found = lesson((unused, unused, own), logits, (unused, unused, taught))
    # The head makes (1.5, 4.5) of the student's, where the teacher said (1, 4).
    assert found.item() == pytest.approx((0.25 + 0) / 2 + (0.25 + 0.25) / 2)


def test_an_exposed_network_is_the_network() -> None:
    plain = wrn(16, 1).train()
    seen: list[Any] = []
    for name in ("group2.0.norm1", "group3.0.norm1", "norm"):
        plain.get_submodule(name).register_forward_hook(lambda _m, _i, out: seen.append(out))
    x = torch.randn(4, 3, 8, 8)
    torch.manual_seed(1)
    other = Exposed(wrn(16, 1)).train()
    other.load_state_dict(plain.state_dict())
    wanted = plain(x)
    logits, features = other(x)
    assert torch.equal(logits, wanted) and len(seen) == 3
    assert all(map(torch.equal, features, seen))
    after, before = other.state_dict(), plain.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [norm.num_features for norm in other.norms] == [f.shape[1] for f in features]


def test_only_wide_residual_networks_are_exposed() -> None:
    with pytest.raises(ValueError, match="features are those of a WideResNet, not of a ResNet"):
        exposed(NETWORKS["resnet-20"]).make()
    other = exposed(NETWORKS["wrn-16-1"])
    assert other.scaled is not None
    assert all(isinstance(made, Exposed) for made in (other.scaled(0.5), other.shallower[0]()))


def test_an_exposed_network_is_compiled_as_the_network_is() -> None:
    made = []
    for network in (NETWORKS[IMAGES.network], exposed(NETWORKS[IMAGES.network])):
        torch.manual_seed(0)
        model = network.make()
        plan = npas.plan(model, "4x", seed=0)
        torch.manual_seed(1)
        made.append((plan.banks, npas.compile(model, plan=plan)))
    (plain_banks, plain), (banks, compiled) = made
    assert banks == plain_banks
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(compiled(x)[0], plain(x))
    tested = npas.materialize(compiled).eval()
    torch.testing.assert_close(tested(x)[0], plain.eval()(x))


@pytest.mark.parametrize("method", LESSONS)
@pytest.mark.parametrize("budget", [None, "4x", "50%"])
def test_students_and_connectors_learn_and_teachers_do_not(method: str, budget: str | None) -> None:
    torch.manual_seed(0)
    network = exposed(NETWORKS["wrn-16-1-grey"])
    student, master = network.make(), Exposed(NETWORKS["wrn-16-2-grey"].make())
    own = Exposed(NETWORKS["wrn-16-1-grey"].make())
    channels = [norm.num_features for norm in own.norms]
    lesson = LESSONS[method](channels, master.norms, master.head)
    if budget is not None:
        student = npas.compile(student, budget)
    pupil = Pupil(student, lesson).train()
    before = {name: value.clone() for name, value in master.state_dict().items()}
    data = task("digits", NOWHERE)
    lessons = Distilled(data, still(master, lesson.batch_statistics))
    optimizer = torch.optim.SGD(npas.param_groups(pupil, 1e-4, lr=0.1))
    batch = next(lessons.batches(0, 0, 32))
    for _ in range(2):
        optimizer.zero_grad()
        lessons.loss(pupil, batch).backward()
        for name, parameter in pupil.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), name
        optimizer.step()
    assert all(parameter.grad is None for parameter in master.parameters())
    after = master.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with torch.no_grad():
        alone = F.cross_entropy(pupil.student(batch[0])[0], batch[1])
        assert lessons.loss(pupil, batch) > alone


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_still_module_normalises_as_it_is_told(batch_statistics: bool) -> None:
    norm = nn.Sequential(nn.BatchNorm2d(2))
    x = 3 + 2 * torch.randn(50, 2, 4, 4)
    means = still(norm, batch_statistics)(x).mean((0, 2, 3))
    assert (means.abs().max().item() < 1e-5) == batch_statistics
    statistics = norm.state_dict()
    assert not statistics["0.running_mean"].any() and not statistics["0.num_batches_tracked"]


class Scored:
    """A task whose score is in the network's bias, which `fit` below puts there."""

    label, measure, n_train = "scored", "accuracy", 32

    def __init__(self) -> None:
        self.fits: list[Recipe] = []

    def fit(self, module: nn.Module, recipe: Recipe, data: Any, seed: int) -> Any:
        self.fits.append(recipe)
        assert recipe.lr is not None and seed == 2000
        nn.init.constant_(
            module.get_parameter("head.bias"), {0.1: 0.4, 0.3: 0.7, 1.0: 0.7}[recipe.lr]
        )
        return [1.0], False

    def score(self, module: nn.Module, part: str) -> float:
        return round(module.get_parameter("head.bias")[0].item(), 3) / (2 if part == "test" else 1)

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[Any]:
        raise AssertionError

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        raise AssertionError


def test_teachers_are_kept_until_their_recipe_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Scored()
    where = ("digits", IMAGES.network)
    taught = Teacher(IMAGES, (0.1, 0.3, 1.0))
    monkeypatch.setitem(teachers.TEACHERS, where, taught)
    ask = partial(teacher, *where, data, data.fit)
    first, again = ask("code"), ask("code")
    assert [recipe.lr for recipe in data.fits] == [0.1, 0.3, 1.0]
    assert (first.lr, dict(first.scores)) == (0.3, {"validation": 0.7, "test": 0.35})
    state = again.module.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.module.state_dict().items())
    assert not again.module.training and again.scores == first.scores
    ask("other code")
    assert len(data.fits) == 6
    monkeypatch.setitem(teachers.TEACHERS, where, replace(taught, rates=(0.1, 0.3)))
    assert ask("code").lr == 0.3 and len(data.fits) == 6
    longer = replace(taught, recipe=replace(IMAGES, epochs=2), rates=(0.1,))
    monkeypatch.setitem(teachers.TEACHERS, where, longer)
    assert ask("code").lr == 0.1 and len(data.fits) == 7
    with pytest.raises(KeyError, match="digits has no teacher 'wrn-28-2'"):
        teacher("digits", "wrn-28-2", data, data.fit, "code")


def test_a_killed_write_leaves_nothing_half(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.pt"

    def killed(_: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        kept(path, lambda: {"x": 1})
    assert not path.exists()
    assert kept(path, lambda: {"x": 2}) == {"x": 2}
    assert kept(path, lambda: {"x": 3}) == {"x": 2}
    assert not path.with_suffix(".part").exists()


def test_one_makes_a_file_while_others_wait(folder: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        time.sleep(0.2)
        return {"x": len(made)}

    found: list[dict[str, int]] = []
    asking = [
        threading.Thread(target=lambda: found.append(kept(folder / "a.pt", make))) for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [{"x": 1}] * 3


@pytest.mark.parametrize("build", [Build(), npas_build("4x")])
def test_a_run_gives_the_same_row_with_a_teacher_that_is_there(build: Build, folder: Path) -> None:
    run = Run(build, distilled("ofd"), 3, "test")
    one = train(run, NOWHERE)
    files = sorted(folder.glob("*.pt"))
    times = [path.stat().st_mtime_ns for path in files]
    again = train(run, NOWHERE)
    assert len(files) == 2 and times == [path.stat().st_mtime_ns for path in files]
    for path in files:
        path.unlink()
    anew = train(run, NOWHERE)
    for key in ("score", "losses", "n_params", "banks", "teacher_lr", "teacher_score"):
        assert one[key] == again[key] == anew[key]
    other = train(replace(run, recipe=distilled("srr")), NOWHERE)
    assert other["losses"] != one["losses"] and other["key"] != one["key"]
    plain = train(replace(run, recipe=TINY), NOWHERE)
    assert (plain["n_params"], plain["n_dense"]) == (one["n_params"], one["n_dense"])
    assert plain["losses"] < one["losses"] and "teacher" not in plain
    stronger = options(**dict(run.recipe.how), strength=2e-3)
    harder = train(replace(run, recipe=replace(run.recipe, how=stronger)), NOWHERE)
    assert harder["losses"] > one["losses"]


def test_experiments_have_the_papers_arms_and_run_quickly() -> None:
    wanted = {"dense": 27.30, "hb-ssn": 26.53, "ofd": 24.43, "srr": 24.03}
    wanted |= {"hb-ssn+ofd": 23.99, "hb-ssn+srr": 23.42}
    (experiment,) = EXPERIMENTS
    assert {case.paper for case in experiment.cases} == set(wanted)
    for case in experiment.cases:
        (number,) = printed(case, experiment)
        assert number["value"] == wanted[case.paper]
    for dense, compiled in zip(experiment.cases[::2], experiment.cases[1::2], strict=True):
        assert compiled.against == dense.arm and dense.recipe == compiled.recipe
        for case in (dense, compiled):
            assert case.tuning is not None and case.tuning.recipe == case.recipe
    rows: dict[str, Any] = {}
    tiny = replace(quick(experiment), seeds=1)
    while runs := missing([tiny], rows):
        rows[runs[0].key] = train(runs[0], NOWHERE)
    assert tiny.n_done(rows) == tiny.n_runs(rows) == 2 + 6
