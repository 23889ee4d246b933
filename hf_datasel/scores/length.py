"""Length of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError, check_option
from hf_datasel.formats import Pool
from hf_datasel.formats.words import count_words
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.models import load_tokenizer, model_identity
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Length"]


@dataclass(frozen=True)
class Length(Score):
    """Number of words in the response, or of tokens in the row: no forward pass, and a strong baseline.

    Reads any supported row format that has a response. Writes `response_words` (int32) with `unit="words"`;
    `prompt_tokens`, `response_tokens`, `num_tokens` (int32), as training reads the row, with `unit="tokens"`; and
    `length_reason` ("" for a row with a length).

    Words are separated by white space. In scripts without spaces between words every character of Chinese and of
    Japanese kanji and hiragana counts as one, and so do four letters with their marks in Thai, Lao, Khmer and Burmese,
    whose words only a dictionary can find. A text has about 1.3 times as many in Chinese and 2.6 times as many in
    Japanese as in English. In version 1 such a text was one word up to the next white space.

    Cost: no model; with `unit="tokens"` a pass of the tokenizer.

    Reference: Zhao et al. 2024 (2402.04833), "Long is more for alignment".

    Args:
        unit: `"words"` of the response or `"tokens"` of the row.
        model: Hub id or local path of the model whose tokenizer is used with `unit="tokens"`; by default that of the
            round.
        revision: Commit, branch or tag of the tokenizer on the Hub.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> Length()({"prompt": ["Is it slow?"] * 2, "completion": ["Yes.", "It depends on the load."]})
    {'response_words': [np.int32(1), np.int32(5)], 'length_reason': ['', '']}
    """

    unit: Literal["words", "tokens"] = "words"
    model: str | None = None
    revision: str | None = field(default=None, kw_only=True)

    version = 2
    citation = (
        "@article{zhao2024long, title={Long Is More for Alignment: A Simple but Tough-to-Beat Baseline for "
        "Instruction Fine-Tuning}, author={Zhao, Hao and Andriushchenko, Maksym and Croce, Francesco and "
        "Flammarion, Nicolas}, "
        "journal={arXiv preprint arXiv:2402.04833}, year={2024}}"
    )

    def __post_init__(self) -> None:
        check_option(f"Length(unit={self.unit!r})", self.unit, ("words", "tokens"))
        if self.model is not None and not isinstance(self.model, str):
            raise ConfigError(
                f"Length(model=...) has to be a name or a path, and this is {type(self.model).__name__}."
            )

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score needs tokenized rows."""
        return self.unit == "tokens"

    def token_settings(self) -> TokenSettings:
        """Return how rows are tokenized outside a trainer."""
        return TokenSettings()

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows, to count its words."""
        return self.unit == "words"

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        names = ["response_words"] if self.unit == "words" else ["prompt_tokens", "response_tokens", "num_tokens"]
        return {**dict.fromkeys(names, pa.int32()), "length_reason": pa.string()}

    @property
    def value_column(self) -> str:
        """Name of the column that selectors rank rows by."""
        return f"{self.column_prefix}{'response_words' if self.unit == 'words' else 'num_tokens'}"

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        return self._words(rows) if self.unit == "words" else self._tokens(rows)

    def _words(self, rows: TokenRows) -> Columns:
        if rows.pool.format == "text":
            raise FormatError("Rows with only a text column have no response whose length could be measured.")
        words: list[int | None] = []
        reasons = []
        for row in rows.pool.rows(rows.indices):
            words.append(None if row.reason else count_words(row.response))
            reasons.append(row.reason)
        return {"response_words": pa.array(words, pa.int32()), "length_reason": pa.array(reasons, pa.string())}

    def _tokens(self, rows: TokenRows) -> Columns:
        tokens = rows.training()
        sequences = tokens.conditional
        total, response = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        total[sequences.owner] = sequences.lengths
        response[sequences.owner] = sequences.scored
        missing = total == 0
        counts = [pa.array(values, pa.int32(), mask=missing) for values in (total - response, response, total)]
        return dict(zip(self.columns(), [*counts, pa.array(tokens.reasons.tolist(), pa.string())], strict=True))

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the model name resolved to a digest."""
        resolved = {} if self.model is None else {"resolved_model": model_identity(self.model, self.revision)}
        return {**super().spec(), **resolved}

    def _identity(self) -> str:
        resolved = "" if self.model is None else model_identity(self.model, self.revision)
        return f"{super()._identity()}:{resolved}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        rows, runner = super()._rows_of(dataset)
        if self.unit == "words":
            return rows, runner
        if self.model is None:
            raise ScoreError("Length(unit='tokens') needs the tokenizer of a model: pass model='name or path'.")
        return TokenRows(Pool(dataset), load_tokenizer(self.model, self.revision), self.token_settings()), runner
