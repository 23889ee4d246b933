"""Near-duplicates among texts: candidates by MinHash, decided by the Jaccard similarity of their n-grams of words.

Source: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022, "Deduplicating Training Data
Makes Language Models Better" (2107.06499), NearDup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hf_datasel.strategies._checks import Ints, blocks
from hf_datasel.strategies.min_hash import (
    Hashes,
    TextHashes,
    band_keys,
    band_layout,
    jaccard,
    shingles,
    unique_shingles,
    word_digests,
)

__all__ = ["TextDuplicates", "find_text_duplicates", "text_duplicate_of"]

_TEXTS_PER_BLOCK = 2_000
_TEXTS_PER_COMPARISON = 10_000

ReadWords = Callable[[Ints], TextHashes]
"""Returns the hashes of the words of the texts at some positions."""


class TextDuplicates(NamedTuple):
    """Duplicates among texts.

    Attributes:
        kept: Position of the text that is kept instead of each text, int64 of shape (texts,); its own if it is kept.
        exact: Whether each text is excluded because it has the same words as the text that is kept, bool of shape
            (texts,).
    """

    kept: Ints
    exact: npt.NDArray[np.bool_]


def find_text_duplicates(
    read: ReadWords,
    order: Ints,
    threshold: float = 0.8,
    ngram: int = 5,
    num_perm: int = 128,
    progress: Callable[[int], object] | None = None,
) -> TextDuplicates:
    """Find the texts that are near-duplicates of a text that is kept.

    Texts are processed in `order`, and each is kept unless the Jaccard similarity of its n-grams with those of a text
    kept before is at least `threshold`. Pairs are found by MinHash and then compared, so that every excluded text has
    that similarity, while a pair may be missed (see `hf_datasel.strategies.min_hash.miss_probability`). Texts with the
    same words are always found.

    In memory are 8 bytes per text and band, and 8 bytes for each n-gram of the candidates. The texts of all rows are
    read once, in blocks, and those of candidates a second time. Each candidate that is kept is compared with all later
    ones that share a band with it: time grows with the square of the size of a group of texts just below the
    threshold.

    Args:
        read: Function that returns the hashes of the words of the texts at some positions.
        order: All positions, the best first, int64 of shape (texts,).
        threshold: Jaccard similarity, above 0 and up to 1. With 1, only texts with the same words are duplicates.
        ngram: Number of words of an n-gram.
        num_perm: Number of hash functions.
        progress: Called with the number of texts read so far.

    Raises:
        ConfigError: There are too few hash functions for this threshold.
    """
    num_texts = len(order)
    num_bands = band_layout(threshold, num_perm)[0] if threshold < 1 else 0
    digests = np.empty((num_texts, 2), dtype=np.uint64)
    keys = np.empty((num_bands, num_texts), dtype=np.uint64)
    for block in blocks(num_texts, 1, _TEXTS_PER_BLOCK):
        words = read(np.arange(block.start, block.stop))
        digests[block] = word_digests(words)
        if num_bands:
            keys[:, block] = band_keys(shingles(words, ngram), threshold, num_perm)
        if progress is not None:
            progress(block.stop)
    first = np.empty(num_texts, dtype=np.int64)
    first[order] = order[_first_with_same_words(digests[order])]
    kept = first.copy()
    if num_bands:
        groups = _shared_bands(keys, np.flatnonzero(first == np.arange(num_texts)))
        del keys
        candidates, numbers = np.unique(groups.texts, return_inverse=True)
        rank = np.argsort(order)[candidates]
        rows = _read_shingles(read, candidates, ngram)
        kept[candidates] = candidates[_leaders(groups._replace(texts=numbers), rows, rank, threshold)]
        kept = kept[first]
    return TextDuplicates(kept, (kept == first) & (first != np.arange(num_texts)))


def text_duplicate_of(
    read: ReadWords, order: Ints, own: TextHashes, threshold: float = 0.8, ngram: int = 5
) -> tuple[int, float] | None:
    """Return the first of some texts that a text is a near-duplicate of, and their Jaccard similarity; or None.

    All texts are compared, without MinHash. With a threshold of 1, the words have to be the same.

    Args:
        read: Function that returns the hashes of the words of the texts at some positions.
        order: Positions of the texts, int64 of shape (texts,).
        own: Hashes of the words of the text.
        threshold: Jaccard similarity, above 0 and up to 1.
        ngram: Number of words of an n-gram.
    """
    own_shingles, own_digest = unique_shingles(shingles(own, ngram)).hashes, word_digests(own)
    for block in blocks(len(order), 1, _TEXTS_PER_BLOCK):
        words = read(order[block])
        similarity = jaccard(unique_shingles(shingles(words, ngram)), own_shingles, np.arange(len(words.starts) - 1))
        has_same_words = (word_digests(words) == own_digest).all(axis=1)
        near = np.flatnonzero(has_same_words if threshold == 1 else similarity >= threshold)
        if len(near):
            return int(order[block][near[0]]), float(similarity[near[0]])
    return None


class _Groups(NamedTuple):
    """Groups of texts that share a band: the texts of one group after the other, and where each group starts."""

    texts: Ints
    starts: Ints


def _first_with_same_words(digests: Hashes) -> Ints:
    """Return the number of the first text with the digest of each text."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable, so that equal ones stay ascending
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return first


