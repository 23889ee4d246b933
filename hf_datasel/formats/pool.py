"""Pool of instruction rows, read from a dataset."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import FormatError
from hf_datasel.formats.json_values import table_values
from hf_datasel.formats.layouts import row_layout, unread_columns
from hf_datasel.formats.mapping import checked_mapping
from hf_datasel.formats.readers import canonical_rows
from hf_datasel.formats.row_scan import RowScan, scan_rows
from hf_datasel.formats.rows import Part, Row, no_text
from hf_datasel.formats.scan_cache import cached_scan, content_key

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["POOL_ROW", "Pool"]

logger = logging.getLogger(__name__)

POOL_ROW = "pool_row"
"""Name of the column of converted and tokenized datasets with the row number in the pool."""

_BATCH_SIZE = 1_000

_MIN_CACHED_ROWS = 10_000
"""Number of rows from which on looking for a scan takes less time than scanning."""

_SUMMARY_ROWS = 3
"""Number of row numbers that a summary names per reason."""

_warned: set[tuple[Any, ...]] = set()
"""Columns that this process has already warned of."""


class Pool:
    """A `datasets.Dataset` read as instruction rows. Row i of the pool is row i of the dataset.

    Args:
        dataset: Dataset in one of the supported row formats.
        columns: Names of columns of the supported formats, or `role` and `content` of messages, and the names that the
            dataset has for them, such as `{"prompt": "question", "completion": "answer"}`.
        setting: Name of the setting that `columns` comes from, for warnings; None if there is none.

    Attributes:
        dataset: The dataset with its output format reset.
        format: Name of the row format (see `hf_datasel.formats.layouts`).
        layout: The columns that make the rows.
        mapping: `columns` as passed, or None.

    Raises:
        FormatError: The dataset is not a `datasets.Dataset` with rows in a supported format.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, str] | None = None, setting: str | None = "columns"):
        _check_type(dataset)
        if dataset.format["type"] == "custom":
            raise FormatError(
                "The dataset transforms its rows with a function passed to with_transform or set_transform. Apply the "
                "function to the stored rows instead: dataset.with_format(None).map(function, batched=True)."
            )
        if {"image", "images"} & set(dataset.column_names):
            raise FormatError("Rows with images cannot be scored or selected yet. Remove the image column.")
        self.mapping = checked_mapping(columns)
        self.layout = row_layout(dataset.column_names, self.mapping)
        self.format = self.layout.format
        self.dataset = dataset.with_format(None)
        self._setting = setting
        self._warn_of_unread_columns()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that make the rows, in the order of the dataset."""
        return [name for name in self.dataset.column_names if name in self.layout.columns]

    @property
    def column_names(self) -> list[str]:
        """Names of all columns of the dataset."""
        return list(self.dataset.column_names)

    @property
    def has_responses(self) -> bool:
        """Whether the rows have responses as text: not if they are tokenized already, or have only a text column."""
        return self.format not in ("text", "tokenized")

    @property
    def has_text(self) -> bool:
        """Whether the rows have text: not if they are tokenized already."""
        return self.format != "tokenized"

    def subset(self, indices: Sequence[int] | np.ndarray) -> Pool:
        """Return a pool of these rows, with their ids and reasons if this pool has computed them.

        Args:
            indices: Row numbers, in the order of the new pool.
        """
        indices = np.asarray(indices, dtype=np.int64)
        subset = Pool(self.dataset.select(indices), self.mapping, self._setting)
        if "_scan" in self.__dict__:
            subset.__dict__["_scan"] = self._scan.subset(indices)
        return subset

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Row]:
        """Yield the canonical rows.

        Args:
            indices: Row numbers to read, in this order; all rows by default.

        Yields:
            One `Row` per row.

        Raises:
            FormatError: A text is not UTF-8.
        """
        for batch in self._batches(indices):
            yield from canonical_rows(batch, self.format, self.mapping)

    @cached_property
    def _row_dataset(self) -> Dataset:
        """The columns that make the rows, as Arrow: selecting them takes time for every chunk of the dataset."""
        return self.dataset.select_columns(self.columns).with_format("arrow")

    def _tables(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[pa.Table]:
        data = self._row_dataset
        if indices is None:
            yield from data.iter(batch_size=_BATCH_SIZE)
            return
        rows = np.asarray(indices, dtype=np.int64)
        gaps = np.diff(rows)
        if len(rows) and (gaps > 0).all() and rows[-1] - rows[0] < 2 * len(rows):
            for start in range(0, len(rows), _BATCH_SIZE):
                yield _table_of(data, rows[start : start + _BATCH_SIZE])
        else:
            yield from data.select(rows).iter(batch_size=_BATCH_SIZE)

    def _batches(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[dict[str, list[Any]]]:
        try:
            for table in self._tables(indices):
                yield table_values(table)
        except UnicodeDecodeError as error:
            raise FormatError(
                f"A row of the dataset contains text that is not UTF-8 ({error}). Correct the file that it comes from "
                "and load it again."
            ) from error

    def texts(self, part: Part, indices: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """Return the prompt, the response or both of the rows, as plain text.

        Args:
            part: Part of the row.
            indices: Row numbers to read, in this order; all rows by default.

        Raises:
            FormatError: The rows are tokenized already; or they have only a text column, and `part` is not `"both"`.
        """
        if self.format == "tokenized":
            raise no_text()
        if self.format == "text" and part != "both":
            raise FormatError(
                f"Rows with only a text column have no {part}. Split them into prompt and completion columns."
            )
        return [row.text(part) for row in self.rows(indices)]

    @cached_property
    def _scan(self) -> RowScan:
        from datasets import is_caching_enabled

        if len(self) < _MIN_CACHED_ROWS or not is_caching_enabled():
            return self._scanned()
        key = content_key(self._tables(), self.layout, self.mapping)
        return cached_scan(key, len(self), self._scanned, on_disk=bool(self.dataset.cache_files))

    def _scanned(self, indices: np.ndarray | None = None) -> RowScan:
        num_rows = len(self) if indices is None else len(indices)
        return scan_rows(self._batches(indices), num_rows, self.format, self.mapping)

    @property
    def row_ids(self) -> np.ndarray:
        """SHA-256 of the canonical content of each row, uint8 of shape (rows, 32)."""
        return self._scan.ids

    @property
    def arrow_ids(self) -> pa.Array:
        """The row ids as an Arrow array of the type `binary(32)`."""
        return pa.Array.from_buffers(
            pa.binary(32), len(self), [None, pa.py_buffer(np.ascontiguousarray(self.row_ids))]
        )

    @property
    def usable(self) -> np.ndarray:
        """Whether each row can be used, bool of shape (rows,): it has no reason."""
        return ~self._scan.reason_codes.astype(bool)

    @cached_property
    def reasons(self) -> np.ndarray:
        """Reason why each row cannot be used, strings of shape (rows,); empty for usable rows."""
        return self._scan.row_reasons()

    @property
    def contents(self) -> np.ndarray:
        """What each row has besides text, uint8 of shape (rows,): bits `KEYS`, `TOOLS`, `KWARGS` and `UNTRAINED`."""
        return self._scan.contents

    @property
    def details(self) -> dict[int, str]:
        """For each row that cannot be used: the column or message, what it holds, and what to do."""
        return self._scan.details

    @property
    def id(self) -> str:
        """Hash of the row ids in order, which is the same on every machine and in every file format."""
        return hashlib.sha256(np.ascontiguousarray(self.row_ids).reshape(-1).data).hexdigest()

    def reason_details(self) -> str:
        """Return the number of unusable rows by reason, with the first row numbers and one detail for each."""
        rows: dict[str, list[int]] = {}
        reasons, codes = self._scan.reasons, self._scan.reason_codes
        for index in self.details:
            rows.setdefault(reasons[codes[index]], []).append(index)
        parts = []
        for reason, indices in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])):
            numbers = ", ".join(map(str, indices[:_SUMMARY_ROWS])) + (", ..." if len(indices) > _SUMMARY_ROWS else "")
            label = "row" if len(indices) == 1 else "rows"
            detail = f": {self.details[indices[0]]}" if self.details[indices[0]] else ""
            parts.append(f"{len(indices):,} {reason} ({label} {numbers}{detail})")
        return ", ".join(parts)

    def mark(self, indices: Sequence[int] | np.ndarray, reason: str, detail: str = "") -> None:
        """Record that rows cannot be used, for a reason that the rows alone do not show.

        Args:
            indices: Row numbers.
            reason: One word that says why.
            detail: What the reason means for these rows.
        """
        self.__dict__["_scan"] = self._scan.marked(np.asarray(indices, dtype=np.int64), reason, detail)
        self.__dict__.pop("reasons", None)

    def summary(self) -> str:
        """Return one line with the number of rows, the row format, and the unusable rows by reason."""
        line = f"{len(self):,} rows ({self.format})"
        return f"{line}, {len(self.details):,} of them unusable: {self.reason_details()}" if self.details else line

    def _warn_of_unread_columns(self) -> None:
        if self.mapping and self.format in ("text", "tokenized"):  # somebody wants these and not the others
            return
        unread = unread_columns(self.dataset.column_names, self.layout)
        unread = {name: key for name, key in unread.items() if not self._is_null(name)}
        key = (self._setting, self.format, tuple(sorted(self.layout.columns)), tuple(sorted(unread)))
        if not unread or key in _warned:
            return
        _warned.add(key)
        mapping = {**(self.mapping or {}), **{field: name for name, field in unread.items() if field}}
        reads = "it" if len(unread) == 1 else "them" if all(unread.values()) else ", ".join(filter(unread.get, unread))
        is_readable = self._setting is not None and any(unread.values())
        advice = f": {self._setting}={json.dumps(mapping, ensure_ascii=False)} reads {reads}" if is_readable else ""
        logger.warning(
            "Rows of the format %s are made of the columns %s; %s not read, though the name suggests a part of the "
            "row%s.",
            *(
                self.format,
                ", ".join(self.columns),
                ", ".join(unread) + (" is" if len(unread) == 1 else " are"),
                advice,
            ),
        )

    def _is_null(self, name: str) -> bool:
        column = self.dataset.data.column(name)
        return bool(column.null_count == len(column))


def _table_of(data: Dataset, rows: np.ndarray) -> pa.Table:
    """Return ascending rows that are close together; `Dataset.select` takes time for every chunk of the dataset.

    Args:
        data: Dataset with the output format "arrow".
        rows: Row numbers, int64, ascending.
    """
    first = int(rows[0])
    table = data[first : int(rows[-1]) + 1]
    if len(table) == len(rows):
        return table
    runs = np.split(rows - first, np.flatnonzero(np.diff(rows) > 1) + 1)
    return pa.concat_tables([table.slice(int(run[0]), len(run)) for run in runs])


def _check_type(dataset: Any) -> None:
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        splits = list(dataset)
        kind = type(dataset).__name__
        split = "train" if "train" in splits or not splits else splits[0]
        raise FormatError(
            f"The dataset is {'an' if kind.startswith('I') else 'a'} {kind} with splits {splits}.",
            f"Pick a split: dataset[{str(split)!r}] (splits: {', '.join(map(str, splits))}).",
        )
    if isinstance(dataset, Dataset):
        return
    hint = (
        "Rows of a streaming dataset have no row numbers: map it with a score, select with select_streaming, "
        "or load it with streaming=False."
    )
    if isinstance(dataset, str | Path):
        hint = "Load it with hf_datasel.load_pool first."
    if isinstance(dataset, list | dict):
        kind = "list" if isinstance(dataset, list) else "dict"
        hint = f"Convert it with datasets.Dataset.from_{kind}(rows)."
    if type(dataset).__module__.split(".")[0] == "pandas":
        hint = "Convert it with datasets.Dataset.from_pandas(df, preserve_index=False)."
    name = f"pandas.{type(dataset).__name__}" if "pandas" in hint else type(dataset).__name__
    raise FormatError(f"A pool has to be a datasets.Dataset, but this is {name}. {hint}")
