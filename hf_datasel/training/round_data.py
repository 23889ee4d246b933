"""The tokenized pool, and the dataset and dataloader of each round."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from trl import pack_dataset

from hf_datasel._lazy import pc
from hf_datasel.formats import POOL_ROW, Pool
from hf_datasel.scoring.models import check_tokens
from hf_datasel.tokens import PreparedDataset, TokenSettings
from hf_datasel.tokens.sequences import highest_token_id, list_column
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.run_identity import tokens_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizedPool", "release_dataloader", "token_settings"]

logger = logging.getLogger(__name__)


class TokenizedPool:
    """The rows of the pool as `SFTTrainer` tokenizes them, from which the dataset of each round is built.

    With packing, rows are not truncated, and scores read the first `max_length` tokens of each: no packed sequence is
    longer, and `packing_strategy="bfd"` trains on exactly these.

    Args:
        pool: The rows.
        tokens: The tokenized rows. Without packing they are truncated, and those that this leaves without a label are
            missing.
        processing_class: Tokenizer that tokenized them.
        args: Config of the run.
        settings: How the rows were tokenized.

    Attributes:
        rows: Pool row number of each tokenized row, int64.
        prepared: The tokenized rows, as scores read them.
        eligible: Whether each row of the pool can be trained on, bool of shape (rows,).
    """

    def __init__(
        self,
        pool: Pool,
        tokens: Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: SelectiveSFTConfig,
        settings: TokenSettings,
    ):
        self.pool = pool
        self.tokens = tokens
        self._args = args
        self.rows = np.asarray(tokens.with_format("numpy")[POOL_ROW][:], dtype=np.int64)
        scored = truncated(tokens, args.max_length) if args.packing and args.max_length else tokens
        self.prepared = PreparedDataset(scored, processing_class, settings)
        self.eligible = np.zeros(len(pool), dtype=bool)
        self.eligible[self.rows] = True

    def check_tokens(self, model: Any) -> None:
        """Raise an error if the model cannot read the rows.

        Args:
            model: Model in training.

        Raises:
            ModelError: A token id has no embedding, or a row is longer than the model has embeddings of positions.
        """
        longest, highest_id = 0, -1
        for table in self.prepared.data.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=10_000):
            column = table.column("input_ids")
            longest = max(longest, *(len(ids) for ids in list_column(table, "input_ids")))
            highest_id = max(highest_id, highest_token_id(column))
        check_tokens(model, longest, highest_id)

    def warn_of_exclusions(self) -> None:
        """Log a warning if more than a hundredth of the pool cannot be trained on, besides malformed rows."""
        excluded, unlabelled = ~self.eligible, ~self.eligible & self.pool.usable
        is_new = unlabelled.any() or "template_error" in self.pool.reasons  # malformed rows are reported before
        if not is_new or int(excluded.sum()) * 100 <= len(self.pool):
            return
        reasons = [self.pool.reason_details()] if self.pool.details else []
        reasons += [f"{unlabelled.sum():,} without a label after truncation"] if unlabelled.any() else []
        logger.warning(
            "train_dataset: %s of %s rows cannot be trained on: %s",
            *(f"{excluded.sum():,}", f"{len(self.pool):,}", ", ".join(reasons)),
        )

    @cached_property
    def _positions(self) -> np.ndarray:
        """Position of each row of the pool among the tokenized rows, int64; of other rows that of the first one."""
        positions = np.zeros(len(self.pool), dtype=np.int64)
        positions[self.rows] = np.arange(len(self.rows))
        return positions

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the token ids and labels of all rows."""
        return tokens_digest(self.tokens)

    def dataset(self, rows: np.ndarray, is_ordered: bool = False) -> Dataset:
        """Return the tokenized rows of a round, shuffled and packed as `SFTTrainer` does it.

        Args:
            rows: Row numbers of the pool.
            is_ordered: Whether the dataset has their order; otherwise it has that of the pool.
        """
        subset = self.tokens.select(self._positions[rows] if is_ordered else np.flatnonzero(np.isin(self.rows, rows)))
        if not self._args.packing:
            return self._shuffled(subset)
        subset = self._shuffled(subset.select_columns(["input_ids", "labels"]))
        options = {"keep_in_memory": True, "num_proc": self._args.dataset_num_proc}  # processes pack separately
        return self._shuffled(pack_dataset(subset, self._args.max_length, self._args.packing_strategy, options))

    def first_rows(self, size: int) -> Dataset:
        """Return the dataset of the first eligible rows, to count updates before the rows of a round are known.

        Args:
            size: Number of rows.
        """
        return self.dataset(np.flatnonzero(self.eligible)[:size])

    def _shuffled(self, dataset: Dataset) -> Dataset:
        return dataset.shuffle(seed=self._args.seed) if self._args.shuffle_dataset else dataset


def token_settings(args: Any, completion_only_loss: bool | None) -> TokenSettings:
    """Return the settings of a run that determine tokens and labels.

    Args:
        args: Config of the run.
        completion_only_loss: As `SFTTrainer` resolved it.
    """
    return TokenSettings(
        max_length=args.max_length,
        truncation_mode="keep_start" if args.packing else args.truncation_mode,
        completion_only_loss=completion_only_loss,
        assistant_only_loss=args.assistant_only_loss,
        dataset_num_proc=args.dataset_num_proc,
    )


def truncated(tokens: Dataset, max_length: int) -> Dataset:
    """Return tokenized rows with the first tokens of longer ones only.

    Args:
        tokens: Rows with `input_ids` and `labels`.
        max_length: Maximum number of tokens of a row.
    """
    view = tokens.select_columns(["input_ids"]).with_format("arrow")
    lengths = [table.column("input_ids").combine_chunks().value_lengths() for table in view.iter(batch_size=10_000)]
    if all(pc.max(batch).as_py() <= max_length for batch in lengths):
        return tokens
    return tokens.map(_truncate, batched=True, fn_kwargs={"max_length": max_length}, desc="Truncating rows to score")


def _truncate(batch: Any, max_length: int) -> dict[str, list[Any]]:
    return {name: [values[:max_length] for values in batch[name]] for name in ("input_ids", "labels")}


def release_dataloader(trainer: Any, dataloader: Any) -> None:
    """Remove a dataloader from the lists of the accelerator and the callbacks, which would keep its workers alive."""
    loaders = trainer.accelerator._dataloaders
    loaders[:] = [loader for loader in loaders if loader is not dataloader]
    if trainer.callback_handler.train_dataloader is dataloader:
        trainer.callback_handler.train_dataloader = None
