"""Values of JSON texts and of `Json` columns, with every number as it is written.

`datasets` decodes `Json` columns with pandas, which reads 52.37 as 52.370000000000005, and encodes numbers with ten
decimals.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

__all__ = ["dump_json", "json_array", "json_value", "load_json", "replace_surrogates", "table_values"]


def load_json(text: str) -> Any:
    """Return the value of a JSON text; NaN and infinite numbers are None.

    Args:
        text: The JSON text.

    Raises:
        ValueError: The text is not valid JSON.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(text, parse_constant=lambda _: None)
    return replace_surrogates(value) if "\\ud" in text or "\\uD" in text else value


def replace_surrogates(value: Any) -> Any:
    """Return a value with U+FFFD in place of each half of a surrogate pair, which neither Arrow nor UTF-8 can store.

    Args:
        value: Text, or a list or mapping with text.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return value


def dump_json(value: Any) -> str:
    """Return the JSON text of a value, from which `load_json` returns the same numbers."""
    return json.dumps(value, ensure_ascii=False)


def json_value(value: Any) -> Any:
    """Return a value that JSON has no type for as one that it has: bytes as a list of numbers, and others as text.

    Args:
        value: Date or time, bytes, array or scalar of numpy, decimal number, or any other value.
    """
    if isinstance(value, bytes):  # no text, so that nothing is read as one
        return list(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else str(value)


def json_array(values: Iterable[Any]) -> pa.Array:
    """Return values as the Arrow array of a `Json` column, from which `table_values` returns the same.

    Args:
        values: The values, None for null. For what JSON has no type for, see `json_value`.
    """
    texts = [None if value is None else json.dumps(value, default=json_value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def table_values(table: pa.Table) -> dict[str, list[Any]]:
    """Return the values of an Arrow table by column, those of `Json` features decoded.

    Args:
        table: Rows of a dataset in the arrow format.
    """
    return {name: _values(table.column(name)) for name in table.column_names}


def _values(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return [_decoded(value, column.type) for value in values] if _has_json(column.type) else values


def _has_json(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.JsonType):
        return True
    return any(_has_json(kind.field(number).type) for number in range(kind.num_fields))


def _decoded(value: Any, kind: pa.DataType) -> Any:
    if value is None or not _has_json(kind):
        return value
    if isinstance(value, dict):
        return {
            kind.field(number).name: _decoded(value[kind.field(number).name], kind.field(number).type)
            for number in range(kind.num_fields)
        }
    if isinstance(value, list):
        return [_decoded(item, kind.value_type) for item in value]
    try:
        return load_json(value)
    except (ValueError, RecursionError):  # a text that was cast to Json, which `datasets` stores as it is
        return value
