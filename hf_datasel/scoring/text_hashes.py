"""Hashes of the words of texts, by which duplicates are found."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import chain

import numpy as np
import regex
import xxhash

from hf_datasel.formats.words import segments
from hf_datasel.strategies.min_hash import TextHashes

__all__ = ["hash_words", "words_and_signs"]

_TOKEN = regex.compile(r"\w+|[\p{S}\p{Pd}%&*/@#\\]")
"""Words, and the signs that change the meaning of code and formulas."""


def words_and_signs(text: str) -> list[str]:
    """Return the words and signs of a text, in lower case and in the Unicode form NFKC.

    White space and punctuation separate words and do not count, but for hyphens, the signs %&*/@# and the backslash,
    and all symbols of Unicode, such as + < = $. In scripts without spaces, words are segments between Unicode word
    boundaries. A text of punctuation alone is split at white space.

    Args:
        text: The text.

    >>> words_and_signs("Is 3 < 5?  YES, it is."), words_and_signs("?!")
    (['is', '3', '<', '5', 'yes', 'it', 'is'], ['?!'])
    """
    if text.isascii():
        return list(_TOKEN.findall(text.lower())) or text.split()
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    return [part for token in tokens for part in segments(token)] or text.split()


def hash_words(texts: Iterable[str]) -> TextHashes:
    """Return the XXH3 hash of each word and sign of texts, the same on every machine.

    Args:
        texts: The texts.
    """
    rows = [words_and_signs(text) for text in texts]
    words = list(chain.from_iterable(rows))
    of_word = {word: xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    hashes = np.fromiter(map(of_word.__getitem__, words), dtype=np.uint64, count=len(words))
    return TextHashes(hashes, np.append(0, np.cumsum([len(row) for row in rows], dtype=np.int64)))
