"""Scoring a whole dataset: what the CLI, `select` and the trainer share."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import ScoreError, reason_counts
from hf_datasel.formats import Pool
from hf_datasel.scores.base import Columns, ModelScore, Score
from hf_datasel.scores.context import ModelContext
from hf_datasel.scores.models import load_tokenizer, read_model, tokenizer_identity
from hf_datasel.tokens import Prepared, TokenRows, TokenSettings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Engine", "score", "summary"]

logger = logging.getLogger(__name__)


@dataclass
class Engine:
    """Computes scores for rows of one pool with one default model; equal passes are run once.

    Attributes:
        pool: the dataset, read as instruction rows.
        model: for scores that name none: a live causal LM with `tokenizer`, or a name or path.
        tokenizer: of the live model.
        tokens_per_batch: upper bound on the padded tokens of a scoring batch; see `NLL`.
        autocast: compute in this dtype instead of the weights' own.
        settings: how training cuts and labels rows, where a trainer asks.
        prepared: the trainer's own tokenised rows.
        progress: show a progress bar where the output is a terminal.
    """

    pool: Pool
    model: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None
    tokens_per_batch: int | None = None
    autocast: torch.dtype | None = None
    settings: TokenSettings | None = None
    prepared: Prepared | None = None
    progress: bool = True
    _rows: dict[Hashable, TokenRows] = field(default_factory=dict, init=False)
    _contexts: dict[Hashable, ModelContext] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):
            self.model = os.fspath(self.model)
        if self.model is not None and not isinstance(self.model, str) and self.tokenizer is None:
            raise ScoreError(f"A live {type(self.model).__name__} needs its tokenizer: pass tokenizer=... too.")

    def compute(self, score: Score, indices: np.ndarray | None = None) -> Columns:
        """The score's columns for the pool rows at `indices` (all by default), in that order.

        Raises:
            ScoreError: the score needs a model and there is none, or it cuts rows elsewhere than training does.
        """
        rows, context = self._inputs(score, indices)
        return {f"{score.column_prefix}{name}": column for name, column in score.compute(rows, context).items()}

    def _inputs(self, score: Score, indices: np.ndarray | None) -> tuple[TokenRows, ModelContext | None]:
        if not score.needs_tokenizer:
            return self._token_rows(None, None, None, indices), None
        name, revision = getattr(score, "model", None), getattr(score, "revision", None)
        name = self.model if name is None else name
        if name is None:
            raise ScoreError(
                f"{type(score).__name__} has no model to run. Pass its name or path: model=... next to the dataset, "
                "or --model_name_or_path on the command line."
            )
        tokenizer = load_tokenizer(name, revision) if isinstance(name, str) else self.tokenizer
        settings = self._settings(score)
        live = not isinstance(name, str)
        rows = self._token_rows((name, revision) if not live else "live", tokenizer, settings, indices)
        if not isinstance(score, ModelScore):
            return rows, None
        key = "live" if live else (name, revision, score.dtype)
        if key not in self._contexts:
            self._contexts.clear()  # one model at a time
            model = name if live else read_model(name, revision, score.dtype)
            self._contexts[key] = ModelContext(model, self.tokens_per_batch, self.autocast, self.progress)
        return rows, self._contexts[key]

    def describe(self, score: Score) -> dict[str, Any]:
        """The score's spec, and everything here that decides its numbers too."""
        if not score.needs_tokenizer:
            return score.spec()
        name = getattr(score, "model", None) or self.model
        tokenizer = load_tokenizer(name, getattr(score, "revision", None)) if isinstance(name, str) else self.tokenizer
        tokens = {**asdict(self._settings(score)), "tokenizer": tokenizer_identity(tokenizer)}
        spec = {**score.spec(), "tokens": tokens}
        if isinstance(score, ModelScore):
            context = next(iter(self._contexts.values()), None)
            spec |= {"computed": context.describe() if context is not None else None}
        return spec

    def _settings(self, score: Any) -> TokenSettings:
        wanted: TokenSettings = score.token_settings()
        if self.settings is None:
            return wanted
        length = getattr(score, "max_length", None)
        if getattr(score, "convention", "sft") == "sft" and length not in (None, self.settings.max_length):
            raise ScoreError(
                f"{type(score).__name__}(max_length={length}) is not how training cuts rows "
                f"(max_length={self.settings.max_length}). Leave it out: here rows are scored as trained."
            )
        return self.settings

    def _token_rows(
        self,
        model: Hashable,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: TokenSettings | None,
        indices: np.ndarray | None,
    ) -> TokenRows:
        key = (model, settings, None if indices is None else indices.tobytes())
        if key not in self._rows:
            prepared = self.prepared if model == "live" else None
            self._rows[key] = TokenRows(self.pool, tokenizer, settings, prepared, indices)
        return self._rows[key]


