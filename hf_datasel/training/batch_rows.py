"""Row numbers of the pool in training batches, so that each row of a batch is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hf_datasel.formats import POOL_ROW

__all__ = ["RowCollator", "row_numbers_in_batches"]


class RowCollator:
    """Data collator that adds the row number in the pool of each row, int64 of shape (rows,), to a batch.

    Args:
        collator: Collator of the rest.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Any]):
        self._collator = collator

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Any:
        """Return the batch of these rows."""
        rows = [example[POOL_ROW] for example in examples]
        others = [{name: value for name, value in example.items() if name != POOL_ROW} for example in examples]
        batch = self._collator(others)
        batch[POOL_ROW] = torch.tensor(rows)
        return batch


@contextmanager
def row_numbers_in_batches(trainer: Any) -> Iterator[None]:
    """Make the dataloaders that a trainer creates inside the context add row numbers to their batches.

    Args:
        trainer: The trainer.

    Yields:
        None.
    """
    collator, columns = trainer.data_collator, trainer._signature_columns
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns = [*trainer._signature_columns, POOL_ROW]
    trainer.data_collator = RowCollator(collator)
    try:
        yield
    finally:
        trainer.data_collator, trainer._signature_columns = collator, columns
