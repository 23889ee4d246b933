"""The tokenized pool, and the dataset and dataloader of each round."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from trl import pack_dataset

from hf_datasel.formats import Pool
from hf_datasel.tokens import PreparedDataset, TokenSettings
from hf_datasel.training.checkpoint_state import tokens_digest
from hf_datasel.training.config import SelectiveSFTConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizedPool", "epoch_seed", "release_dataloader", "set_epoch"]


class TokenizedPool:
    """The rows of the pool as `SFTTrainer` tokenizes them, from which the dataset of each round is built.

    Args:
        pool: The rows.
        tokens: The tokenized rows, without those that truncation leaves without a label.
        processing_class: Tokenizer that tokenized them.
        args: Config of the run.
        completion_only_loss: As `SFTTrainer` resolved it for these rows.

    Attributes:
        prepared: The tokenized rows, as scores read them.
        eligible: Whether each row of the pool can be trained on, bool of shape (rows,).
    """

    def __init__(
        self,
        pool: Pool,
        tokens: Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: SelectiveSFTConfig,
        completion_only_loss: bool | None,
    ):
        self.pool = pool
        self.tokens = tokens
        self._args = args
        settings = TokenSettings(
            max_length=args.max_length,
            truncation_mode=args.truncation_mode,
            completion_only_loss=completion_only_loss,
            assistant_only_loss=args.assistant_only_loss,
            dataset_num_proc=args.dataset_num_proc,
        )
        self.prepared = PreparedDataset(tokens, processing_class, settings)
        self.eligible = np.zeros(len(pool), dtype=bool)
        self.eligible[self.prepared.rows] = True

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the token ids and labels of all rows."""
        return tokens_digest(self.tokens)

    def dataset(self, rows: np.ndarray) -> Dataset:
        """Return the tokenized rows of a round, shuffled and packed as `SFTTrainer` does it.

        Args:
            rows: Row numbers of the pool, in any order. The dataset keeps the order of the pool.
        """
        subset = self.tokens.select(np.flatnonzero(np.isin(self.prepared.rows, rows)))
        if not self._args.packing:
            return self._shuffled(subset)
        subset = self._shuffled(subset.select_columns(["input_ids", "labels"]))
        options = {"keep_in_memory": True}
        return self._shuffled(pack_dataset(subset, self._args.max_length, self._args.packing_strategy, options))

    def first_rows(self, size: int) -> Dataset:
        """Return the dataset of the first eligible rows, to count updates before the rows of a round are known.

        Args:
            size: Number of rows.
        """
        return self.dataset(np.flatnonzero(self.eligible)[:size])

    def _shuffled(self, dataset: Dataset) -> Dataset:
        return dataset.shuffle(seed=self._args.seed) if self._args.shuffle_dataset else dataset


def set_epoch(dataloader: Any, epoch: int) -> None:
    """Tell the batch sampler of a dataloader which epoch it is, so that it shuffles as in an uninterrupted run.

    `Trainer` looks for the sampler inside one wrapper. In several processes there are two where batches are skipped.
    """
    sampler = getattr(dataloader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None)


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a random seed for an epoch, different for each epoch and each seed of the run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def release_dataloader(trainer: Any, dataloader: Any) -> None:
    """Remove a dataloader from the lists of the accelerator and the callbacks, which would keep its workers alive."""
    loaders = trainer.accelerator._dataloaders
    loaders[:] = [loader for loader in loaders if loader is not dataloader]
    if trainer.callback_handler.train_dataloader is dataloader:
        trainer.callback_handler.train_dataloader = None
