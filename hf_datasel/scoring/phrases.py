"""Phrases that are searched in texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_datasel.errors import ConfigError

__all__ = ["Phrases", "checked_phrases"]

_APOSTROPHES = str.maketrans("’‘ʼ`", "''''")


class Phrases:
    """Phrases that are found as words, whatever their case, white space and apostrophes.

    Args:
        phrases: The phrases. Where two begin at the same word, the first one counts.

    >>> Phrases(["click here", "it's"]).find("CLICK  HERE: it’s there, not clickhere.")
    ['click here', "it's"]
    """

    def __init__(self, phrases: Sequence[str]):
        self._phrases = {_normalized(phrase): phrase for phrase in reversed(phrases)}
        ordered = dict.fromkeys(_normalized(phrase) for phrase in phrases)
        alternatives = "|".join(re.escape(phrase) for phrase in ordered)
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")

    def find(self, text: str) -> list[str]:
        """Return the phrases in a text, as they were passed, in the order of the text."""
        return [self._phrases[match] for match in self._pattern.findall(_normalized(text))]


def checked_phrases(score: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """Return phrases as a tuple.

    Args:
        score: Name of the score that they are a setting of.
        phrases: The phrases.

    Raises:
        ConfigError: They are no list of texts, or one is blank.
    """
    if not isinstance(phrases, list | tuple) or not all(
        isinstance(phrase, str) and phrase.strip() for phrase in phrases
    ):
        raise ConfigError(f"{score}(phrases={phrases!r}): it has to be a list of phrases, such as ['I must decline'].")
    return tuple(phrases)


def _normalized(text: str) -> str:
    return " ".join(text.translate(_APOSTROPHES).casefold().split())
