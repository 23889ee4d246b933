"""Tags in the answers of models, and their normalization."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from hf_datasel.formats.stemming import porter_stem

__all__ = ["Normalization", "distinct_tags", "normalize_tag", "parse_tags"]

Normalization = Literal["none", "rules", "porter"]

_SPECIAL = re.compile(r"[\W_]+")
_KEY = re.compile(r"[\"']tag[\"']\s*:", re.IGNORECASE)
_TAG = re.compile(rf"{_KEY.pattern}\s*([\"'])(?P<tag>.*?)\1\s*[,}}]", re.IGNORECASE)
_START = re.compile(r"[\[{]")
_OPENED = re.compile(r"\{|\[\s*[\"'{]")


def parse_tags(answer: str) -> list[str] | None:
    """Parse the tags in the answer of a model.

    Read are JSON lists of objects with a `tag`, such as `[{"tag": "Translation", "explanation": "..."}]`, single
    objects, one after the other or one per line, and lists of texts; with other text before and after, or in a block
    of Markdown. If the JSON is invalid, because of quotes in an explanation for example, the tags are read alone.

    Args:
        answer: The answer.

    Returns:
        The tags as they are in the answer, without surrounding white space and empty ones. None if there are no tags
        to read, or not all of them: an answer that ends in the middle of a list or an object is incomplete.

    >>> parse_tags('Sure: [{"tag": "Spelling", "explanation": "..."}, {"tag": "Cosplay", "explanation": "..."}]')
    ['Spelling', 'Cosplay']
    >>> parse_tags('[{"tag": "Spelling", "expla') is None, parse_tags("[]")
    (True, [])
    """
    values = list(_json_values(answer))
    items = [item for _, value, _ in values for item in (value if isinstance(value, list) else [value])]
    num_keys = len(_KEY.findall(answer))
    if values and num_keys == sum(isinstance(item, dict) for item in items) and _is_closed(answer, values):
        tags = [item.get("tag") if isinstance(item, dict) else item for item in items]
    else:
        matches = list(_TAG.finditer(answer))
        tags = [match["tag"] for match in matches]
        if not tags or len(tags) != num_keys:
            return None
        is_list = answer[: matches[0].start()].rstrip(" \n{").endswith("[")
        if not answer.rstrip("`\n .").endswith("]" if is_list else "}"):
            return None
    texts = [tag.strip() for tag in tags if isinstance(tag, str)]
    return [text for text in texts if text] if len(texts) == len(tags) else None


def _json_values(text: str) -> Iterator[tuple[int, Any, int]]:
    """Yield the JSON lists and objects in a text, with their start and end."""
    decoder, position = json.JSONDecoder(strict=False), 0
    while match := _START.search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # the latter for an answer of nothing but brackets
            position = match.end()
        else:
            yield match.start(), value, position


def _is_closed(text: str, values: list[tuple[int, Any, int]]) -> bool:
    """Return whether a list that is no JSON by itself is closed behind its values, and nothing is opened there."""
    is_open = text[: values[0][0]].rstrip().endswith("[")
    rest = text[values[-1][2] :]
    return not _OPENED.search(rest) and (not is_open or rest.lstrip(" ,\n").startswith("]"))


def normalize_tag(tag: str, normalization: Normalization = "rules") -> str:
    """Return a tag in the form in which equal tags are one.

    Args:
        tag: The tag.
        normalization: `"none"` keeps it. `"rules"` turns it into lower case, and special characters into spaces.
            `"porter"` also replaces each English word by its stem.

    >>> [normalize_tag("Problem-Solving: C++", how) for how in ("none", "rules", "porter")]
    ['Problem-Solving: C++', 'problem solving c', 'problem solv c']
    """
    if normalization == "none":
        return tag
    words = _SPECIAL.sub(" ", tag.lower()).split()
    return " ".join(map(porter_stem, words) if normalization == "porter" else words)


def distinct_tags(tags: list[str], normalization: Normalization) -> list[str]:
    """Return the normalized tags, each once, in the order of their first occurrence."""
    normalized = (normalize_tag(tag, normalization) for tag in tags)
    return list(dict.fromkeys(tag for tag in normalized if tag))