def score(
    dataset: Dataset,
    scores: Sequence[Score],
    model: Any = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens_per_batch: int | None = None,
    on_summary: Callable[[str], Any] | None = None,
) -> Dataset:
    """Add the columns of several scores to a dataset, in length-sorted batches over all of it.

    Args:
        dataset: rows in any supported format; order and other columns stay as they are.
        scores: what to compute. Scores that need the same forward pass share it.
        model: for scores that name none: a name or path, or a live causal LM together with `tokenizer`.
        tokenizer: of a live `model`.
        tokens_per_batch: upper bound on the padded tokens of a batch; by default 2,048 on a CPU, else 16,384.
        on_summary: called with one line a score; by default the lines of scores with nulls are logged.

    Returns:
        The dataset with the new columns: float32, null with a reason where a row has no score.

    Raises:
        ScoreError: two scores write different numbers into one column, or one has no model.
        FormatError: the columns make no supported format.
        ModelError: a model cannot be loaded or scored.
    """
    from datasets import Dataset, concatenate_datasets

    if isinstance(scores, Score):
        scores = [scores]
    for each in scores:
        if not isinstance(each, Score):
            raise ScoreError(f"scores has to hold scores such as IFD(), and holds {each!r}.")
    if tokens_per_batch is not None and tokens_per_batch < 1:
        raise ScoreError(f"tokens_per_batch={tokens_per_batch} has to be above 0.")
    _check_columns(scores)
    pool = Pool(dataset)
    if len(pool) == 0:
        raise ScoreError("The dataset is empty, so that there is nothing to score.")
    engine = Engine(pool, model, tokenizer, tokens_per_batch)
    columns: Columns = {}
    for each in scores:
        computed = engine.compute(each)
        line = summary(each, computed)
        if on_summary is not None:
            on_summary(line)
        elif any(column.null_count for column in computed.values()):
            logger.warning(line)
        columns.update(computed)
    kept = [name for name in dataset.column_names if name not in columns]
    return concatenate_datasets([dataset.select_columns(kept), Dataset(pa.table(columns))], axis=1)


def summary(score: Score, columns: Columns) -> str:
    """One line: how many rows have the score, and how many have none, by reason."""
    name = next(iter(columns))
    nulls, rows = columns[name].null_count, len(columns[name])
    line = f"{name}: {rows - nulls:,} of {rows:,} rows scored"
    reasons = next((columns[column] for column in columns if column.endswith("_reason")), None)
    if not nulls or reasons is None:
        return line if not nulls else f"{line}, {nulls:,} without a value"
    counts = Counter(reason for reason in reasons.to_pylist() if reason)
    return f"{line}, {nulls:,} without: {reason_counts(counts)}"


def _check_columns(scores: Sequence[Score]) -> None:
    owners: dict[str, tuple[Score, Hashable]] = {}
    for each in scores:
        for name in each.columns():
            full, meaning = f"{each.column_prefix}{name}", each.meaning(name)
            other, others = owners.setdefault(full, (each, meaning))
            if others != meaning:
                raise ScoreError(f"{each} and {other} both write {full!r}. Give one of them a column_prefix.")
