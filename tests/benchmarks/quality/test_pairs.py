"""The tasks on emoji are split fairly and measure what they say, on synthetic emoji."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import npas
from benchmarks.data import DataError
from benchmarks.emoji import Emoji
from benchmarks.peers import peer
from benchmarks.quality.pair_networks import NETWORKS
from benchmarks.quality.tasks import TASKS, grounding, pair_images, pairs, retrieval_emoji, scenes
from benchmarks.quality.tasks.grounding import Grounding, Scenes
from benchmarks.quality.tasks.pair_words import SPELLING, TEXTS, means, sequences, word_vectors
from benchmarks.quality.tasks.retrieval import Judged, Retrieval, crossed, inner, recall, triplets

pytestmark = pytest.mark.pure

DESIGNS = ("google", "twitter")
# What the synthetic emoji are: a colour tells the first word, and a shape the second.
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 40, 220),
    "black": (10, 10, 10),
    "yellow": (240, 220, 20),
    "purple": (150, 20, 160),
    "orange": (250, 140, 0),
    "cyan": (0, 200, 220),
}
SHAPES = ("disc", "ring", "bar", "post", "cross", "dot", "frame", "stripes", "slope", "block")


def drawing(colour: str, shape: str, shade: float = 1.0) -> np.ndarray:
    """Return [3, 64, 64] uint8 on white."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius = np.hypot(x, y)
    inside = {
        "disc": radius < 0.9,
        "ring": (radius < 0.9) & (radius > 0.6),
        "bar": abs(y) < 0.3,
        "post": abs(x) < 0.3,
        "cross": (abs(x) < 0.25) | (abs(y) < 0.25),
        "dot": radius < 0.4,
        "frame": np.maximum(abs(x), abs(y)) > 0.7,
        "stripes": (np.floor((x + 1) * 4) % 2) == 0,
        "slope": x + y < 0,
        "block": np.maximum(abs(x), abs(y)) < 0.8,
    }[shape]
    image = np.where(inside[..., None], np.array(COLOURS[colour]) * shade, 255)
    return image.astype(np.uint8).transpose(2, 0, 1)


@cache
def synthetic() -> Emoji:
    kinds = list(itertools.product(COLOURS, SHAPES))
    images = {
        design: torch.from_numpy(np.stack([drawing(*kind, shade) for kind in kinds]))
        for design, shade in zip(DESIGNS, (1.0, 0.9), strict=True)
    }
    return Emoji(
        "synthetic",
        tuple(f"{colour} {shape}".upper() for colour, shape in kinds),
        tuple((f"{shape}_{colour}",) for colour, shape in kinds),
        ("Symbols",) * len(kinds),
        ("geometric",) * len(kinds),
        images,
    )


@cache
def made(name: str) -> Any:
    """Return a task on the synthetic emoji."""
    found = pairs.pairs(synthetic())
    if name == "emoji-simnet":
        return grounding.Grounded({"train": 80, "validation": 20, "test": 40}).of(found)
    return retrieval_emoji.TASKS[name].of(found)


EMOJI_TASKS = ("emoji-embnet", "emoji-adapt", "emoji-simnet")


# --- which emoji, and which part ----------------------------------------------------------------


def test_near_duplicates_are_one_concept() -> None:
    def same(*names: str) -> bool:
        return len({pairs.concept(name, "kind") for name in names}) == 1

    assert same("WOMAN RUNNING", "MAN RUNNING FACING RIGHT")
    assert same("CLOCK FACE ONE OCLOCK", "CLOCK FACE TWELVE-THIRTY")
    assert not same("LION FACE", "TIGER FACE")
    assert pairs.concept("STAR", "sky & weather") != pairs.concept("STAR", "geometric")


