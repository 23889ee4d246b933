"""BM25: how well documents match queries by their words."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import SelectionError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def bm25_weights(
    documents: Iterable[Sequence[str]], queries: Iterable[Sequence[str]], k1: float = 1.5, b: float = 0.75
) -> tuple[csr_array, csr_array]:
    """Return the weights of words in documents and their counts in queries, whose product are the BM25 scores.

    The weight of a word that a document of n words has f times is `idf * f * (k1 + 1) / (f + k1 * (1 - b + b * n /
    mean n))`, with `idf = ln(1 + (N - d + 0.5) / (d + 0.5))` for a word that d of N documents have. A word counts as
    often as the query has it. Words that no query has take no memory.

    Reference: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", Eq. 3.15; the idf
    is that of Lucene, which is never negative.

    Args:
        documents: Words of each document; they are read once.
        queries: Words of each query.
        k1: How much further occurrences of a word count, at least 0; with 0 only the first counts.
        b: How much the length of a document counts, from 0 to 1.

    Returns:
        Float64 matrices of shape (documents, words) and (words, queries): `weights @ counts` are the scores.

    Raises:
        SelectionError: `k1` or `b` is out of range.

    >>> weights, counts = bm25_weights([["red", "fox"], ["red", "red", "hen"]], [["hen"], ["blue", "fox"]])
    >>> (weights @ counts).toarray().round(3)
    array([[0.   , 0.762],
           [0.636, 0.   ]])
    """
    if not k1 >= 0 or not 0 <= b <= 1:
        raise SelectionError(f"bm25_weights: k1={k1!r} has to be at least 0, and b={b!r} from 0 to 1.")
    numbers: dict[str, int] = {}
    asked = [Counter(numbers.setdefault(word, len(numbers)) for word in query) for query in queries]
    counts = _matrix(asked, len(numbers))
    lengths: list[int] = []

    def known() -> Iterator[Counter[int]]:
        for document in documents:
            lengths.append(len(document))
            yield Counter(numbers[word] for word in document if word in numbers)

    weights = _matrix(known(), len(numbers))
    sizes = np.array(lengths, dtype=np.float64)
    frequency = np.bincount(weights.indices, minlength=len(numbers))
    idf = np.log1p((len(sizes) - frequency + 0.5) / (frequency + 0.5))
    norm = k1 * (1 - b + b * sizes / max(sizes.mean(), 1.0)) if len(sizes) else sizes
    owner = np.repeat(np.arange(len(sizes)), np.diff(weights.indptr))
    weights.data = idf[weights.indices] * weights.data * (k1 + 1) / (weights.data + norm[owner])
    return weights, counts.T.tocsr()


def _matrix(rows: Iterable[Counter[int]], width: int) -> csr_array:
    """Return counts as a sparse matrix, with a row for each counter."""
    from scipy.sparse import csr_array

    columns, data, starts = array("q"), array("d"), array("q", [0])
    for row in rows:
        columns.extend(row.keys())
        data.extend(row.values())
        starts.append(len(columns))
    shape = (len(starts) - 1, width)
    return csr_array((np.array(data), np.array(columns, dtype=np.int32), np.array(starts)), shape=shape)
