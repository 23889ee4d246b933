"""The stemmer of Porter (1980)."""

from __future__ import annotations

import re

__all__ = ["porter_stem"]

_STEP_2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "abli": "able", "alli": "al",
    "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al",
    "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
)  # fmt: skip
_FORM = re.compile(r"v+c+")


def porter_stem(word: str) -> str:
    """Return the stem of an English word in lower case, by the algorithm of Porter (1980).

    >>> [porter_stem(word) for word in ("translation", "relational", "hopping", "caresses", "sky")]
    ['translat', 'relat', 'hop', 'caress', 'sky']
    """
    if len(word) < 3 or not word.isascii() or not word.isalpha():
        return word
    word = _step_1(word)
    for endings in (_STEP_2, _STEP_3):
        ending = _longest(word, endings)
        if ending and _measure(word.removesuffix(ending)) > 0:
            word = word.removesuffix(ending) + endings[ending]
    ending = _longest(word, _STEP_4)
    stem = word.removesuffix(ending)
    if ending and _measure(stem) > 1 and (ending != "ion" or stem.endswith(("s", "t"))):
        word = stem
    if word.endswith("e"):
        stem = word[:-1]
        if _measure(stem) > 1 or (_measure(stem) == 1 and not _ends_cvc(stem)):
            word = stem
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _step_1(word: str) -> str:
    """Remove plurals, `ed` and `ing`, and turn a final y into i."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    ending = _longest(word, ("eed", "ed", "ing"))
    stem = word.removesuffix(ending)
    if ending == "eed":
        word = word[:-1] if _measure(stem) > 0 else word
    elif ending and "v" in _letters(stem):
        word = stem
        if word.endswith(("at", "bl", "iz")):
            word += "e"
        elif _ends_double(word) and not word.endswith(("l", "s", "z")):
            word = word[:-1]
        elif _measure(word) == 1 and _ends_cvc(word):
            word += "e"
    return word[:-1] + "i" if word.endswith("y") and "v" in _letters(word[:-1]) else word


def _letters(word: str) -> str:
    """Return v for each vowel and c for each consonant; y is a vowel after a consonant."""
    kinds = ""
    for letter in word:
        is_vowel = letter in "aeiou" or (letter == "y" and kinds.endswith("c"))
        kinds += "v" if is_vowel else "c"
    return kinds


def _measure(stem: str) -> int:
    """Return the number of sequences of vowels that consonants follow."""
    return len(_FORM.findall(_letters(stem)))


def _ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _letters(word)[-1] == "c"


def _ends_cvc(word: str) -> bool:
    return _letters(word).endswith("cvc") and word[-1] not in "wxy"


def _longest(word: str, endings: dict[str, str] | tuple[str, ...]) -> str:
    """Return the longest of the endings that the word has, or an empty text."""
    return max((ending for ending in endings if word.endswith(ending)), key=len, default="")
