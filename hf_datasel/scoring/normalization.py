"""Normalization of answers and references before they are compared."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from hf_datasel.errors import ConfigError

__all__ = ["Normalization"]

_FINAL_ANSWER = "####"
"""What comes before the final answer in GSM8K."""
_BOX = r"\boxed{"
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-−]|)"  # after a word, a number or a parenthesis it is a hyphen or a minus between numbers
    r"[$€£]?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.(?P<fraction>[0-9]+))?"
)


@dataclass(frozen=True)
class Normalization:
    r"""How answers and references are normalized before they are compared. White space around them never counts.

    Args:
        ignore_case: Whether upper and lower case are equal.
        ignore_punctuation: Whether punctuation is removed: ASCII punctuation and the punctuation of Unicode.
        collapse_whitespace: Whether any run of white space equals one space.
        last_number: Whether only the last number is compared, after the last "####" if there is one, as in GSM8K
            (Cobbe et al. 2021, 2110.14168). "1,000", "$1000" and "1000.0" are equal. An answer without a number is
            wrong. It cannot be combined with `ignore_case` and `ignore_punctuation`, which do not change numbers.
        boxed: Whether only the content of the last `\boxed{...}` is compared, in a text that has one, as in MATH
            (Hendrycks et al. 2021, 2103.03874).

    >>> Normalization(ignore_case=True, ignore_punctuation=True)("  Yes,  it is. ")
    'yes it is'
    >>> Normalization(last_number=True)("6 * 7 = 42, so she pays $42.00. #### 42")
    '42'
    >>> Normalization(boxed=True)(r"So x is $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False
    collapse_whitespace: bool = True
    last_number: bool = False
    boxed: bool = False

    @classmethod
    def from_settings(cls, settings: Any, subject: str = "") -> Self:
        """Return the normalization with these settings.

        Args:
            settings: Names and values.
            subject: What the message of an error begins with.

        Raises:
            ConfigError: There is no such setting, or it has a value that it cannot have.
        """
        names = [entry.name for entry in fields(cls)]
        if not isinstance(settings, Mapping) or not settings.keys() <= set(names):
            raise ConfigError(f"{subject}normalization={settings!r}: its settings are {', '.join(names)}.")
        return cls(**settings)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool):
                raise ConfigError(f"Normalization({name}={value!r}): it has to be True or False.")
        if self.last_number and (self.ignore_case or self.ignore_punctuation):
            raise ConfigError(
                "Normalization(last_number=True) compares numbers only: omit ignore_case and ignore_punctuation."
            )

    def __call__(self, text: str) -> str | None:
        """Return the normalized text; None if `last_number` is set and the text contains no number."""
        if self.boxed:
            text = _last_boxed(text)
        if self.last_number:
            return _last_number(text.rpartition(_FINAL_ANSWER)[2])
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(character for character in text if not _is_punctuation(character))
        return " ".join(text.split()) if self.collapse_whitespace else text.strip()

    @staticmethod
    def reason(reference: str | None) -> str:
        """Return the reason why nothing can be compared with a normalized reference, "" if something can."""
        if reference is None:
            return "no_number_in_reference"
        return "" if reference else "empty_reference"


def _last_boxed(text: str) -> str:
    """Return the content of the last box; the text itself if there is none, or if it is not closed."""
    start, depth = text.rfind(_BOX) + len(_BOX), 1
    for position in range(start if _BOX in text else len(text), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[start:position]
    return text


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _last_number(text: str) -> str | None:
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    sign, whole, fraction = matches[-1].group("sign", "whole", "fraction")
    whole, fraction = whole.replace(",", "").lstrip("0") or "0", (fraction or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if sign and number != "0" else number
