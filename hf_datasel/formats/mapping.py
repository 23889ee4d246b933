"""Mapping from the names of the supported formats to the columns of a dataset, and keys of its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import FormatError
from hf_datasel.formats.json_values import json_array, table_values

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["MESSAGE_KEYS", "applicable", "checked_mapping", "rename_batch", "rename_dataset"]

MESSAGE_KEYS = ("role", "content")
"""Names in a mapping that are keys of messages and not columns."""


def checked_mapping(columns: Any, name: str = "columns") -> dict[str, str] | None:
    """Return `columns` as a dict; None if it is None or empty.

    Args:
        columns: What the user passed.
        name: Name of the argument, for the message.

    Raises:
        FormatError: It is no mapping.
    """
    if columns is None:
        return None
    if not isinstance(columns, Mapping):
        raise FormatError(
            f"{name} has to be a dict such as {{'prompt': 'question', 'completion': 'answer'}}, and is {columns!r}."
        )
    return dict(columns) or None


def applicable(mapping: Mapping[str, str] | None, names: Sequence[str] | None) -> dict[str, str] | None:
    """Return the mapping if a dataset has all columns that it names, and None otherwise.

    For rows besides those that the mapping was made for, such as evaluation rows, or a selection applied to the same
    rows after their columns were renamed.

    Args:
        mapping: The mapping.
        names: Column names of the dataset.
    """
    columns = {column for key, column in (mapping or {}).items() if key not in MESSAGE_KEYS}
    return dict(mapping) if mapping and columns <= set(names or ()) else None


def rename_batch(batch: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Return a batch with the names of the supported formats, for a score in `map`.

    A column that has such a name already, and is not the one that is mapped to it, is left out.

    Args:
        batch: Column name -> values.
        mapping: The mapping.

    >>> rename_batch({"q": ["a"], "prompt": [1], "dialog": [[{"who": "user", "said": "b"}]]},
    ...              {"prompt": "q", "messages": "dialog", "role": "who", "content": "said"})
    {'prompt': ['a'], 'messages': [[{'role': 'user', 'content': 'b'}]]}
    """
    columns = {column: key for key, column in mapping.items() if key not in MESSAGE_KEYS}
    keys = {column: key for key, column in mapping.items() if key in MESSAGE_KEYS}
    renamed = {
        columns.get(name, name): values for name, values in batch.items() if name in columns or name not in mapping
    }
    if keys:
        renamed = {name: [_with_keys(value, keys) for value in values] for name, values in renamed.items()}
    return renamed


def _with_keys(value: Any, keys: Mapping[str, str]) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {keys.get(name, name): item for name, item in message.items()} if isinstance(message, dict) else message
        for message in value
    ]


def rename_dataset(dataset: Dataset, mapping: Mapping[str, str] | None) -> Dataset:
    """Return a dataset with the names of the supported formats, for scores that are fitted to rows.

    Args:
        dataset: The dataset.
        mapping: The mapping; None for a dataset that is returned as it is.
    """
    if not mapping:
        return dataset
    from datasets import Features, Json

    columns = {column: key for key, column in mapping.items() if key not in MESSAGE_KEYS}
    hidden = [name for name in dataset.column_names if name in columns.values() and name not in columns]
    renamed = dataset.remove_columns(hidden).rename_columns(
        {column: key for column, key in columns.items() if column != key}
    )
    keys = {key: name for key, name in mapping.items() if key in MESSAGE_KEYS}
    if not keys:
        return renamed
    names = [name for name in ("messages", "conversations", "prompt", "completion") if name in renamed.column_names]

    def renamed_keys(table: pa.Table) -> pa.Table:
        for name, values in rename_batch(table_values(table.select(names)), keys).items():
            table = table.set_column(table.column_names.index(name), name, json_array(values))
        return table

    features = Features({**renamed.features, **dict.fromkeys(names, Json())})
    settings = {"batched": True, "features": features, "desc": "Renaming the keys of messages"}
    return renamed.with_format("arrow").map(renamed_keys, **settings).with_format(None)
