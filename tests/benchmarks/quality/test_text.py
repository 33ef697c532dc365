"""Text is read as it should be, on tiny sets of the same form, split fairly, and learned from."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import fx

import npas
from benchmarks import text
from benchmarks.data import DataError
from benchmarks.peers import PEERS, TooSmall
from benchmarks.quality.tasks import text as tasks
from benchmarks.quality.tasks.base import Classification
from benchmarks.quality.text_networks import NETWORKS, PADDING, Encoder
from benchmarks.sources import Sources
from benchmarks.text import Expected, digest, split

pytestmark = pytest.mark.pure

NOUNS = ["a kind of tree", "a small bird", "a kind of tree", "a loud sound", "a unit of length"]
GLOSSES = (
    Expected("data.noun", 5, digest((i, gloss, gloss) for i, gloss in enumerate(NOUNS, start=3))),
    Expected("data.verb", 1, digest([(29, "move fast", "move fast")])),
)
SENTENCES = {
    "movie": ["1\t-1.5\tDull.", "2\t0.5\tFun!", "3\t0.0\tIt is a film.", "4\t2\tFun!"],
    "amazon": ["1_1\t1\tGood.", "1_2\t-1\tBroken.", "2_1\t-3\tBad?", "2_2\t2\tWell made."],
}
FILES = {
    "movie": Expected("movie.txt", 4),
    "amazon": Expected("amazon.txt", 4),
}


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    licence = "  1 This software is provided | as is\n"
    lines = [f'00 {i:02} n 01 x 0 | {g}; "an example"  \n' for i, g in enumerate(NOUNS, start=3)]
    (tmp_path / "data.noun").write_text(licence + "".join(lines))
    (tmp_path / "data.verb").write_text(licence + "00 29 v 01 run 0 | move fast\n")
    return tmp_path


def archive_of(path: Path, sentences: Mapping[str, list[str]] = SENTENCES) -> tuple[Path, str]:
    """Write VADER's archive inside its package's; return it and its sha256."""
    names = {f"hutto_ICWSM_2014/{FILES[d].name}": own for d, own in sentences.items()}
    inner = tar({name: "\r\n".join(own).encode() for name, own in names.items()})
    folder = "vaderSentiment-3.3.2/additional_resources"
    path.write_bytes(tar({f"{folder}/hutto_ICWSM_2014.tar.gz": inner}))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def tar(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, own in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(own)
            archive.addfile(info, io.BytesIO(own))
    return content.getvalue()


def test_glosses_are_cut_and_kept_once(wordnet: Path) -> None:
    found = text.glosses(wordnet, GLOSSES)
    assert found.texts == (*NOUNS[:2], *NOUNS[3:], "move fast")
    assert found.classes.tolist() == [3, 4, 6, 7, 29] and found.classes.dtype == torch.int64


def test_wordnet_that_is_not_there_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.noun is not there.*apt-get install -y wordnet-bas"):
        text.glosses(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: content.index("00 05")], "has 2 rows; it must have 5"),
        (lambda content: content[:-45], "a line is cut short"),
        (lambda content: content.replace("bird", "Bird"), "other rows .* another version"),
        (lambda content: content.replace("00 04", "00 05"), "other rows .* another version"),
    ],
    ids=["truncated", "line", "other text", "other class"],
)
def test_a_changed_wordnet_is_refused(
    wordnet: Path, change: Callable[[str], str], message: str
) -> None:
    path = wordnet / "data.noun"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=f"{message}.*apt-get install -y wordnet-base"):
        text.glosses(wordnet, GLOSSES)


def test_what_is_not_read_of_wordnet_may_differ(wordnet: Path) -> None:
    path = wordnet / "data.noun"
    path.write_text("  2 another line of the licence\n" + path.read_text().replace("00 0", "99 0"))
    text.glosses(wordnet, GLOSSES)


def test_sentences_have_the_sign_of_their_rating(tmp_path: Path) -> None:
    archive, sha256 = archive_of(tmp_path / text.VADER)
    found = text.vader(archive, ("movie", "amazon"), sha256, FILES)
    # Without the neutral one, and without the second of two that are equal.
    assert found.texts == ("Dull.", "Fun!", "Good.", "Broken.", "Bad?", "Well made.")
    assert found.classes.tolist() == [0, 1, 1, 0, 0, 1]
    assert found.groups == ("movie/1", "movie/2", "amazon/1", "amazon/1", "amazon/2", "amazon/2")
    assert text.vader(archive, ("amazon",), sha256, FILES).texts == found.texts[2:]


def test_vader_that_is_not_what_it_should_be_says_how_to_get_it(tmp_path: Path) -> None:
    how = "pip download --no-deps --no-binary :all: -d build/downloads vaderSentiment==3.3.2"
    for missing in (None, tmp_path / text.VADER):
        with pytest.raises(DataError, match=f"is not there.*{how}"):
            text.vader(missing)
    archive, sha256 = archive_of(tmp_path / text.VADER)
    with pytest.raises(DataError, match=f"it must have {text.VADER_SHA256}.*{how}"):
        text.vader(archive)
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"it must have {sha256}: it is cut short"):
        text.vader(archive, sha256=sha256)
    archive, sha256 = archive_of(archive, {**SENTENCES, "amazon": SENTENCES["amazon"][:3]})
    with pytest.raises(DataError, match="has 3 rows; it must have 4"):
        text.vader(archive, ("amazon",), sha256, FILES)


def test_tasks_say_how_to_get_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "WORDNET", tmp_path / "none")
    for name, read in tasks.TASKS.items():
        how = "apt-get install -y" if name.startswith("gloss") else "pip download --no-deps"
        with pytest.raises(DataError, match=how):
            read(Sources((tmp_path,)))


def test_splits_keep_groups_whole() -> None:
    groups = [f"g{i % 40}" for i in range(200)]
    parts = split(groups, (100, 20, 80))
    assert [len(part) for part in parts] == [100, 20, 80]
    owners = [{groups[place] for place in part.tolist()} for part in parts]
    assert not owners[0] & owners[1] and not owners[1] & owners[2] and not owners[0] & owners[2]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(200))
    assert all(torch.equal(*pair) for pair in zip(parts, split(groups, (100, 20, 80)), strict=True))
    assert not torch.equal(parts[0], split(groups, (100, 20, 80), seed=1)[0])


def test_splits_of_single_texts_have_the_sizes_that_are_asked_for() -> None:
    parts = split([str(i) for i in range(50)], (13, 0, 7))
    assert [len(part) for part in parts] == [13, 0, 7]
    assert len(torch.cat(parts).unique()) == 20
    with pytest.raises(ValueError, match="51 texts are asked for, there are 50"):
        split([str(i) for i in range(50)], (40, 11))


def test_words_and_ids() -> None:
    assert tasks.words("It's 5 o'clock, NOT bad!?") == ["it's", "5", "o'clock", "not", "bad", *"!?"]
    known = tasks.vocabulary(["b a", "a c", "c d b"], size=5)
    assert known == {"a": 2, "b": 3, "c": 4}
    ids = tasks.token_ids(["a d b", "c", "...", "a a a a a"], known, 4)
    assert ids.tolist() == [[2, 1, 3, 0], [4, 0, 0, 0], [1, 0, 0, 0], [2, 2, 2, 2]]
    assert ids.dtype == torch.int64


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classification:
    """Forty sentences of four articles each on their own; every word is in one article only."""
    sentences = [f"{i // 4}_{i}\t{(-1) ** i}\tword{i // 4} say{i}" for i in range(160)]
    files = {"amazon": Expected("amazon.txt", 160)}
    archive, sha256 = archive_of(tmp_path / text.VADER, {"amazon": sentences})
    read = text.vader
    monkeypatch.setattr(text, "vader", lambda path, domains: read(path, domains, sha256, files))
    return tasks.Sentiment(("amazon",), n_words=60, length=4)(Sources((archive.parent,)))


def test_only_training_texts_make_the_vocabulary(tiny: Classification) -> None:
    sizes = {name: len(part.x) for name, part in tiny.parts.items()}
    assert sizes == {"train": 112, "validation": 16, "test": 32}
    # Articles are whole, so a word of one is in one part: the others know none of their words.
    assert tiny.parts["train"].x.max() == 59
    for part in ("validation", "test"):
        assert set(tiny.parts[part].x.unique().tolist()) == {PADDING, tasks.UNKNOWN}


def test_batches_follow_from_the_seed(tiny: Classification) -> None:
    def drawn(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat([x for x, _ in tiny.batches(seed, epoch, 16)])

    torch.manual_seed(5)
    first = drawn(0, 0)
    torch.manual_seed(6)
    assert torch.equal(first, drawn(0, 0))
    assert not torch.equal(first, drawn(0, 1)) and not torch.equal(first, drawn(1, 0))


def test_word_dropout_makes_its_share_unknown_and_leaves_padding() -> None:
    ids = torch.cat([torch.randint(2, 9, (100, 30)), torch.zeros(100, 10, dtype=torch.int64)], 1)
    before = ids.clone()
    changed = tasks.WordDropout(0.25)(ids, torch.Generator().manual_seed(0))
    share = (changed[:, :30] == tasks.UNKNOWN).float().mean()
    assert 0.22 < share < 0.28 and torch.equal(ids, before)
    kept = changed != tasks.UNKNOWN
    assert torch.equal(changed[kept], ids[kept]) and kept[:, 30:].all()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_described_as_they_are(name: str) -> None:
    network = NETWORKS[name]
    with torch.device("meta"):
        module = network.make()
        assert isinstance(module, Encoder)
        total = count(module)
        # What is shared between layers is most of the network.
        assert count(module.layers) > total / 2
        scaled = [network.scaled(factor) for factor in (0.01, 0.1, 0.5, 1.0, 1.5)]  # type: ignore
        shallower = [make() for make in network.shallower]
    sizes = [count(each) for each in scaled]
    assert sizes == sorted(set(sizes)) and sizes[3] == total
    assert all(a < b for a, b in pairwise([*map(count, shallower), total]))
    (x,) = network.inputs(3)
    assert torch.equal(x, network.inputs(3)[0])
    assert module(x.to("meta")).shape[0] == 3


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module", params=["gloss", "vader"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    module = NETWORKS[f"encoder-4x96-{request.param}"].make().eval()
    assert isinstance(module, Encoder)
    return module


@torch.no_grad()
def test_padding_changes_nothing(encoder: Encoder) -> None:
    length = len(encoder.positions)
    ids = torch.randint(2, 4_000, (4, 9))
    padded = torch.nn.functional.pad(ids, (0, length - 9))
    expected = encoder(ids)
    torch.testing.assert_close(encoder(padded), expected)
    encoder.embedding.weight[PADDING] += 100
    torch.testing.assert_close(encoder(padded), expected)
    # The same with one word more is another text, and a text of nothing is still a number.
    assert (encoder(padded.index_fill(1, torch.tensor(9), 7)) - expected).abs().max() > 1e-4
    assert encoder(torch.zeros(2, length, dtype=torch.int64)).isfinite().all()


@torch.no_grad()
def test_networks_are_traceable(encoder: Encoder) -> None:
    ids = torch.randint(4_000, (5, 12))
    torch.testing.assert_close(fx.symbolic_trace(encoder)(ids), encoder(ids))


@pytest.mark.parametrize("name", ["encoder-4x96-gloss", "encoder-12x64-vader"])
def test_networks_can_be_shared_and_reduced(name: str) -> None:
    network = NETWORKS[name]
    dense = network.make()
    (x,) = network.inputs(2)
    built = {"npas": npas.compile(dense, "10%")}
    budget = count(dense) // 10
    assert count(built["npas"]) <= budget
    built["reduced_width"] = PEERS["reduced_width"].build(network, budget).module
    assert 0.9 * budget < count(built["reduced_width"]) <= budget
    # ALBERT's sharing leaves one layer and all else.
    with pytest.raises(TooSmall) as refused:
        PEERS["albert"].build(network, 1)
    built["albert"] = PEERS["albert"].build(network, refused.value.minimum).module
    assert isinstance(dense, Encoder)
    others = sum(count(layer) for layer in dense.layers[1:])
    assert count(built["albert"]) == count(dense) - others
    for module in built.values():
        module(x).logsumexp(1).sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_the_installed_wordnet() -> None:
    if not (text.WORDNET / "data.noun").exists():
        pytest.skip("Debian's wordnet-base is not installed")
    found = text.glosses()
    assert len(found.texts) == len(set(found.texts)) == 116_697
    assert found.classes.bincount().min() == 42 and len(found.classes.unique()) == 45
    task = replace(tasks.TASKS["gloss"], n_train=500, n_validation=100, n_test=200)(Sources(()))
    assert [len(part.x) for part in task.parts.values()] == [500, 100, 200]
    assert task.parts["train"].x.shape[1] == 16 and task.n_classes == 45


def test_the_downloaded_sentences() -> None:
    archive = Sources.of([]).find(text.VADER)
    if archive is None:
        pytest.skip(f"{text.VADER} is not downloaded; {text.VADER_HELP}")
    found = text.vader(archive)
    assert len(found.texts) == 23_246 and found.classes.sum() == 12_438
    for name in ("vader", "vader-tweets"):
        task = tasks.TASKS[name](Sources.of([]))
        n_train, n_validation, n_test = (len(part.x) for part in task.parts.values())
        n = n_train + n_validation + n_test
        assert n == (23_246 if name == "vader" else 4_196)
        assert abs(n_train / n - 0.7) < 0.002 and abs(n_test / n - 0.2) < 0.002
        assert all(part.x[:, 0].min() > 0 for part in task.parts.values())
