"""Ratings in the answers of chat models: read by their label, and marks that the text of a row cannot forge."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import count

__all__ = ["labelled_ratings", "read_rating", "unused_mark", "without_thoughts"]

_THOUGHTS_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THOUGHTS_START = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)
_QUOTES = r"[\"'*_`\s]*"
_COLON = rf"(?P<quotes>{_QUOTES})(?:\([^()]*\){_QUOTES})?[:：]"
"""What may stand between a label and its rating: quotes, Markdown, a scale in parentheses, and a colon."""
_NUMBER = re.compile(
    r"[\"'*_`\s\[(]*(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<close>[\"'*_`\])]*)"
    r"(?:[^\S\n]*(?:/|out of)[^\S\n]*(?P<scale>[0-9]+)[\"'*_`\])]*)?",
    re.IGNORECASE,
)
_NO_RATING_BEFORE = re.compile(r"[^\S\n]?[%‰°]|\w|.*[\d¼-¾]")
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")


def read_rating(text: str, ratings: int, label: str = "Rating", cut: bool = False) -> float | None:
    """Parse the last labelled rating in an answer.

    The form is the label, a colon and a number, each in brackets, quotes or Markdown, or a key of JSON. The scale
    may be in parentheses behind the label, or behind the number if it is that of the request. The line goes on
    without a further number. Text before `</think>`, and an answer that begins with an unclosed `<think>`, are not
    read.

    Args:
        text: Text of the answer.
        ratings: Highest rating; the lowest is 1.
        label: The label, in any case.
        cut: Whether the answer was truncated at the limit of tokens, so that its last number may be incomplete.

    Returns:
        The rating; None if the last label is not followed by one, or if it is out of range.

    >>> [read_rating(text, 5) for text in ("Rating: [[4]]", '{"rating": 3}', "Rating: 3 or 4", "Rating: 9", "4")]
    [4.0, 3.0, None, None, None]
    """
    text = without_thoughts(text)
    labels = list(_labels(text, label))
    return _value(text, labels[-1], ratings, cut) if labels else None


def without_thoughts(text: str) -> str:
    """Return the text behind the last `</think>`, stripped; empty for an answer that ends inside its thoughts.

    >>> without_thoughts("<think>6 * 7</think> 42"), without_thoughts("<think>6 * 7 = 42, or"), without_thoughts("42")
    ('42', '', '42')
    """
    text = _THOUGHTS_END.split(text)[-1].strip()
    return "" if _THOUGHTS_START.match(text) else text


def labelled_ratings(text: str, label: str) -> set[float]:
    """Return all numbers with the label in the text of a row.

    Args:
        text: The text.
        label: The label, in any case.
    """
    text = unicodedata.normalize("NFKC", text)
    matches = (_NUMBER.match(text, match.end()) for match in _labels(text, label))
    return {float(match["number"]) for match in matches if match is not None}


def unused_mark(prompt: str, label: str, row: str) -> str:
    """Return what `{mark}` of a prompt becomes for a row: "" or "-2", "-3", ..., the first that the row cannot forge.

    With this mark, neither what stands before `{mark}` in the prompt, such as `</answer`, nor the label with a colon
    occurs in the row, whatever the case, the white space or the width of its letters. It depends on the row alone.

    Args:
        prompt: Prompt with `{mark}`; without it the mark is empty.
        label: The label of the rating.
        row: Text of the row.

    >>> prompt = "<row{mark}> ... </row{mark}> Rating{mark}: "
    >>> [unused_mark(prompt, "Rating", row) for row in ("No rating", "Rating: 9", "x</ROW > < row-2>")]
    ['', '-2', '-3']
    """
    if "{mark}" not in prompt:
        return ""
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", row))
    starts = {start.casefold() for start in re.findall(r"(\S*)\{mark\}", prompt)}
    fences, text = [start for start in starts if not start.endswith(label.casefold())], visible.casefold()
    for number in count(1):
        mark = "" if number == 1 else f"-{number}"
        labelled = re.compile(re.escape(label + mark) + _COLON, re.IGNORECASE)
        is_forged = any(f"{fence}{mark}" in text for fence in fences)
        if not (is_forged or labelled.search(visible) or labelled.search(row)):
            return mark
    raise AssertionError("a row contains every number")


def _labels(text: str, label: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?<![\w-]){re.escape(label)}{_COLON}", text, re.IGNORECASE)


def _value(text: str, label: re.Match[str], ratings: int, cut: bool) -> float | None:
    match = _NUMBER.match(text, label.end())
    if match is None:
        return None
    rest = text[match.end() :].split("\n", 1)[0]
    if cut and match.end() + len(rest) == len(text) and not match["close"] and not rest.strip("."):
        return None
    if '"' in label["quotes"] or "'" in label["quotes"]:  # a key of JSON
        rest = re.split(r"[,}]", rest, maxsplit=1)[0]
    if _NO_RATING_BEFORE.match(rest) or match["scale"] not in (None, str(ratings)):
        return None
    number = float(match["number"])
    return number if 1 <= number <= ratings else None
