"""Pool rows with their tokens, under whichever convention a score asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool, converted
from hf_datasel.tokens.presets import preset_tokens
from hf_datasel.tokens.sequences import Sequences, ragged
from hf_datasel.tokens.training import Prepared, PriorContext, TokenSettings, prepare, prior_prefix

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenRows", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """The token sequences of some rows under one convention.

    Attributes:
        conditional: each row as training sees it, its response marked.
        prior: each response without its instruction.
        reasons: why a row has no sequence, strings of shape (rows,); empty where it has one.
    """

    conditional: Sequences
    prior: Sequences
    reasons: np.ndarray


class TokenRows:
    """Rows of a pool and their tokens. What a score computes from, and aligned with what it returns.

    Args:
        pool: the dataset, read as instruction rows.
        tokenizer: of the model that scores.
        settings: how training cuts and labels rows.
        prepared: the trainer's own tokenised rows; made here where they are not given.
        indices: pool rows to score, in this order; all by default. `pool` and `indices` of the object then number
            these rows alone, unless `prepared` is given.
    """

    def __init__(
        self,
        pool: Pool,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: TokenSettings | None = None,
        prepared: Prepared | None = None,
        indices: np.ndarray | None = None,
    ):
        if prepared is None and indices is not None:
            pool, indices = Pool(pool.dataset.select(np.asarray(indices, dtype=np.int64))), None
        self.pool = pool
        self.tokenizer: Any = tokenizer
        self.settings = settings or TokenSettings()
        self.indices = np.arange(len(pool)) if indices is None else np.asarray(indices, dtype=np.int64)
        self._given = prepared
        self._tokens: dict[tuple[str, ...], Tokens] = {}

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _prepared(self) -> Prepared:
        if self._given is not None:
            return self._given
        rows = converted(self.pool, chat_template=self.tokenizer.chat_template is not None)
        return Prepared(prepare(rows, self.tokenizer, self.settings), self.tokenizer, self.settings)

    @property
    def prepared(self) -> Dataset:
        """`input_ids` and `labels` of the pool rows that training can use, with their `pool_row`."""
        return self._prepared.data

    def training(self, prior_context: PriorContext = "generation-prompt", end_token: bool = True) -> Tokens:
        """The tokens of `SFTTrainer`, and the same response tokens behind the context of the prior."""
        key = ("sft", prior_context, str(end_token))
        if key not in self._tokens:
            self._tokens[key] = self._training(prior_context, end_token)
        return self._tokens[key]

    def _training(self, prior_context: PriorContext, end_token: bool) -> Tokens:
        if self.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to score. Make prompt and completion columns of them."
            )
        reasons = self.pool.reasons[self.indices].astype(object)
        if not (reasons == "").any():
            return _nothing(reasons)
        prepared = self._prepared
        at = np.full(len(self.pool), -1, dtype=np.int64)
        at[self.indices] = np.arange(len(self))
        wanted = np.flatnonzero(at[prepared.rows] >= 0)
        owner = at[prepared.rows[wanted]]
        missing = np.ones(len(self), dtype=bool)
        missing[owner] = False
        reasons[missing & (reasons == "")] = "prompt_fills_window"
        if wanted.size == 0:
            return _nothing(reasons)
        prefix = prior_prefix(self.tokenizer, prepared.conversational, prior_context)
        skip = prefix.size == 0
        data = prepared.marked(end_token).select(wanted)
        with_span = _scorable(data, skip)
        found = np.array(data["reason"][:], dtype=object)
        reasons[owner] = np.where((found == "") & ~with_span, "no_response_token", found)
        data, owner = data.select(np.flatnonzero(with_span)), owner[with_span]
        return Tokens(
            Sequences(data, owner, skip_first=skip),
            Sequences(data, owner, skip_first=skip, prefix=prefix),
            reasons.astype(np.str_),
        )

    def preset(self, convention: str, max_length: int) -> Tokens:
        """The tokens of a published convention."""
        key = (convention, str(max_length))
        if key not in self._tokens:
            part = self.pool if self._given is None else Pool(self.pool.dataset.select(self.indices))
            data = preset_tokens(part, self.tokenizer, convention, max_length)
            reasons = np.array(data["reason"][:], dtype=np.str_)
            owner = np.flatnonzero(reasons == "")
            data = data.select(owner)
            prior = Sequences(data, owner, ids="prior_ids", spans="prior_spans")
            self._tokens[key] = Tokens(Sequences(data, owner), prior, reasons)
        return self._tokens[key]


def _scorable(data: Dataset, skip_first: bool) -> np.ndarray:
    """Whether each row has a stretch with a token left to score."""
    view = data.select_columns(["spans"]).with_format("arrow")
    flags = [
        np.array([(np.diff(row.reshape(-1, 2)) > skip_first).any() for row in ragged(table, "spans")])
        for table in view.iter(batch_size=10_000)
    ]
    return np.concatenate([np.empty(0, dtype=bool), *flags])


def _nothing(reasons: np.ndarray) -> Tokens:
    from datasets import Dataset

    empty = Sequences(Dataset.from_dict({"input_ids": [], "spans": []}), np.empty(0, dtype=np.int64))
    return Tokens(empty, empty, reasons.astype(np.str_))
