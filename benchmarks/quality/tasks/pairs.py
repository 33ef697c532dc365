"""Emoji and their names as pairs of an image and a text, in three parts without a common concept.

A network is judged on emoji that it has never seen, in both designs, as Flickr30K's test images
and their sentences are new. What a text says of an emoji is its name, its short names and the
words of its subcategory ("animal mammal", "food fruit"), which other emoji have too.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.data import DataError
from benchmarks.emoji import Emoji

#: Left out: no pixel tells the name of a country whose flag was not seen, and a skin tone is a
#: square of one colour.
LEFT_OUT = ("country-flag", "subdivision-flag", "skin-tone")
#: Where each part ends, as a share of the emoji.
ENDS = {"train": 0.58, "validation": 0.73, "test": 1.0}
#: Words that tell near duplicates from each other: who does it, the direction, the number. Emoji
#: that differ in nothing else are one concept: a woman astronaut, clock faces, keycaps.
_VARIANTS = (
    "man men woman women person people boy boys girl girls male female adult child older "
    "mother father christmas and with of the in "
    "left right up down upwards downwards leftwards rightwards facing upper lower north south "
    "east west northeast northwest southeast southwest pointing "
    "one two three four five six seven eight nine ten eleven twelve thirty oclock "
    "0 1 2 3 4 5 6 7 8 9 10 100 1234 small medium large"
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Emoji that texts can be told of, and which of them are in which part.

    Attributes:
        label: what results on them are called.
        texts: the words of each.
        images: [designs, n, 3, 64, 64] uint8.
        parts: ``"train"``, ``"validation"`` and ``"test"``: places in the above, rising.
    """

    label: str
    texts: tuple[tuple[str, ...], ...]
    images: Tensor
    parts: dict[str, Tensor]


def pairs(emoji: Emoji) -> Pairs:
    """Return the emoji that are not left out, split always in the same way.

    Raises:
        DataError: if there are too few of them for three parts.
    """
    kept = [i for i, name in enumerate(emoji.subcategories) if name not in LEFT_OUT]
    parts = split([concept(emoji.names[i], emoji.subcategories[i]) for i in kept])
    empty = [name for name, places in parts.items() if not len(places)]
    if empty:
        raise DataError(f"{emoji.label}: {len(kept)} emoji leave none for {', '.join(empty)}")
    texts = (text(emoji.names[i], emoji.short_names[i], emoji.subcategories[i]) for i in kept)
    images = torch.stack([images[kept] for images in emoji.images.values()])
    return Pairs(emoji.label, tuple(texts), images, parts)


def words(phrase: str) -> list[str]:
    """Return the words of a phrase in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+", phrase.lower())


def text(name: str, short_names: Iterable[str], subcategory: str) -> tuple[str, ...]:
    """Return what is said of an emoji, as words.

    The kind comes first, then the name, then what the short names add: where a text is cut, it
    loses its end.
    """
    said = words(subcategory) + words(name)
    added = [word for phrase in short_names for word in words(phrase) if word not in said]
    return (*said, *dict.fromkeys(added))


def concept(name: str, subcategory: str) -> str:
    """Return what an emoji has in common with its near duplicates, and with nothing else."""
    variants = words(_VARIANTS)
    return " ".join([subcategory, *(word for word in words(name) if word not in variants)])


def split(concepts: list[str]) -> dict[str, Tensor]:
    """Return the places of each part, whole concepts each, in rising order."""
    each = sorted(set(concepts))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(each), generator=generator).tolist()
    rank = {each[place]: i for i, place in enumerate(order)}
    ranks = torch.tensor([rank[concept] for concept in concepts])
    # The share of emoji whose concepts come before and with each: concepts differ in size.
    share = torch.bincount(ranks, minlength=len(each)).cumsum(0)[ranks] / max(1, len(concepts))
    parts: dict[str, Tensor] = {}
    low = 0.0
    for name, high in ENDS.items():
        parts[name] = ((share > low) & (share <= high)).nonzero()[:, 0]
        low = high
    return parts