def _shared_bands(keys: Hashes, positions: Ints) -> _Groups:
    """Return the groups of the texts at some positions that share a band."""
    texts, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for band in keys:
        values = band[positions]
        order = np.argsort(values, kind="stable")
        values = values[order]
        starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else order
        sizes = np.diff(np.append(starts, len(values)))
        texts.append(positions[order[np.repeat(sizes, sizes) > 1]])
        counts.append(sizes[sizes > 1])
    return _Groups(np.concatenate(texts), np.append(0, np.cumsum(np.concatenate(counts))))


def _read_shingles(read: ReadWords, positions: Ints, ngram: int) -> TextHashes:
    """Return the n-grams of the texts at some positions, sorted and each once."""
    hashes, counts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for block in blocks(len(positions), 1, _TEXTS_PER_BLOCK):
        rows = unique_shingles(shingles(read(positions[block]), ngram))
        hashes.append(rows.hashes)
        counts.append(np.diff(rows.starts))
    return TextHashes(np.concatenate(hashes), np.append(0, np.cumsum(np.concatenate(counts))))


def _leaders(groups: _Groups, rows: TextHashes, rank: Ints, threshold: float) -> Ints:
    """Return the text that is kept instead of each text; its own number if it is kept.

    Args:
        groups: Texts that share a band, which are compared.
        rows: N-grams of the texts, sorted and each once.
        rank: Rank of each text, all different; the lowest is processed first.
        threshold: Jaccard similarity from which on two texts are near-duplicates.
    """
    leaders = np.arange(len(rank))
    group_of = np.repeat(np.arange(len(groups.starts) - 1), np.diff(groups.starts))
    by_text = group_of[np.argsort(groups.texts, kind="stable")]
    ends = np.cumsum(np.bincount(groups.texts, minlength=len(rank)))
    for text in np.argsort(rank).tolist():
        if leaders[text] != text:
            continue
        shared = by_text[ends[text - 1] if text else 0 : ends[text]].tolist()
        others = np.concatenate([groups.texts[groups.starts[group] : groups.starts[group + 1]] for group in shared])
        others = np.unique(others[(rank[others] > rank[text]) & (leaders[others] == others)])
        own = rows.hashes[rows.starts[text] : rows.starts[text + 1]]
        for block in blocks(len(others), 1, _TEXTS_PER_COMPARISON):
            near = jaccard(rows, own, others[block]) >= threshold
            leaders[others[block][near]] = text
    return leaders