def test_parts_have_no_concept_in_common() -> None:
    concepts = [f"concept {i % 300}" for i in range(1_000)]
    parts = pairs.split(concepts)
    inside = {name: {concepts[i] for i in places} for name, places in parts.items()}
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1_000))
    for a, b in itertools.combinations(inside, 2):
        assert not inside[a] & inside[b]
    for name, share in {"train": 0.58, "validation": 0.15, "test": 0.27}.items():
        assert len(parts[name]) == pytest.approx(1_000 * share, abs=8)
    again = pairs.split(concepts)
    assert all(torch.equal(parts[name], again[name]) for name in parts)


def test_a_text_begins_with_the_kind_and_says_no_word_twice_for_a_short_name() -> None:
    said = pairs.text("FAMILY: MAN, BOY, BOY", ["man-boy-boy", "dad"], "sky & weather")
    assert said == ("sky", "weather", "family", "man", "boy", "boy", "dad")


def test_flags_are_left_out_and_images_go_with_their_texts() -> None:
    every = synthetic()
    kinds = list(every.subcategories)
    kinds[3] = "country-flag"
    found = pairs.pairs(replace(every, subcategories=tuple(kinds)))
    assert len(found.texts) == 79 and found.images.shape == (2, 79, 3, 64, 64)
    assert found.texts[3] == ("geometric", "red", "cross")
    assert torch.equal(found.images[1, 3], every.images["twitter"][4])


def test_too_few_emoji_are_refused() -> None:
    few = replace(synthetic(), subcategories=("country-flag",) * 78 + ("geometric",) * 2)
    with pytest.raises(DataError, match="2 emoji leave none for validation"):
        pairs.pairs(few)


# --- features -----------------------------------------------------------------------------------

SENTENCES = [(a, b, "word") for a in COLOURS for b in SHAPES]


def test_a_word_that_was_not_trained_on_has_its_spelling_alone() -> None:
    texts = [*SENTENCES, ("redder", "word")]
    new = word_vectors(texts, range(80))[-1]
    assert new.shape == (2, TEXTS + SPELLING)
    assert not new[0, :TEXTS].any() and new[0, TEXTS:].any() and new[1, :TEXTS].any()
    red, blue = (word_vectors(texts, range(80))[i][0, TEXTS:] for i in (0, 20))
    assert torch.cosine_similarity(new[0, TEXTS:], red, 0) > 0.3
    assert torch.cosine_similarity(new[0, TEXTS:], red, 0) > torch.cosine_similarity(
        new[0, TEXTS:], blue, 0
    )


def test_word_vectors_follow_from_the_training_texts_alone() -> None:
    texts = [*SENTENCES[:60], ("other", "words", "red")]
    a, b = word_vectors(SENTENCES, range(50)), word_vectors(texts, range(50))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a[:50], b[:50], strict=True))
    seen = means(a, range(50))[:50]
    assert seen.mean(0).abs().max() < 1e-5
    assert seen.var(0).mean() == pytest.approx(1, abs=1e-4)


def test_sequences_are_cut_and_filled() -> None:
    x = sequences([torch.ones(3, 128), torch.ones(1, 128)], 2)
    assert x.shape == (2, 2, 128)
    assert x[0].all() and x[1, 0].all() and not x[1, 1].any()


def test_cells_tell_edges_and_colours() -> None:
    image = torch.ones(1, 3, 16, 24)
    image[..., 12:] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    found = pair_images.cells(image)[0]
    assert found.shape == (76, 2, 3)
    edges, colours, shares = found.split((9, 3, 64))
    # From left to right the image changes: the first orientation, in the middle cells alone.
    assert edges[0, :, 1].min() > 0 and edges[0, :, [0, 2]].max() == 0 and not edges[1:].any()
    assert torch.allclose(colours[:, 0, 1], torch.tensor([1, 0.5, 0.5]))
    assert torch.allclose(shares.sum(0), torch.ones(2, 3))
    assert shares[63, :, 0].tolist() == [1, 1] and shares[48, :, 2].tolist() == [1, 1]
    down = pair_images.cells(image.transpose(2, 3))[0, :9]
    assert down[4:6].sum() > 0 and not down[:4].any() and not down[6:].any()


