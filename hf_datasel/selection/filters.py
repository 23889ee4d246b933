"""Callables for `Dataset.filter` and `IterableDataset.filter`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ColumnError, did_you_mean

__all__ = ["Between", "Keep"]


@dataclass(frozen=True)
class Between:
    """Rows with `low <= value < high` in a column; a row without a value is never kept. Batched or not.

    >>> Between("ifd", high=1.0)({"ifd": [0.4, 1.0, None]})
    [True, False, False]
    """

    column: str
    low: float | None = None
    high: float | None = None

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        if self.column not in batch:
            present = list(batch)
            raise ColumnError(
                f"Between({self.column!r}) needs a column that is not there: the dataset has {present}."
                f"{did_you_mean(self.column, present)} Scores are added with dataset.map(IFD(...), batched=True)."
            )
        values = batch[self.column]
        if hasattr(values, "tolist"):  # of numpy, torch or pandas, where the dataset has such a format
            values = values.tolist()
        if isinstance(values, list):
            return [self._inside(value) for value in values]
        return self._inside(values)

    def _inside(self, value: float | None) -> bool:
        if value is None or value != value:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value < self.high)


class Keep:
    """The rows of a selection, for `dataset.filter(selection.keep, with_indices=True)`. Batched or not."""

    def __init__(self, indices: np.ndarray):
        self.rows = frozenset(indices.tolist())

    def __call__(self, example: Any, index: Any) -> Any:
        if isinstance(index, list | np.ndarray):
            return [int(each) in self.rows for each in index]
        return int(index) in self.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return Keep, (np.array(sorted(self.rows), dtype=np.int64),)
