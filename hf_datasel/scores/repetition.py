"""Repetition within the text of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import pyarrow as pa
import regex

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.formats import Part
from hf_datasel.formats.words import segments
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.row_texts import measure_texts
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Repetition", "repeated_characters", "repeated_ngram_characters", "sentences"]

_SENTENCE_END = regex.compile(r"(?<=[.!?…])\s+|(?<=[。！？।])|\n+")
_LIST_MARKER = regex.compile(r"^[\s\-*•#>]*(?:\d+[.):]|\(\d+\))?\s*")


@dataclass(frozen=True)
class Repetition(Score):
    """Share of the text that repeats earlier lines, sentences or n-grams of words of it: near 1 for an endless loop.

    Shares are of characters. That of lines and that of n-grams are defined as in Gopher's repetition filter and in
    that of datatrove: a line counts if the same line came before; n-grams are read from the left, one that came before
    counts without the white space in it, and reading goes on behind it. Words are separated by white space, which
    datatrove leaves to a tokenizer for the language; in scripts without spaces they are segments between Unicode word
    boundaries. Sentences end with a mark followed by white space or with a line, and are compared without list markers
    and numbers at their beginning, so that a numbered list of one sentence counts.

    Gopher's shares of the most frequent 2-, 3- and 4-gram are not included: in a response of three words they are high
    although nothing is repeated. Its bounds, for web pages, are 0.2 for lines and 0.15 for 5-grams. For responses 0.3
    is a careful bound: a sentence that is repeated without end is near 1, or 0.8 where white space does not count.

    False positives: songs and poems with a refrain, tables, code and lists whose lines are alike, calculations with
    steps that are alike, and responses that quote the text that they were asked to repeat. Of 5,200 rows of Alpaca 7
    reach 0.3: six with lyrics, and one that repeats a sentence in thirty forms. Of 2,017 rows of Code Alpaca 4 do:
    tables with empty cells, an array of zeros, the same statement twice. Of 7,473 rows of GSM8K 6 do, and 187 reach
    0.15. Repetition in other words is not found. `Compressibility` reacts to repetition of any length, also below
    words, but is no share of the text and depends on its length.

    Reads any supported row format; rows with only a text column with `part="both"`. Writes `repetition` (float32, the
    largest of the other three, 0 to 1), `repetition_lines`, `repetition_sentences`, `repetition_ngrams` (float32) and
    `repetition_reason` ("" for a row with a value). Cost: no model; one pass over the words.

    Reference: Rae et al. 2021 (2112.11446, Gopher), appendix A.1; `gopher_repetition_filter.py` of
    huggingface/datatrove.

    Args:
        part: Part of the row: `"prompt"`, `"response"`, or `"both"` with a newline between them. Several responses of
            a conversation are read as one text.
        ngram: Number of words of an n-gram; Gopher uses 5 to 10.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> row = {"prompt": ["Sing."], "completion": ["Row the boat. Row the boat. Row the boat. Gently."]}
    >>> {name: values[0] for name, values in Repetition()(row).items() if name.startswith("repetition_s")}
    {'repetition_sentences': np.float32(0.53061223)}
    """

    part: Part = "response"
    ngram: int = field(default=5, kw_only=True)

    citation = (
        "@article{rae2021scaling, title={Scaling Language Models: Methods, Analysis & Insights from Training Gopher}, "
        "author={Rae, Jack W. and Borgeaud, Sebastian and Cai, Trevor and Millican, Katie and Hoffmann, Jordan and "
        "others}, journal={arXiv preprint arXiv:2112.11446}, year={2021}}"
    )

    is_flaw = True

    def __post_init__(self) -> None:
        check_option(f"Repetition(part={self.part!r})", self.part, get_args(Part))
        if type(self.ngram) is not int or self.ngram < 1:
            raise ConfigError(f"Repetition(ngram={self.ngram!r}): it has to be an int of at least 1.")

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        names = ("repetition", "repetition_lines", "repetition_sentences", "repetition_ngrams")
        return {**dict.fromkeys(names, pa.float32()), "repetition_reason": pa.string()}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        return measure_texts(self, rows, self.part, lambda text, row: self._shares(text))

    def _shares(self, text: str) -> tuple[float, ...]:
        words = [segment for word in text.split() for segment in segments(word)]
        repeated = (
            repeated_characters(text.split("\n")),
            repeated_characters(sentences(text)),
            repeated_ngram_characters(words, self.ngram),
        )
        shares = [number / len(text) for number in repeated]
        return (max(shares), *shares)


def repeated_characters(elements: Sequence[str]) -> int:
    """Return the number of characters of the elements that are equal to an earlier one.

    Args:
        elements: Lines or sentences.
    """
    unique: set[str] = set()
    repeated = 0
    for element in elements:
        if element in unique:
            repeated += len(element)
        unique.add(element)
    return repeated


def repeated_ngram_characters(words: Sequence[str], n: int) -> int:
    """Return the number of characters of the words that are in n-grams that came before, read from the left.

    Args:
        words: The words.
        n: Number of words of an n-gram.
    """
    unique: set[str] = set()
    repeated = start = 0
    while start <= len(words) - n:
        ngram = "".join(words[start : start + n])
        is_repeated = ngram in unique
        repeated += len(ngram) if is_repeated else 0
        unique.add(ngram)
        start += n if is_repeated else 1
    return repeated


def sentences(text: str) -> list[str]:
    r"""Return the sentences of a text, without white space, list markers and numbers at their beginning.

    Args:
        text: The text.

    >>> sentences("1. Mix it. Wait!\n2) Mix it.\n- Mix it.")
    ['', 'Mix it.', 'Wait!', 'Mix it.', 'Mix it.']
    """
    return [_LIST_MARKER.sub("", sentence).rstrip() for sentence in _SENTENCE_END.split(text)]
