"""Near-duplicates of texts against a comparison of all pairs, the probability to miss a pair, and fixed hashes."""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.scoring.text_hashes import hash_words
from hf_datasel.strategies import min_hash, text_duplicates
from hf_datasel.strategies.min_hash import TextHashes, band_keys, band_layout, miss_probability, shingles, word_digests
from hf_datasel.strategies.text_duplicates import find_text_duplicates, text_duplicate_of


def reader(rows):
    return lambda positions: hash_words([rows[position] for position in positions])


def find(rows, order=None, **settings):
    order = np.arange(len(rows)) if order is None else np.asarray(order)
    return find_text_duplicates(reader(rows), order, **settings)


@cache
def ngrams(text, n):
    words = text.lower().split()
    return frozenset(tuple(words[start : start + n]) for start in range(max(len(words) - n + 1, 1)))


def similarity(one, two, n=5):
    one, two = ngrams(one, n), ngrams(two, n)
    common = len(one & two)
    return common / (len(one) + len(two) - common)


def all_pairs(rows, threshold, order):
    """Compare every row with all rows that are kept so far."""
    kept, result = [], np.empty(len(rows), dtype=np.int64)
    for row in order:
        near = [other for other in kept if similarity(rows[other], rows[row]) >= threshold]
        result[row] = near[0] if near else row
        kept += [] if near else [row]
    return result.tolist()


@pytest.fixture(scope="module")
def planted():
    """Give 300 random texts, and of 60 of them copies with 0 to 6 words replaced: similarities of 1 to 0.3."""
    rng = np.random.default_rng(3)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 500, rng.integers(40, 90))) for _ in range(300)]
    for source in range(60):
        for changes in range(7):
            words = texts[source].split()
            for place in rng.integers(0, len(words), changes):
                words[place] = "changed"
            texts.append(" ".join(words).upper() if changes == 0 else " ".join(words))
    return [texts[row] for row in rng.permutation(len(texts))]


@pytest.mark.parametrize("threshold", [0.9, 0.8, 0.6])
def test_equals_comparison_of_all_pairs(planted, threshold):
    order = np.random.default_rng(0).permutation(len(planted))
    for ranks in (np.arange(len(planted)), order):
        kept = find(planted, ranks, threshold=threshold).kept
        excluded = np.flatnonzero(kept != np.arange(len(kept)))
        expected = all_pairs(planted, threshold, ranks)
        assert len(excluded) >= 60
        assert all(similarity(planted[row], planted[kept[row]]) >= threshold for row in excluded)
        assert kept.tolist() == expected, "no pair of these is missed"


def test_overlapping_groups_equal_comparison_of_all_pairs():
    rng = np.random.default_rng(5)
    rows = []
    for topic in range(4):  # windows that move over a long text, so that most texts are near several others
        words = [f"t{topic}w{number}" for number in range(260)]
        rows += [" ".join(words[start : start + int(rng.integers(50, 60))]) for start in range(0, 200, 2)]
    for _ in range(3):
        order = rng.permutation(len(rows))
        kept = find(rows, order, threshold=0.7, num_perm=512).kept
        assert kept.tolist() == all_pairs(rows, 0.7, order)


def test_order_of_the_rows_does_not_matter(planted):
    rank = np.random.default_rng(1).permutation(len(planted))  # of each text
    shuffled = np.random.default_rng(2).permutation(len(planted))
    one = find(planted, np.argsort(rank))
    two = find([planted[row] for row in shuffled], np.argsort(rank[shuffled]))
    assert shuffled[two.kept].tolist() == one.kept[shuffled].tolist()
    assert two.exact.tolist() == one.exact[shuffled].tolist()


def test_block_size_does_not_matter(planted, monkeypatch):
    expected = find(planted)
    for size in (1, 7):
        monkeypatch.setattr(text_duplicates, "_TEXTS_PER_BLOCK", size)
        monkeypatch.setattr(min_hash, "_NGRAMS_PER_COMPARISON", size)
        result = find(planted)
        assert result.kept.tolist() == expected.kept.tolist()
        assert result.exact.tolist() == expected.exact.tolist()


def test_threshold_is_inclusive():
    rows = ["a b c d e f g h i", "a b c d e f g h x"]  # 4 common 5-grams of 6
    assert similarity(*rows) == 4 / 6
    assert find(rows, threshold=4 / 6).kept.tolist() == [0, 0]
    assert find(rows, threshold=np.nextafter(4 / 6, 1)).kept.tolist() == [0, 1]