def test_windows_are_the_whole_and_nine_parts() -> None:
    found = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 76, 8, 8)
    parts = pair_images.windows(found)
    assert parts.shape == (1, 10, 76, 4, 4)
    assert parts[0, 0, 0, 0, 0] == (0 + 1 + 8 + 9) / 4
    assert torch.equal(parts[0, 1, 0], found[0, 0, :4, :4])
    assert torch.equal(parts[0, 6, 0], found[0, 0, 2:6, 4:])


def test_a_crop_is_what_is_in_the_box_and_white_outside() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0, 64, 64], [16, 0, 48, 32], [64, 64, 128, 128]]).expand(2, 3, 4)
    found = pair_images.crop(images, boxes, 64)
    assert torch.allclose(found[:, 0], images, atol=1e-5)
    assert torch.allclose(found[:, 2], torch.ones(2, 3, 64, 64))
    small = pair_images.crop(images, boxes, 32)
    assert torch.allclose(small[:, 1], images[:, :, :32, 16:48], atol=1e-5)


def test_features_are_fitted_once_and_have_a_scale() -> None:
    task = made("emoji-embnet")
    first = task.images[: 2 * len(task.texts)]
    assert first.mean(0).abs().max() < 1e-3
    assert first.square().mean() == pytest.approx(1, abs=0.02)
    variances = first.var(0)
    assert (variances[:40].diff() <= 1e-4).all(), "components come by their variance"


# --- losses and scores --------------------------------------------------------------------------


def test_triplets_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.0, 0.5, 0.2], [0.3, 0.4, 0.6]])
    none = torch.eye(3, dtype=torch.bool)
    texts = (0.1 + 0 + 0 + 0 + 0 + 0) / 6  # wrong texts of each image: rows
    images = (0 + 0 + 0.5 + 0.1 + 0 + 0) / 6  # wrong images of each text: columns
    assert triplets(similarity, none, 0.2).item() == pytest.approx(texts + 1.5 * images, abs=1e-6)
    hardest = 2 * texts + 1.5 * 0.5 / 3
    assert triplets(similarity, none, 0.2, hardest=1).item() == pytest.approx(hardest, abs=1e-6)
    assert triplets(similarity, torch.ones(3, 3, dtype=torch.bool), 0.2) == 0


def test_recall_of_what_is_known() -> None:
    n = 200
    assert recall(torch.eye(n)) == 1
    assert recall(torch.zeros(n, n)) == 0, "telling nothing apart finds nothing"
    generator = torch.Generator().manual_seed(0)
    guesses = [recall(torch.rand(n, n, generator=generator)) for _ in range(20)]
    assert sum(guesses) / 20 == pytest.approx((1 + 5 + 10) / 3 / n, abs=0.004)
    # Each pair is second in its row and first in its column.
    second = torch.eye(n) + 2 * torch.eye(n).roll(1, 1) * torch.arange(1, n + 1)
    rows = second.argsort(1, descending=True)[:, :2]
    assert (rows[:, 1] == torch.arange(n)).all()
    assert recall(second) == pytest.approx((0 + 1 + 1 + 0 + 1 + 1) / 6)


class Given(nn.Module):
    """Says what a function says of its inputs."""

    def __init__(self, says: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.says = says

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.says(x, y)


def eyes(similarity: Any, width: int = 100) -> Retrieval:
    x = torch.eye(width)
    part = Judged(torch.stack([x, x.flip(0).flip(0)]), x)
    return Retrieval("eyes", x, torch.arange(width), x, {"test": part}, similarity, 0.1)


def test_a_perfect_network_finds_all_and_one_that_guesses_what_chance_finds() -> None:
    assert eyes(inner).score(Given(lambda x, y: (x, y)), "test") == 1
    assert eyes(crossed).score(Given(lambda x, y: x @ y.T), "test") == 1
    generator = torch.Generator().manual_seed(0)

    def guess(x: Tensor, y: Tensor) -> Tensor:
        return torch.rand(len(x), len(y), generator=generator)

    scores = [eyes(crossed).score(Given(guess), "test") for _ in range(20)]
    assert sum(scores) / 20 == pytest.approx(16 / 300, abs=0.01)


def test_batch_norm_sees_the_whole_batch_in_training() -> None:
    sizes: list[int] = []

    def says(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x))
        return x @ y.T

    task, module = eyes(crossed), Given(says)
    task.loss(module, next(task.batches(0, 0, 32)))
    assert sizes == [32]
    task.score(module, "test")
    assert not module.training and max(sizes[1:]) < 32


