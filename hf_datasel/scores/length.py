"""How long rows are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.models import load_tokenizer, model_identity
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Length"]


@dataclass(frozen=True)
class Length(Score):
    """Words in the response, or tokens in the row: free, and the baseline a cleverer method has to beat.

    Reads any supported row format that has a response. Writes `response_words` (int32) with `unit="words"`;
    `prompt_tokens`, `response_tokens`, `num_tokens` (int32), as training sees the row, with `unit="tokens"`; and
    `length_reason` ("" for a row with a length).
    Reference: Zhao et al. 2024 (2402.04833), "Long is more for alignment".

    >>> Length()({"prompt": ["Is it slow?"] * 2, "completion": ["Yes.", "It depends on the load."]})
    {'response_words': [np.int32(1), np.int32(5)], 'length_reason': ['', '']}
    """

    unit: Literal["words", "tokens"] = "words"
    model: str | None = None
    """Whose tokenizer counts, for `unit="tokens"`; None is the model of the round."""
    revision: str | None = field(default=None, kw_only=True)

    citation = (
        "@article{zhao2024long, title={Long Is More for Alignment: A Simple but Tough-to-Beat Baseline for "
        "Instruction Fine-Tuning}, author={Zhao, Hao and Andriushchenko, Maksym and Croce, Francesco and "
        "Flammarion, Nicolas}, "
        "journal={arXiv preprint arXiv:2402.04833}, year={2024}}"
    )

    def __post_init__(self) -> None:
        if self.unit not in ("words", "tokens"):
            raise ConfigError(f"Length(unit={self.unit!r}): it has to be 'words' or 'tokens'.")
        if self.model is not None and not isinstance(self.model, str):
            raise ConfigError(
                f"Length(model=...) has to be a name or a path, and this is {type(self.model).__name__}."
            )

    @property
    def needs_tokenizer(self) -> bool:
        return self.unit == "tokens"

    def token_settings(self) -> TokenSettings:
        """How rows are tokenised outside a trainer."""
        return TokenSettings()

    def columns(self) -> dict[str, pa.DataType]:
        names = ["response_words"] if self.unit == "words" else ["prompt_tokens", "response_tokens", "num_tokens"]
        return {**dict.fromkeys(names, pa.int32()), "length_reason": pa.string()}

    @property
    def value_column(self) -> str:
        return f"{self.column_prefix}{'response_words' if self.unit == 'words' else 'num_tokens'}"

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        return self._words(rows) if self.unit == "words" else self._tokens(rows)

    def _words(self, rows: TokenRows) -> Columns:
        if rows.pool.format == "text":
            raise FormatError("Rows with only a text column have no response, so that it has no length.")
        read = list(rows.pool.rows(rows.indices))
        words = [None if row.reason else len(row.response.split()) for row in read]
        reasons = pa.array([row.reason for row in read], pa.string())
        return {"response_words": pa.array(words, pa.int32()), "length_reason": reasons}

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
        resolved = {} if self.model is None else {"resolved_model": model_identity(self.model, self.revision)}
        return {**super().spec(), **resolved}

    def _identity(self) -> str:
        resolved = "" if self.model is None else model_identity(self.model, self.revision)
        return f"{super()._identity()}:{resolved}"

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelContext]:
        rows, context = super()._rows_of(dataset)
        if self.unit == "words":
            return rows, context
        if self.model is None:
            raise ScoreError("Length(unit='tokens') needs the tokenizer of a model: pass model='name or path'.")
        return TokenRows(Pool(dataset), load_tokenizer(self.model, self.revision), self.token_settings()), context
