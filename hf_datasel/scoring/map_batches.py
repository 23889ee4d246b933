"""Batches of `Dataset.map` as datasets of the columns that a score reads, with every value as it is stored."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import FormatError, ScoreError
from hf_datasel.formats import Batch, Pool
from hf_datasel.formats.json_values import json_array, replace_surrogates
from hf_datasel.formats.message_shapes import is_message

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["check_batch", "dataset_of_batch", "row_columns_of", "with_new_columns"]

_MESSAGE_KEYS = ({"role", "content"}, {"from", "value"})
_TABLES = ("pandas", "polars")


def check_batch(batch: Any, name: str) -> None:
    """Raise an error for what a score cannot be called with.

    Args:
        batch: Argument of the function in `Dataset.map`.
        name: Name of the score's class.

    Raises:
        ScoreError: The argument is a single row, a table of pandas or polars, or no mapping from columns to values.
    """
    library = type(batch).__module__.split(".")[0]
    if library in _TABLES:
        raise ScoreError(
            f"The dataset is in the {library} format, which changes the values of nested columns.",
            hint=f"Map the rows as they are stored: dataset.with_format(None).map({name}(...), batched=True). The "
            f"result may have the format again: with_format({library!r}).",
        )
    if isinstance(batch, pa.Table):
        return
    if not isinstance(batch, Mapping):
        raise ScoreError(
            f"{name} takes the batches of dataset.map(..., batched=True), and this is a {type(batch).__name__}.",
            hint="Call map without input_columns, or hf_datasel.score(dataset, ...).",
        )
    if type(batch).__name__ == "LazyBatch":  # reading its columns here would format them
        return
    if type(batch).__name__ == "LazyRow" or any(_is_value(batch[column]) for column in _row_columns_or_all(batch)):
        raise ScoreError(f"{name} works on batches: call dataset.map(..., batched=True).")


def _row_columns_or_all(batch: Mapping[str, Any]) -> list[str]:
    try:
        return row_columns_of(tuple(batch))
    except FormatError:  # it is raised again where the rows are read
        return list(batch)


def _is_value(values: Any) -> bool:
    """Return whether this is the value of one row rather than a column: a text, a number or a list of messages."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        return True
    return len(values) > 0 and all(
        is_message(value) and any(keys <= set(value) for keys in _MESSAGE_KEYS) for value in values
    )


@functools.lru_cache(maxsize=64)
def _row_columns(names: tuple[str, ...]) -> tuple[str, ...]:
    from datasets import Dataset

    return tuple(Pool(Dataset.from_dict({name: [] for name in names})).columns)


def row_columns_of(names: Sequence[str]) -> list[str]:
    """Return the columns that hold the row, in the order of the dataset.

    Args:
        names: All columns of the dataset.

    Raises:
        FormatError: The columns are not in a supported format.
    """
    return list(_row_columns(tuple(names)))


def dataset_of_batch(batch: Batch | pa.Table, reads: Sequence[str] = ()) -> Dataset:
    """Return a dataset with the columns that make the row and those that a score reads.

    All other columns are neither decoded nor converted. The values are those that `hf_datasel.score` reads from the
    dataset: a batch that is backed by Arrow keeps its features.

    Args:
        batch: Batch of `Dataset.map` or `IterableDataset.map`, in any format but those of pandas and polars.
        reads: Names of further columns to read, those of a dataset without them excepted.

    Raises:
        FormatError: The columns are not in a supported format.
        ScoreError: The format of the dataset has changed the values of a column.
    """
    from datasets import Dataset, DatasetInfo, Features

    names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
    row_columns = row_columns_of(names)
    selected = [name for name in names if name in row_columns or name in reads]
    table, features = _arrow_table(batch, selected)
    if table is None:
        read = {name: _row_column if name in row_columns else _inferred for name in selected}
        columns = {name: read[name](name, batch[name]) for name in selected}
        table = pa.table({name: values for name, (values, _) in columns.items()})
        features = Features({name: feature for name, (_, feature) in columns.items()})
    elif features is None:
        features = Features.from_arrow_schema(table.schema)
    return Dataset(table.replace_schema_metadata(None), info=DatasetInfo(features=features))


def _arrow_table(batch: Any, names: list[str]) -> tuple[pa.Table | None, Features | None]:
    """Return the Arrow table of a batch, and its features if they are known; None for other batches."""
    from datasets import Features

    if isinstance(batch, pa.Table):
        return batch.select(names), None
    unread = getattr(batch, "keys_to_format", ())  # columns whose values are still those of the table
    if not hasattr(batch, "pa_table") or not set(names) <= set(unread):
        return None, None
    features = batch.formatter.features
    known = features is not None and set(names) <= set(features)
    return batch.pa_table.select(names), Features({name: features[name] for name in names}) if known else None


def _row_column(name: str, values: Any) -> tuple[pa.Array, Any]:
    """Return the values of a column of the row as Arrow array, and its feature.

    Values other than text are JSON: Arrow looks for one type of everything in a column, and where there is none,
    numbers get other digits; old versions of pyarrow sort the keys of a mapping as well.
    """
    from datasets import Json, Value

    values = [_plain(name, value) for value in values]
    if not all(value is None or isinstance(value, str) for value in values):
        return json_array(values), Json()
    try:
        return pa.array(values, pa.large_string()), Value("large_string")
    except UnicodeEncodeError:
        return pa.array(replace_surrogates(values), pa.large_string()), Value("large_string")


def _inferred(name: str, values: Any) -> tuple[pa.Array, Any]:
    """Return the values of a column that a score reads besides the row as Arrow array, and its feature."""
    from datasets import Dataset

    if getattr(values, "ndim", 0) == 1 and str(values.dtype).endswith("float32"):
        raise _rounded(name, "which the score reads")
    data = Dataset.from_dict({name: list(values)}, on_mixed_types="use_json")
    return data.data.column(name), data.features[name]


def _plain(name: str, value: Any) -> Any:
    """Return a value with Python's own types in place of arrays and tensors.

    Raises:
        ScoreError: It holds numbers that the format of the dataset has rounded.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _plain(name, value.tolist())
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        if array.dtype.kind in "fc" and array.size:
            raise _rounded(name, "which is part of the row")
        return array.tolist()
    return value


def _rounded(name: str, role: str) -> ScoreError:
    return ScoreError(
        f"The format of the dataset rounds the numbers in column {name!r}, {role}.",
        hint="Map the rows as they are stored: dataset.with_format(None).map(..., batched=True).",
    )


def with_new_columns(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return a batch in the arrow format with new columns, which replace those of the same name.

    Args:
        table: The batch.
        columns: The new columns by name.
    """
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table