def located() -> Grounding:
    """Return a task whose boxes say which object they are of, and how well they fit."""
    n = 40
    emoji = torch.stack(
        [torch.randperm(50, generator=torch.Generator().manual_seed(i))[:9] for i in range(n)]
    )
    overlap = torch.zeros(n, 9, 18)
    for i in range(9):
        overlap[:, i, 2 * i], overlap[:, i, 2 * i + 1] = 0.8, 0.4
    boxes = torch.zeros(n, 18, 51)
    boxes[..., :50] = nn.functional.one_hot(emoji, 50).repeat_interleave(2, 1)
    boxes[:, 1::2, 50] = -0.5
    part = Scenes(emoji, boxes, overlap)
    return Grounding("located", torch.eye(50), {"train": part, "test": part})


def test_grounding_scores() -> None:
    task = located()
    match = torch.eye(51)[:, :50]

    def perfect(boxes: Tensor, texts: Tensor) -> Tensor:
        return (boxes @ match @ texts.unsqueeze(-1)).squeeze(-1) + boxes[..., 50]

    assert task.score(Given(perfect), "test") == 1
    # The right object in the box that fits too little is wrong.
    assert task.score(Given(lambda b, t: perfect(b, t) - 2 * b[..., 50]), "test") == 0
    generator = torch.Generator().manual_seed(0)
    scores = [
        task.score(Given(lambda b, t: torch.rand(b.shape[:2], generator=generator)), "test")
        for _ in range(20)
    ]
    assert sum(scores) / 20 == pytest.approx(1 / 18, abs=0.01)


def test_boxes_of_neither_kind_do_not_count_in_the_loss() -> None:
    task = located()
    boxes, texts, overlap = next(task.batches(0, 0, 8))
    logits = torch.zeros(8, 18, requires_grad=True)
    loss = task.loss(Given(lambda b, t: logits), (boxes, texts, overlap))
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[overlap == 0.8] < 0).all() and (logits.grad[overlap == 0] > 0).all()
    assert (logits.grad[overlap == 0.4] == 0).all() and (overlap == 0.4).sum() == 8


def test_overlaps_by_hand() -> None:
    a = torch.tensor([[[0.0, 0, 10, 10]]])
    b = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]]])
    assert torch.allclose(scenes.overlaps(a, b), torch.tensor([[[1, 1 / 3, 0]]]))


def test_scenes_are_of_the_emoji_of_a_part_and_boxes_are_where_they_are() -> None:
    shades = torch.arange(40).view(1, 40, 1, 1, 1).expand(2, 40, 3, 64, 64) * 6
    places = torch.arange(3, 33)
    drawn = scenes.draw(shades.byte(), places, 10, torch.Generator().manual_seed(1))
    assert drawn.images.shape == (10, 18, 3, 32, 32)
    assert set(drawn.emoji.flatten().tolist()) <= set(places.tolist())
    assert all(len(set(scene.tolist())) == 9 for scene in drawn.emoji)
    counts = torch.bincount(drawn.emoji.flatten(), minlength=33)[3:]
    assert counts.max() <= 4 and counts.sum() == 90
    # The middle of a box is on its emoji, which is of one shade.
    shade = drawn.images[:, :, 0, 16, 16] * 255 / 6
    assert torch.allclose(shade, drawn.emoji.repeat_interleave(2, 1).float(), atol=0.01)
    own = torch.eye(9, dtype=torch.bool).repeat_interleave(2, 1).expand(10, 9, 18)
    assert drawn.overlap[own].min() > 0.25 and drawn.overlap[own].max() < 1
    assert drawn.overlap[~own].max() < 0.3