def test_excluded_texts_do_not_exclude_others():
    words = [f"w{number}" for number in range(60)]
    rows = [" ".join(words[start : start + 50]) for start in (0, 4, 8)]  # neighbours have 0.84, the ends 0.70
    assert [round(similarity(*pair), 2) for pair in pairwise(rows)] == [0.84, 0.84]
    assert find(rows).kept.tolist() == [0, 0, 2]
    assert find(rows, [1, 0, 2]).kept.tolist() == [1, 1, 1]


def test_same_words():
    rows = ["Hello, world!", "hello world", "world hello", "Hello,\n\tworld", "HELLO WORLD ..."]
    for threshold in (0.8, 1):
        result = find(rows, threshold=threshold)
        assert result.kept.tolist() == [0, 0, 2, 0, 0]
        assert result.exact.tolist() == [False, True, False, True, True]
    assert find(rows, [4, 3, 2, 1, 0]).kept.tolist() == [4, 4, 2, 4, 4]


def test_copies_of_an_excluded_text_are_near_duplicates():
    first = " ".join(map(str, range(50)))
    other = f"{first} more"
    result = find([first, other, other.upper()])
    assert result.kept.tolist() == [0, 0, 0]
    assert result.exact.tolist() == [False, False, False], "the text with the same words is excluded too"


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Is 2 + 3 even?", "Is 2 - 3 even?", False),
        ("a < b", "a > b", False),
        ("x * y", "x / y", False),
        ("Café — ﬁne.", "CAFE\u0301 — fine", True),
        ("用Python写。", "用 python 写", True),
        ("用Python写。", "用Python读。", False),
        ("?!", "...", False),
        ("\ud800 a", "\ud800 A", True),
        ("", "", True),
    ],
)
def test_what_counts_as_the_same_words(one, two, same):
    assert find([one, two]).kept.tolist() == [0, 0 if same else 1]


def test_short_texts_are_compared_as_a_whole():
    rows = ["one two three", "one two three four", "one two three four five", "Four: one two three"]
    assert find(rows, threshold=0.1).kept.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shared", [50, 70, 80])
def test_probability_to_miss_a_pair(shared):
    rng = np.random.default_rng(shared)
    pairs, words = 4_000, 100
    common = rng.integers(0, 2**63, (pairs, 1, shared), dtype=np.uint64).repeat(2, axis=1)
    own = rng.integers(0, 2**63, (pairs, 2, (words - shared) // 2), dtype=np.uint64)
    hashes = np.concatenate([common, own], axis=2)  # a Jaccard similarity of shared / 100
    starts = np.arange(2 * pairs + 1) * hashes.shape[2]
    keys = band_keys(shingles(TextHashes(hashes.ravel(), starts), 1), 0.8, 128)
    missed = (keys[:, 0::2] != keys[:, 1::2]).all(axis=0).mean()
    expected = miss_probability(shared / 100)
    assert missed == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / pairs))


DIGEST = "5f158bd3fa4a5ebf47b1bc3060c5e61c154f40f2b162b9bf366456b3ba463f03"


def test_hashes_are_fixed():
    words = hash_words(["The quick brown fox jumps over the lazy dog.", "Hi"])
    keys = band_keys(shingles(words, 5), 0.8, 128)
    assert keys.shape == (21, 2)
    numbers = keys.astype("<u8").tobytes() + word_digests(words).astype("<u8").tobytes()
    assert hashlib.sha256(numbers).hexdigest() == "5f158bd3fa4a5ebf47b1bc3060c5e61c154f40f2b162b9bf366456b3ba463f03", (
        "other hashes exclude other rows of published selections"
    )


def test_bands():
    for threshold in (0.3, 0.5, 0.8, 0.95):
        bands, size = band_layout(threshold, 128)
        assert bands * size <= 128
        assert miss_probability(threshold, threshold) <= 0.01 < (1 - threshold ** (size + 1)) ** (128 // (size + 1))
    with pytest.raises(ConfigError, match=r"num_perm=2 misses more than 1% of the pairs .* 0.8: .* at least 3\."):
        find(["a", "b"], num_perm=2)
    assert find(["a b", "A, b"], num_perm=3).kept.tolist() == [0, 0]


def test_nothing_to_compare():
    assert find([]).kept.tolist() == []
    assert find(["a"]).kept.tolist() == [0]
    assert find([], threshold=1).kept.tolist() == []


def test_text_duplicate_of(planted):
    kept = find(planted).kept
    order = np.unique(kept)
    for row in np.flatnonzero(kept != np.arange(len(kept)))[:50]:
        position, value = text_duplicate_of(reader(planted), order, hash_words([planted[row]]))
        assert position == kept[row]
        assert value == similarity(planted[row], planted[position])
    assert text_duplicate_of(reader(["a b c"] * 3), np.arange(3), hash_words(["a b"])) is None
