"""Functions for `Dataset.filter` and `IterableDataset.filter`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, DatasetMismatchError, did_you_mean
from hf_datasel.formats import FORMATS, canonical_rows, row_columns
from hf_datasel.formats.mapping import applicable
from hf_datasel.scoring.numbers import at_least

__all__ = ["Between", "Keep"]


@dataclass(frozen=True)
class Between:
    """Filter of the rows with `low <= value < high` in a column, with `batched=True` or without.

    Rows without a value are dropped. Without bounds, all rows with a value are kept.

    >>> Between("ifd", high=1.0)({"ifd": [0.4, 1.0, None]})
    [True, False, False]

    Args:
        column: Name of the column.
        low: Lowest value to keep; None for no bound.
        high: Values from here on are dropped; None for no bound.
    """

    column: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"Between({self.column!r}, low={self.low!r}, high={self.high!r}) can keep no row.")

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Return whether to keep each row of a batch, or one row."""
        if self.column not in batch:
            existing = list(batch)
            raise ColumnError(
                f"Between({self.column!r}) needs a column that is missing: the dataset has {existing}."
                f"{did_you_mean(self.column, existing)} Scores are added with dataset.map(IFD(...), batched=True)."
            )
        values = batch[self.column]
        if hasattr(values, "tolist"):  # numpy, torch or pandas, where the dataset has such a format
            values = values.tolist()
        if isinstance(values, list):
            return [self._keeps(value) for value in values]
        return self._keeps(values)

    def _keeps(self, value: float | None) -> bool:
        if value is None or value != value:
            return False
        return (self.low is None or at_least(value, self.low)) and (
            self.high is None or not at_least(value, self.high)
        )


class Keep:
    """Filter of the selected rows, for `dataset.filter(selection.keep, with_indices=True)`, batched or not.

    Args:
        rows: Row number -> sha256 of the row's content, of the rows to keep.
        row_format: Row format of the dataset that the selection was made from.
        columns: Names of the columns of the row format and those of that dataset, if the selection was made with them.

    Raises:
        DatasetMismatchError: The content of a row to keep differs from the selected row.
    """

    def __init__(self, rows: dict[int, bytes], row_format: str, columns: Mapping[str, str] | None = None):
        self.rows = rows
        self.row_format = row_format
        self.columns = columns

    def __call__(self, example: Mapping[str, Any], index: Any) -> Any:
        """Return whether to keep each row of a batch, or one row.

        Args:
            example: Batch or row.
            index: Row numbers, or one.
        """
        if isinstance(index, list | np.ndarray):
            return self._batch(example, [int(number) for number in index])
        return self._batch({name: [example[name]] for name in example}, [int(index)])[0]

    def _batch(self, batch: Mapping[str, Any], row_numbers: list[int]) -> list[bool]:
        positions = [position for position, number in enumerate(row_numbers) if number in self.rows]
        alternatives, mapping = FORMATS[self.row_format], applicable(self.columns, list(batch))
        if positions and (mapping or any(columns <= set(batch) for columns in alternatives)):
            needed = row_columns(list(batch), self.row_format, mapping)
            selected = {name: [batch[name][position] for position in positions] for name in needed}
            for position, row in zip(positions, canonical_rows(selected, self.row_format, mapping), strict=True):
                if row.digest() != self.rows[row_numbers[position]]:
                    raise DatasetMismatchError(
                        f"Row {row_numbers[position]:,} is not the row that was selected. Filter the dataset that the "
                        "selection was made from, before any other filter or shuffle."
                    )
        return [number in self.rows for number in row_numbers]

    def __reduce__(self) -> tuple[Any, ...]:
        return Keep, (dict(sorted(self.rows.items())), self.row_format, self.columns)
