"""Text classification: which supersense a definition has, and whether a sentence is positive."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import text
from benchmarks.data import DataError
from benchmarks.quality.tasks.base import Classification, Labelled
from benchmarks.quality.text_networks import PADDING
from benchmarks.sources import Sources
from benchmarks.text import Texts

UNKNOWN = 1
PARTS = ("train", "validation", "test")
# A word with what follows its apostrophe, and the two marks that carry feeling.
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")


@dataclass(frozen=True, slots=True)
class WordDropout:
    """Makes words of a batch unknown at random.

    So the embedding of unknown words is learned, and a text is told by more than one word. After
    the word dropout of Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text
    Classification", ACL 2015, which leaves the words out.

    Attributes:
        share: of the words.
    """

    share: float

    def __call__(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return token ids [batch, length] of which some are `UNKNOWN`; padding stays."""
        dropped = torch.rand(ids.shape, generator=generator) < self.share
        return ids.masked_fill(dropped & (ids != PADDING), UNKNOWN)


@dataclass(frozen=True, slots=True)
class Glosses:
    """Definitions of WordNet, and which of 45 supersenses the word that is defined has.

    No split is published; this one is drawn by `benchmarks.text.split` with seed 0.

    Attributes:
        n_train: definitions to train on.
        n_validation: others.
        n_test: others still.
        n_words: token ids, padding and unknown among them.
        length: tokens of a definition; longer ones are cut.
        dropout: share of the words of a batch that are made unknown.
    """

    n_train: int
    n_validation: int = 5_000
    n_test: int = 10_000
    n_words: int = 8_000
    length: int = 16
    dropout: float = 0.1

    def __call__(self, sources: Sources) -> Classification:
        """Read the definitions.

        Raises:
            DataError: if WordNet is not there, or another version.
        """
        found = text.glosses(sources.find("wordnet"))
        # The test set comes first: it is the same one for every size of training.
        sizes = (self.n_test, self.n_validation, self.n_train)
        try:
            test, validation, train = text.split(found.groups, sizes)
        except ValueError as error:
            raise DataError(f"{found.label}: {error}") from error
        parts = _parts(found, (train, validation, test), self.n_words, self.length)
        n_classes = int(found.classes.max()) + 1
        return Classification(found.label, parts, n_classes, WordDropout(self.dropout))


@dataclass(frozen=True, slots=True)
class Sentiment:
    """Sentences of one or more domains, and whether people rate them above or below neutral.

    No split is published; this one is drawn by `benchmarks.text.split` with seed 0: 70% to train
    on, 10% for validation, the rest for testing. Every domain is split by itself, so that a
    sentence is in the same part of every task that it is in.

    Attributes:
        domains: keys of `benchmarks.text.DOMAINS`.
        n_words: token ids, padding and unknown among them.
        length: tokens of a sentence; longer ones are cut.
        dropout: share of the words of a batch that are made unknown.
    """

    domains: tuple[str, ...]
    n_words: int = 4_000
    length: int = 32
    dropout: float = 0.2

    def __call__(self, sources: Sources) -> Classification:
        """Read the sentences.

        Raises:
            DataError: if VADER's archive is not there, or another version.
        """
        found = text.vader(sources.find(text.VADER), self.domains)
        parts: list[list[Tensor]] = [[] for _ in PARTS]
        for domain in self.domains:
            own = torch.tensor(
                [i for i, g in enumerate(found.groups) if g.startswith(f"{domain}/")]
            )
            n = len(own)
            sizes = (n * 7 // 10, n // 10, n - n * 7 // 10 - n // 10)
            chosen = text.split([found.groups[i] for i in own.tolist()], sizes)
            for part, places in zip(parts, chosen, strict=True):
                part.append(own[places])
        places = [torch.cat(part) for part in parts]
        labelled = _parts(found, places, self.n_words, self.length)
        return Classification(found.label, labelled, 2, WordDropout(self.dropout))


def words(sentence: str) -> list[str]:
    """Return the words of a text in lower case, and its exclamation and question marks."""
    return _WORD.findall(sentence.lower())


def vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Return word -> token id for the most frequent words; equals by the alphabet.

    Ids are below ``size``: 0 is padding, and 1 is every word that has no id of its own.
    """
    counts = Counter(word for each in texts for word in words(each))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: size - 2], start=2)}


def token_ids(texts: Sequence[str], known: Mapping[str, int], length: int) -> Tensor:
    """Return token ids [n, length] int64: words from the left, then padding.

    A text without a word is one unknown word, so that no row is all padding.
    """
    rows: list[list[int]] = []
    for each in texts:
        found = [known.get(word, UNKNOWN) for word in words(each)[:length]] or [UNKNOWN]
        rows.append(found + [PADDING] * (length - len(found)))
    return torch.tensor(rows)


def _parts(found: Texts, parts: Sequence[Tensor], n_words: int, length: int) -> dict[str, Labelled]:
    """Return texts as token ids; the first of the parts alone decides which words have one."""
    texts = [[found.texts[place] for place in places.tolist()] for places in parts]
    known = vocabulary(texts[0], n_words)
    return {
        name: Labelled(token_ids(own, known, length), found.classes[places])
        for name, own, places in zip(PARTS, texts, parts, strict=True)
    }


TASKS = {
    "gloss": Glosses(20_000),
    "gloss-50k": Glosses(50_000),
    "vader": Sentiment(tuple(text.DOMAINS)),
    "vader-movie": Sentiment(("movie",)),
    "vader-tweets": Sentiment(("tweets",)),
}
