"""MinHash: which texts are candidates for near-duplicates, from hashes of their n-grams of words.

Source: Broder 1997, "On the resemblance and containment of documents"; bands as in Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4. The hash functions are fixed, so that the result is the same on every
machine.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import ConfigError
from hf_datasel.strategies._checks import Ints

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "Hashes",
    "TextHashes",
    "band_keys",
    "band_layout",
    "jaccard",
    "miss_probability",
    "ngram_matrix",
    "shingles",
    "unique_shingles",
    "word_digests",
]

Hashes = npt.NDArray[np.uint64]

_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NGRAMS_PER_COMPARISON = 100_000
_MAX_MISS = 0.01
"""Highest probability to miss a pair at the threshold that `band_layout` allows."""


class TextHashes(NamedTuple):
    """Hashes of the words, or of the n-grams of words, of texts.

    Attributes:
        hashes: Those of all texts, one text after the other, uint64.
        starts: Where those of each text start, and the number of all, int64 of shape (texts + 1,).
    """

    hashes: Hashes
    starts: Ints


def word_digests(words: TextHashes) -> Hashes:
    """Return a digest of all words of each text: two numbers, uint64 of shape (texts, 2)."""
    hashes = words.hashes.astype("<u8", copy=False)
    spans = zip(words.starts[:-1].tolist(), words.starts[1:].tolist(), strict=True)
    digests = b"".join(blake2b(hashes[start:end].data, digest_size=16).digest() for start, end in spans)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def shingles(words: TextHashes, n: int) -> TextHashes:
    """Return hashes of the n-grams of words. A text of fewer than n words has one, that of all its words.

    Args:
        words: Hashes of words.
        n: Number of words of an n-gram.
    """
    lengths = np.diff(words.starts)
    counts = np.maximum(lengths - n + 1, 1)
    starts = np.append(0, np.cumsum(counts))
    first = np.arange(starts[-1]) - np.repeat(starts[:-1] - words.starts[:-1], counts)
    end = np.repeat(words.starts[1:], counts)
    padded = np.append(words.hashes, np.uint64(0))
    hashes = np.zeros(len(first), dtype=np.uint64)
    for shift in range(min(n, int(lengths.max(initial=0)))):
        position = first + shift
        inside = position < end
        hashes = np.where(inside, hashes * _MULTIPLIER + padded[np.where(inside, position, 0)], hashes)
    return TextHashes(_mixed(hashes), starts)


def unique_shingles(rows: TextHashes) -> TextHashes:
    """Return the hashes of each text sorted and each once."""
    owner = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
    order = np.lexsort((rows.hashes, owner))
    owner, hashes = owner[order], rows.hashes[order]
    is_new = np.ones(len(hashes), dtype=bool)
    is_new[1:] = (owner[1:] != owner[:-1]) | (hashes[1:] != hashes[:-1])
    counts = np.bincount(owner[is_new], minlength=len(rows.starts) - 1)
    return TextHashes(hashes[is_new], np.append(0, np.cumsum(counts)))


def miss_probability(similarity: float, threshold: float = 0.8, num_perm: int = 128) -> float:
    """Return the probability that two texts share no band, and are not compared.

    With b bands of r hashes it is (1 - similarity^r)^b.

    Args:
        similarity: Jaccard similarity of the two texts, 0 to 1.
        threshold: Threshold that the bands are made for.
        num_perm: Number of hash functions.

    >>> [f"{miss_probability(similarity):.0e}" for similarity in (0.8, 0.85, 0.9)]
    ['2e-03', '5e-05', '1e-07']
    """
    num_bands, size = band_layout(threshold, num_perm)
    probability: float = (1 - similarity**size) ** num_bands
    return probability


def band_layout(threshold: float, num_perm: int) -> tuple[int, int]:
    """Return the number of bands and of hashes in a band.

    Bands have as many hashes as possible, so that few texts below the threshold are compared, with a probability of at
    most 1% to miss a pair at the threshold.

    Args:
        threshold: Jaccard similarity, above 0 and below 1.
        num_perm: Number of hash functions.

    Raises:
        ConfigError: There are too few hash functions.

    >>> band_layout(0.8, 128), band_layout(0.5, 128)
    ((21, 6), (42, 3))
    """
    for size in range(num_perm, 0, -1):
        if (1 - threshold**size) ** (num_perm // size) <= _MAX_MISS:
            return num_perm // size, size
    needed = int(np.ceil(np.log(_MAX_MISS) / np.log1p(-threshold)))
    raise ConfigError(
        f"num_perm={num_perm} misses more than {_MAX_MISS:.0%} of the pairs with a Jaccard similarity of "
        f"{threshold:g}: it has to be at least {needed:,}."
    )


def band_keys(rows: TextHashes, threshold: float, num_perm: int) -> Hashes:
    """Return a number for each band of each text; texts with an equal number are candidates.

    Args:
        rows: Hashes of n-grams, at least one for each text.
        threshold: Jaccard similarity that the bands are made for.
        num_perm: Number of hash functions.

    Returns:
        Shape (bands, texts).
    """
    num_bands, size = band_layout(threshold, num_perm)
    factors, terms = _hash_functions(num_bands * size)
    keys = np.zeros((num_bands, len(rows.starts) - 1), dtype=np.uint64)
    if not keys.size:
        return keys
    values = np.empty_like(rows.hashes)
    for number, (factor, term) in enumerate(zip(factors, terms, strict=True)):
        np.multiply(rows.hashes, factor, out=values)
        np.add(values, term, out=values)
        key = keys[number // size]
        key *= _MULTIPLIER
        key += np.minimum.reduceat(values, rows.starts[:-1])
    return keys


@cache
def _hash_functions(number: int) -> tuple[Hashes, Hashes]:
    """Return the factors, which are odd, and the terms of functions of the form x -> factor * x + term mod 2^64."""
    numbers = np.arange(1, 2 * number + 1, dtype=np.uint64) * _MULTIPLIER + np.uint64(_SEED)
    mixed = _mixed(numbers)
    return mixed[:number] | np.uint64(1), mixed[number:]


def _mixed(values: Hashes) -> Hashes:
    """Return the finalizer of SplitMix64 (Steele et al. 2014) of each number."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def ngram_matrix(rows: TextHashes) -> csr_array:
    """Return which n-grams each text has, as a sparse matrix with a row for each text.

    Args:
        rows: Hashes of n-grams, sorted and each once.
    """
    from scipy.sparse import csr_array

    columns = (rows.hashes >> np.uint64(1)).astype(np.int64)  # numbers of columns are signed
    shape = len(rows.starts) - 1, np.iinfo(np.int64).max
    return csr_array((np.ones(len(columns), dtype=np.int8), columns, rows.starts), shape=shape)


def jaccard(ngrams: csr_array, one: Ints, other: Ints) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of the n-grams of pairs of texts.

    Args:
        ngrams: Which n-grams each text has, from `ngram_matrix`.
        one: Numbers of texts, shape (pairs,).
        other: Numbers of the texts that they are compared with, shape (pairs,).

    Returns:
        Shape (pairs,), from 0 to 1. Only hashes of different n-grams that are equal but for the last bit could make it
        wrong: one pair of n-grams in 2^63.
    """
    lengths, similarity = np.diff(ngrams.indptr), np.empty(len(one))
    num_ngrams = np.cumsum(lengths[one] + lengths[other])
    for block in np.split(np.arange(len(one)), np.flatnonzero(np.diff(num_ngrams // _NGRAMS_PER_COMPARISON)) + 1):
        shared = np.diff(ngrams[one[block]].multiply(ngrams[other[block]]).indptr)
        similarity[block] = shared / (lengths[one[block]] + lengths[other[block]] - shared)
    return similarity
