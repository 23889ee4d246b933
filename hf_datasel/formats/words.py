"""Words of texts in any script."""

from __future__ import annotations

import unicodedata

import regex

__all__ = ["comparable_words", "count_words", "segments"]

_UNSPACED = regex.compile(
    r"[\p{Ideographic}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Tibetan}\p{Line_Break=Complex_Context}]"
)
"""Characters of scripts without spaces between words."""
_SEGMENT = regex.compile(r"[\p{L}\p{N}](?:\B.)*", regex.WORD | regex.DOTALL | regex.VERSION1)
"""Segment between Unicode word boundaries (UAX 29) with a letter or digit."""
_NEEDS_DICTIONARY = regex.compile(r"\p{Line_Break=Complex_Context}")
"""Characters of Thai, Lao, Khmer, Burmese and related scripts, whose words only a dictionary can find."""
_WORD = regex.compile(r"\w+")
_CLUSTERS_PER_WORD = 4
"""Clusters of these scripts that count as one word.

The first article of the Universal Declaration of Human Rights has 30 words in English, and 103 clusters in Thai, 132
in Lao, 112 in Khmer and 102 in Burmese.
"""


def segments(token: str) -> list[str]:
    """Split a token without white space if it has characters of scripts without spaces between words.

    Args:
        token: The token.

    Returns:
        The token itself; or its segments between Unicode word boundaries (UAX 29) with a letter or digit: single
        characters of Chinese and of Japanese kanji and hiragana, runs of katakana, words of scripts with spaces, and
        clusters of a letter with its marks in Thai, Lao, Khmer and Burmese.

    >>> segments("3.14%"), segments("用Python写。")
    (['3.14%'], ['用', 'Python', '写'])
    """
    return [token] if token.isascii() or not _UNSPACED.search(token) else list(_SEGMENT.findall(token))


def count_words(text: str) -> int:
    """Count the words of a text so that lengths in different scripts compare.

    Words are separated by white space. Where they contain characters of scripts without spaces between words, they are
    segmented at Unicode word boundaries (UAX 29): each character of Chinese and of Japanese kanji and hiragana is a
    word. Words of Thai, Lao, Khmer and Burmese, which only a dictionary can find, are counted as one for every four
    clusters of a letter with its marks.

    Args:
        text: The text.

    >>> [count_words(text) for text in ("It depends - on the load.", "人人生而自由。", "มนุษย์ทั้งหลาย")]
    [6, 6, 3]
    """
    if text.isascii() or not _UNSPACED.search(text):
        return len(text.split())
    words = clusters = 0
    for token in text.split():
        parts = segments(token)
        in_clusters = sum(_NEEDS_DICTIONARY.match(part) is not None for part in parts)
        clusters += in_clusters
        words += len(parts) - in_clusters
    return words + -(-clusters // _CLUSTERS_PER_WORD)


def comparable_words(text: str) -> list[str]:
    """Return the words of a text in a form in which copies of it agree, whatever their case and punctuation.

    Words are in lower case and in the Unicode form NFKC. Whatever is no letter, mark, digit or underscore separates
    them, and so does the border of each segment in scripts without spaces between words (see `segments`).

    Args:
        text: The text.

    >>> comparable_words("Don’t add 3.5 %, *please*!"), comparable_words("用Python写。")
    (['don', 't', 'add', '3', '5', 'please'], ['用', 'python', '写'])
    """
    if text.isascii():
        return list(_WORD.findall(text.lower()))
    words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return [part for word in words for part in segments(word)]
