"""Callables for `Dataset.filter` and `IterableDataset.filter`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, DatasetMismatchError, did_you_mean
from hf_datasel.formats import FORMATS, canonical_rows

__all__ = ["Between", "Keep"]


@dataclass(frozen=True)
class Between:
    """Rows with `low <= value < high` in a column; a row without a value is never kept. Batched or not.

    Without bounds, every row with a value.

    >>> Between("ifd", high=1.0)({"ifd": [0.4, 1.0, None]})
    [True, False, False]
    """

    column: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"Between({self.column!r}, low={self.low!r}, high={self.high!r}) can keep no row.")

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
    """The rows of a selection, for `dataset.filter(selection.keep, with_indices=True)`. Batched or not.

    Args:
        rows: row number -> id of the row's content.
        format: of the dataset that the selection was made from.

    Raises:
        DatasetMismatchError: a row to be kept has other content than the row that was chosen.
    """

    def __init__(self, rows: dict[int, bytes], format: str):
        self.rows = rows
        self.format = format

    def __call__(self, example: Mapping[str, Any], index: Any) -> Any:
        if isinstance(index, list | np.ndarray):
            return self._batch(example, [int(each) for each in index])
        return self._batch({name: [example[name]] for name in example}, [int(index)])[0]

    def _batch(self, batch: Mapping[str, Any], indices: list[int]) -> list[bool]:
        kept = [at for at, index in enumerate(indices) if index in self.rows]
        columns = [name for alternative in FORMATS[self.format] for name in alternative]
        if kept and any(alternative <= set(batch) for alternative in FORMATS[self.format]):
            needed = [name for name in (*columns, "input") if name in batch]
            part = {name: [batch[name][at] for at in kept] for name in needed}
            for at, row in zip(kept, canonical_rows(part, self.format), strict=True):
                if row.digest() != self.rows[indices[at]]:
                    raise DatasetMismatchError(
                        f"Row {indices[at]:,} is not the row that was chosen. Filter the dataset that the selection "
                        "was made from, before any other filter or shuffle."
                    )
        return [index in self.rows for index in indices]

    def __reduce__(self) -> tuple[Any, ...]:
        return Keep, (dict(sorted(self.rows.items())), self.format)