# --- the tasks and their networks ---------------------------------------------------------------


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_batches_follow_from_the_seed_and_the_epoch(name: str) -> None:
    task = made(name)
    first, again = list(task.batches(0, 1, 16)), list(task.batches(0, 1, 16))
    assert len(first) == task.n_train // 16
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for other in (task.batches(1, 1, 16), task.batches(0, 2, 16)):
        assert not torch.equal(next(other)[1], first[0][1])


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_reading_a_task_twice_gives_the_same(name: str) -> None:
    one = made(name)
    made.cache_clear()
    two = made(name)
    for a, b in zip(next(one.batches(0, 0, 8)), next(two.batches(0, 0, 8)), strict=True):
        assert torch.equal(a, b)


def test_a_training_image_has_the_text_of_its_emoji() -> None:
    task, found = made("emoji-embnet"), pairs.pairs(synthetic())
    train = found.parts["train"]
    describe = retrieval_emoji.whole
    features = pair_images.Features.of(
        describe(found.images[:, train].flatten(0, 1) / 255), retrieval_emoji.IMAGE
    )
    texts = means(word_vectors(found.texts, train.tolist()), train.tolist())
    for i in (0, 17, len(train) - 1):
        as_they_are = features(describe(found.images[:, train[i]] / 255))
        assert torch.allclose(task.images[task.emoji == i][:2], as_they_are, atol=1e-3)
        assert torch.equal(task.texts[i], texts[train[i]])
    for images, said, which in itertools.islice(task.batches(0, 0, 16), 3):
        assert torch.equal(said, task.texts[which])
        for image, who in zip(images, which, strict=True):
            (places,) = (task.images == image).all(1).nonzero(as_tuple=True)
            assert who in task.emoji[places]


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_the_networks_take_the_batches_and_all_of_them_learns(name: str) -> None:
    task, network = made(name), NETWORKS[name]
    assert name in TASKS
    batch = next(task.batches(0, 0, 16))
    shapes = [x.shape[1:] for x in network.inputs(2)]
    assert [x.shape[1:] for x in batch[:2]] == shapes
    torch.manual_seed(0)
    module = network.make()
    loss = task.loss(module, batch)
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        # A bias before a batch norm has no effect.
        still = key.endswith("bias") and parameter.grad.abs().max() < 1e-6
        assert parameter.grad.any() or still, key


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_a_budget_and_a_narrow_network(name: str) -> None:
    task, network = made(name), NETWORKS[name]
    torch.manual_seed(0)
    dense = network.make()
    n = sum(p.numel() for p in dense.parameters())
    batch = next(task.batches(0, 0, 16))
    shared = npas.compile(network.make(), "15%")
    narrow = peer("reduced_width").build(network, int(0.15 * n)).module
    for module in (shared, narrow):
        count = sum(p.numel() for p in module.parameters() if p.requires_grad)
        assert 0.14 * n < count <= 0.15 * n
        module.train()
        task.loss(module, batch).backward()
        assert 0 <= task.score(module, "validation") <= 1
    assert network.scaled is not None
    shapes = [p.shape for p in network.scaled(1.0).parameters()]
    assert shapes == [p.shape for p in dense.parameters()]


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_there_is_something_to_learn(name: str) -> None:
    task = made(name)
    torch.manual_seed(0)
    module = NETWORKS[name].make()
    before = task.score(module, "test")
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    for epoch in range(2):
        for batch in task.batches(0, epoch, 32):
            optimizer.zero_grad()
            task.loss(module, batch).backward()
            optimizer.step()
    after = task.score(module, "test")
    # Chance is 16 in 66 for the retrieval among 22 emoji, and 1 in 9 for the boxes.
    assert before < 0.4 and after > 0.8
