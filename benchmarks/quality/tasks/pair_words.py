"""Word vectors that need no pretrained network: from the training texts, and from spelling.

They stand in for the GloVe and MT GrOVLE vectors of the npas paper. One part says in which texts
of the training set a word is (latent semantic analysis, Deerwester et al., 1990) and is 0 for a
word that is in none; the other one says how it is spelled, by its character n-grams (as fastText,
Bojanowski et al., TACL 2017), and is there for every word.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

#: Features of a word: from texts, and from spelling.
TEXTS, SPELLING = 96, 32
WIDTH = TEXTS + SPELLING

_Tfidf: Any = TfidfVectorizer  # its annotations know no callable analyzer

Texts = Sequence[tuple[str, ...]]


def word_vectors(texts: Texts, train: Sequence[int]) -> list[Tensor]:
    """Return the vectors of each text's words, [words, 128].

    A word weighs its inverse document frequency, so that the plain mean over a text is a weighted
    one. The mean square over the words of the training texts is 1.

    Args:
        texts: the words of every text.
        train: the texts that vectors are fitted on.
    """
    words = sorted({word for text in texts for word in text})
    place = {word: i for i, word in enumerate(words)}
    counter = _Tfidf(analyzer=list)
    counts = counter.fit_transform([texts[i] for i in train])
    known = counter.get_feature_names_out()
    rows = [place[word] for word in known]

    vectors = np.zeros((len(words), WIDTH))
    parts = (vectors[:, :TEXTS], vectors[:, TEXTS:])
    loadings = _components(counts, TEXTS).components_.T
    parts[0][rows, : loadings.shape[1]] = loadings
    speller = _Tfidf(analyzer=_ngrams, sublinear_tf=True)
    spelling = _components(speller.fit_transform(known), SPELLING)
    spelled = spelling.transform(speller.transform(words))
    parts[1][:, : spelled.shape[1]] = spelled
    for part in parts:
        part /= np.linalg.norm(part[rows], axis=1).mean()

    rarity = np.full(len(words), counter.idf_.max())
    rarity[rows] = counter.idf_
    vectors *= rarity[:, None]
    vectors /= np.sqrt(np.square(vectors[rows]).mean())
    table = torch.from_numpy(vectors).float()
    return [table[[place[word] for word in text]] for text in texts]


def _components(counts: Any, most: int) -> Any:
    return TruncatedSVD(min(most, *(side - 1 for side in counts.shape)), random_state=0).fit(counts)


def _ngrams(word: str) -> list[str]:
    """Return the runs of three to five characters; the ends of a word have a mark."""
    marked = f"<{word}>"
    return [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]


def means(vectors: Sequence[Tensor], train: Sequence[int]) -> Tensor:
    """Return the mean of each text's words, [texts, 128], as the text's features.

    Over the training texts their mean is 0 and their mean variance 1.
    """
    x = torch.stack([words.mean(0) for words in vectors])
    seen = x[list(train)]
    return (x - seen.mean(0)) / seen.var(0).mean().sqrt()


def sequences(vectors: Sequence[Tensor], length: int) -> Tensor:
    """Return the first words of each text, [texts, length, 128]; short texts end in zeros."""
    x = torch.zeros(len(vectors), length, WIDTH)
    for row, words in zip(x, vectors, strict=True):
        row[: len(words)] = words[:length]
    return x
