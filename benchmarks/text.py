"""Text sets: WordNet's definitions with their classes, and the sentences of VADER's ground truth.

Nothing is downloaded: WordNet is read from Debian's package, VADER from the source archive of its
package. Either takes less than a second, so that nothing is kept under build/data.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data import DataError

WORDNET = Path("/usr/share/wordnet")
WORDNET_HELP = (
    "install WordNet 3.0 with `apt-get install -y wordnet-base` (version 1:3.0-37 was used)"
)
VADER = "vaderSentiment-3.3.2.tar.gz"
VADER_HELP = (
    "get it with `pip download --no-deps --no-binary :all: -d build/downloads "
    "vaderSentiment==3.3.2`, or name it with --data"
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file has to be.

    Attributes:
        name: of the file.
        n_rows: its definitions or sentences.
        sha256: of its rows, see `digest`; None where that of an archive is checked.
    """

    name: str
    n_rows: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts with a class each; no two are equal.

    Attributes:
        label: what results on them are called.
        texts: n of them.
        classes: [n] int64, from 0.
        groups: n names; texts of one group belong in one part, as those of one article do.
    """

    label: str
    texts: tuple[str, ...]
    classes: Tensor
    groups: tuple[str, ...]


#: The files of WordNet 3.0, a part of speech each.
GLOSSES = (
    Expected(
        "data.noun", 82_115, "60d940b68b1d2f63c988e077e8da46a018414835abb9041079fa02577c3b2f4f"
    ),
    Expected(
        "data.verb", 13_767, "b33719cdb21d89411b61494cc65312d0f2a3aab3637413f820ce531bac57931c"
    ),
    Expected(
        "data.adj", 18_156, "99c22464db3e2438bf5a2fea36a2cad99e7c48d7e2313f77f17e04da4ffb523f"
    ),
    Expected("data.adv", 3_621, "5b8a5853cdabeeccb50c4670a0186e662745d533a80189a61e9cbce85203a852"),
)
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
#: domain -> its file in VADER's archive.
DOMAINS = {
    "movie": Expected("movieReviewSnippets_GroundTruth.txt", 10_605),
    "amazon": Expected("amazonReviewSnippets_GroundTruth.txt", 3_708),
    "nyt": Expected("nytEditorialSnippets_GroundTruth.txt", 5_190),
    "tweets": Expected("tweets_GroundTruth.txt", 4_200),
}

#: The class of a text, the text, its group.
_Row = tuple[int, str, str]


def glosses(folder: Path | None = None, files: Sequence[Expected] = GLOSSES) -> Texts:
    """Read WordNet 3.0: definitions, and which of 45 lexicographer files each is from.

    Source: Fellbaum, "WordNet", 1998; the format is wndb(5WN), the classes are lexnames(5WN).
    Examples, which use the word that is defined, are cut. Of equal definitions the first stays.

    Args:
        folder: of the data files; by default Debian's.
        files: what has to be in it.

    Raises:
        DataError: if a file is not there, or not what it should be.
    """
    folder = WORDNET if folder is None else folder
    rows: list[_Row] = []
    for expected in files:
        path = folder / expected.name
        if not path.exists():
            raise DataError(f"WordNet: {path} is not there; {WORDNET_HELP}")
        text = path.read_text(encoding="latin-1")
        # A line of the licence starts with two spaces.
        lines = (line for line in text.splitlines() if not line.startswith("  "))
        rows += _checked(lines, _gloss, expected, str(path), WORDNET_HELP)
    return _texts("WordNet 3.0 glosses", rows)


def vader(
    archive: Path | None,
    domains: Sequence[str] = tuple(DOMAINS),
    sha256: str = VADER_SHA256,
    files: Mapping[str, Expected] = DOMAINS,
) -> Texts:
    """Read the sentences that VADER was judged on: 0 for a mean rating below 0, 1 for one above.

    Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
    Social Media Text", ICWSM 2014. A mean of 0 is left out, and of equal sentences all but the
    first. A group is a review of Amazon or an article of the New York Times; the ids of film
    reviews and of tweets name a sentence each and nothing that sentences have in common.

    Args:
        archive: the package's source archive.
        domains: keys of ``files``, in the order that they are read.
        sha256: of the archive.
        files: domain -> what has to be in the archive.

    Raises:
        DataError: if the archive is not there, or not what it should be.
    """
    if archive is None or not archive.exists():
        raise DataError(f"VADER's sentences: {archive or VADER} is not there; {VADER_HELP}")
    content = archive.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{archive} has {len(content)} bytes and sha256 {found}; it must have {sha256}: it is "
            f"cut short, or of another version; {VADER_HELP}"
        )
    rows: list[_Row] = []
    inner = _member(content, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
    for domain in domains:
        expected = files[domain]
        lines = _member(inner, f"hutto_ICWSM_2014/{expected.name}").decode().splitlines()
        where = f"{expected.name} of {archive}"
        read = _checked(lines, _sentence, expected, where, VADER_HELP)
        rows += [(sign, text, f"{domain}/{group}") for sign, text, group in read if sign]
    positive = [(int(sign > 0), text, group) for sign, text, group in rows]
    return _texts(f"VADER ground truth ({', '.join(domains)})", positive)


def split(groups: Sequence[str], sizes: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Return the places of each part's texts, int64; whole groups, the same at every call.

    Groups are taken in an order that the seed draws, and a part is filled before the next one
    begins. So its size is as asked where groups are single texts, otherwise off by a group.

    Args:
        groups: the group of each text.
        sizes: texts of each part; what they leave is in no part.
        seed: draws the order of the groups.

    Raises:
        ValueError: if there are too few texts.
    """
    if sum(sizes) > len(groups):
        raise ValueError(f"{sum(sizes)} texts are asked for, there are {len(groups)}")
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    members = list(places.values())
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
    parts: list[list[int]] = [[] for _ in sizes]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    part = done = 0
    for index in order:
        while part < len(parts) and done >= ends[part]:
            part += 1
        if part == len(parts):
            break
        parts[part] += members[index]
        done += len(members[index])
    return [torch.tensor(part, dtype=torch.int64) for part in parts]


