"""Messages of the library in the words of the command line."""

from __future__ import annotations

import re

__all__ = ["in_flags"]

_WORDS = (
    (r" Scores are added with dataset\.map\(.*\)\.$", " Scores are added by hf-datasel score."),
    (r" or hf_datasel\.score\(dataset, \[\w+\(\.\.\.\)\]\)\.$", "."),
    (r"Run `hf auth login`, or pass a token\.", "Run `hf auth login`, or set HF_TOKEN."),
)


def in_flags(message: str) -> str:
    """A message with the advice for a command where it has advice for Python.

    >>> in_flags("Nobody is logged in to the Hub. Run `hf auth login`, or pass a token.")
    'Nobody is logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.'
    """
    for pattern, instead in _WORDS:
        message = re.sub(pattern, instead, message)
    return message
