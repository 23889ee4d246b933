"""Normalization of answers and references before they are compared."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass

from hf_datasel.errors import ConfigError

__all__ = ["Normalization"]

_FINAL_ANSWER = "####"
"""What comes before the final answer in GSM8K."""
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])[-−]|)"  # after a word, a number or a parenthesis it is a hyphen or a minus between numbers
    r"[$€£]?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.(?P<fraction>[0-9]+))?"
)


@dataclass(frozen=True)
class Normalization:
    """How answers and references are normalized before they are compared. White space around them never counts.

    Args:
        ignore_case: Whether upper and lower case are equal.
        ignore_punctuation: Whether punctuation is removed: ASCII punctuation and the punctuation of Unicode.
        collapse_whitespace: Whether any run of white space equals one space.
        last_number: Whether only the last number is compared, after the last "####" if there is one, as in GSM8K
            (Cobbe et al. 2021, 2110.14168). "1,000", "$1000" and "1000.0" are equal. An answer without a number is
            wrong. It cannot be combined with `ignore_case` and `ignore_punctuation`, which do not change numbers.

    >>> Normalization(ignore_case=True, ignore_punctuation=True)("  Yes,  it is. ")
    'yes it is'
    >>> Normalization(last_number=True)("6 * 7 = 42, so she pays $42.00. #### 42")
    '42'
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False
    collapse_whitespace: bool = True
    last_number: bool = False

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
        if self.last_number:
            return _last_number(text.rpartition(_FINAL_ANSWER)[2])
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(character for character in text if not _is_punctuation(character))
        return " ".join(text.split()) if self.collapse_whitespace else text.strip()


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