def digest(rows: Iterable[tuple[object, ...]]) -> str:
    """Return the sha256 of rows: of what is used of a file, not of how it is laid out."""
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(
    lines: Iterable[str],
    read: Callable[[str], _Row],
    expected: Expected,
    where: str,
    help_: str,
) -> list[_Row]:
    """Read a file's lines, and see that they are what is expected."""
    try:
        rows = [read(line) for line in lines]
    except ValueError as error:
        raise DataError(f"{where}: a line is cut short or not of this format; {help_}") from error
    if len(rows) != expected.n_rows:
        raise DataError(
            f"{where} has {len(rows)} rows; it must have {expected.n_rows}: it is cut short, or of "
            f"another version; {help_}"
        )
    if expected.sha256 not in (None, digest(rows)):
        raise DataError(f"{where} has other rows than it must have: another version; {help_}")
    return rows


def _gloss(line: str) -> _Row:
    head, gloss = line.split(" | ", 1)
    text = gloss.split('; "', 1)[0].strip()
    return int(head.split()[1]), text, text


def _sentence(line: str) -> _Row:
    name, rating, text = line.split("\t")
    mean = float(rating)
    return (mean > 0) - (mean < 0), text.strip(), name.split("_")[0]


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        content = opened.extractfile(name)
        assert content is not None, name
        return content.read()


def _texts(label: str, rows: Iterable[_Row]) -> Texts:
    first: dict[str, _Row] = {}
    for row in rows:
        first.setdefault(row[1], row)
    classes, texts, groups = zip(*first.values(), strict=True)
    return Texts(label, texts, torch.tensor(classes), groups)
