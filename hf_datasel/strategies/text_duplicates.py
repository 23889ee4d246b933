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
    ngram_matrix,
    shingles,
    unique_shingles,
    word_digests,
)

__all__ = ["TextDuplicates", "find_text_duplicates", "similarity_to_kept", "text_duplicate_of"]

_TEXTS_PER_BLOCK = 2_000

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


def similarity_to_kept(read: ReadWords, kept: Ints, ngram: int = 5) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of each text with the text that is kept instead of it; 1 for texts that are kept.

    Args:
        read: Function that returns the hashes of the words of the texts at some positions.
        kept: Position of the text that is kept instead of each text, int64 of shape (texts,).
        ngram: Number of words of an n-gram.
    """
    similarity = np.ones(len(kept))
    excluded = np.flatnonzero(kept != np.arange(len(kept)))
    for block in blocks(len(excluded), 1, _TEXTS_PER_BLOCK):
        texts, numbers = np.unique([excluded[block], kept[excluded[block]]], return_inverse=True)
        one, other = numbers.reshape(2, -1)
        ngrams = ngram_matrix(unique_shingles(shingles(read(texts), ngram)))
        similarity[excluded[block]] = jaccard(ngrams, one, other)
    return similarity


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
    own_digest = word_digests(own)
    for block in blocks(len(order), 1, _TEXTS_PER_BLOCK):
        words = read(order[block])
        both = TextHashes(
            np.append(words.hashes, own.hashes), np.append(words.starts, words.starts[-1] + own.starts[1])
        )
        ngrams, others = ngram_matrix(unique_shingles(shingles(both, ngram))), np.arange(len(words.starts) - 1)
        similarity = jaccard(ngrams, np.full_like(others, len(others)), others)
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

    The texts are those of a pass from the lowest rank to the highest. All texts that come first, of those not decided
    yet, in every group that they are in are processed at once: no text before them can exclude them.

    Args:
        groups: Texts that share a band, which are compared.
        rows: N-grams of the texts, sorted and each once.
        rank: Rank of each text, all different; the lowest is processed first.
        threshold: Jaccard similarity from which on two texts are near-duplicates.
    """
    num_texts, text_of = len(rank), np.argsort(rank)
    number_of = np.argsort(text_of)  # from here on texts are numbered by rank
    group_of = np.repeat(np.arange(len(groups.starts) - 1), np.diff(groups.starts))
    members = number_of[groups.texts]
    members = members[np.lexsort((members, group_of))]
    places = np.argsort(members, kind="stable")  # in `members`, of one text after the other
    num_places = np.bincount(members, minlength=num_texts)
    first_place = np.cumsum(num_places) - num_places
    heads, ends = groups.starts[:-1].copy(), groups.starts[1:]
    num_behind = num_places - np.bincount(members[heads], minlength=num_texts)  # groups with an earlier text
    leaders, is_decided = np.arange(num_texts), np.zeros(num_texts, dtype=bool)
    ngrams, ready = ngram_matrix(rows), np.flatnonzero(num_behind == 0)
    while len(ready):
        own_places = places[_ranges(first_place[ready], num_places[ready])]
        num_later = ends[group_of[own_places]] - own_places - 1
        later = members[_ranges(own_places + 1, num_later)]
        one, other = np.divmod(np.unique(np.repeat(members[own_places], num_later) * num_texts + later), num_texts)
        is_open = leaders[other] > one
        one, other = one[is_open], other[is_open]
        is_near = jaccard(ngrams, text_of[one], text_of[other]) >= threshold
        excluded = np.unique(other[is_near])
        excluded = excluded[~is_decided[excluded]]
        np.minimum.at(leaders, other[is_near], one[is_near])
        is_decided[ready] = is_decided[excluded] = True
        changed = group_of[np.append(own_places, places[_ranges(first_place[excluded], num_places[excluded])])]
        changed = np.unique(changed)
        moved = changed = changed[is_decided[members[heads[changed]]]]
        while len(moved):
            heads[moved] += 1
            moved = moved[heads[moved] < ends[moved]]
            moved = moved[is_decided[members[heads[moved]]]]
        changed = changed[heads[changed] < ends[changed]]
        ready = members[heads[changed]]
        np.subtract.at(num_behind, ready, 1)
        ready = np.unique(ready[num_behind[ready] == 0])
    return text_of[leaders[number_of]]


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return the numbers of ranges, one range after the other."""
    offsets = np.cumsum(lengths) - lengths
    ranges: Ints = np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())
    return ranges
