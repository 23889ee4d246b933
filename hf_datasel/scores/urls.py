"""Links in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import pyarrow as pa
import regex

from hf_datasel.errors import check_option
from hf_datasel.formats import Part
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.phrases import Phrases, checked_phrases
from hf_datasel.scoring.row_texts import measure_texts
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["LINK_PHRASES", "URLs"]

LINK_PHRASES = (
    "click here",
    "click on the link",
    "click the link",
    "click this link",
    "follow this link",
    "follow the link",
    "link below",
    "link in bio",
    "see this link",
    "visit this link",
)
"""Phrases that stand for a link that the text does not show."""

_URL = regex.compile(
    r"""\b(?:(?:https?|ftp)://|www\.)[^\s<>"'`{}|\\^\[\]]*[^\s<>"'`{}|\\^\[\].,;:!?)]""", regex.IGNORECASE
)


@dataclass(frozen=True)
class URLs(Score):
    """Share of the text that is URLs, 1 for a row that is only a link; the number of URLs, and "click here" phrases.

    A URL begins with `http://`, `https://`, `ftp://` or `www.`; punctuation at its end does not belong to it. Domains
    without these (`example.com`) and e-mail addresses are not counted. The share is of the characters that are no
    white space.

    False positives: rows that are asked for a URL, such as the address of a website, and code whose text has one; a
    phrase in instructions for a website, as all five in LIMA are. Of 5,200 rows of Alpaca 13 have a URL and 6 consist
    of URLs by half: most were asked for links, and the model that answered made them up.

    Reads any supported row format; rows with only a text column with `part="both"`. Writes `url_share` (float32, 0 to
    1), `urls` (int32, number of URLs), `link_phrases` (int32, number of phrases) and `urls_reason` ("" for a row with
    a value). Cost: no model.

    Args:
        part: Part of the row: `"prompt"`, `"response"`, or `"both"` with a newline between them.
        phrases: Further phrases, beside those of `hf_datasel.scores.urls.LINK_PHRASES`. Case, white space and the form
            of apostrophes do not matter.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> rows = {"prompt": ["Where?"] * 2, "completion": ["https://hf.co/docs", "Click here, or on www.hf.co."]}
    >>> columns = URLs()(rows)
    >>> columns["url_share"], columns["urls"][1], columns["link_phrases"][1]
    ([np.float32(1.0), np.float32(0.375)], np.int32(1), np.int32(1))
    """

    part: Part = "response"
    phrases: Sequence[str] = ()

    is_flaw = True

    def __post_init__(self) -> None:
        check_option(f"URLs(part={self.part!r})", self.part, get_args(Part))
        object.__setattr__(self, "phrases", checked_phrases("URLs", self.phrases))

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {
            "url_share": pa.float32(),
            "urls": pa.int32(),
            "link_phrases": pa.int32(),
            "urls_reason": pa.string(),
        }

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        phrases = Phrases((*LINK_PHRASES, *self.phrases))

        def measure(text: str) -> tuple[float, int, int]:
            urls = _URL.findall(text)
            share = sum(map(len, urls)) / len("".join(text.split()))
            return share, len(urls), len(phrases.find(text))

        return measure_texts(self, rows, self.part, lambda text, row: measure(text))
