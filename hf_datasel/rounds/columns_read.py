"""Columns that a selector may read, so that others are never read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.scores.mix import Mix
from hf_datasel.scoring.base import Score
from hf_datasel.spec import outside_names

__all__ = ["columns_read"]


def columns_read(selector: Selector, columns: Sequence[str]) -> list[str]:
    """Return which columns of scores a selector may read.

    These are the columns that its settings name, with what belongs to them, such as `contamination_match` to
    `contamination`, and the values of the scores among its settings. A class outside hf_datasel may read any column.

    Args:
        selector: The selector.
        columns: Names of the existing columns.
    """
    if outside_names(selector.spec()):
        return list(columns)
    names = _names(selector) - {""}
    return [column for column in columns if column in names or _belongs_to(column, names)]


def _belongs_to(column: str, names: set[str]) -> bool:
    return not column.endswith("_reason") and any(column.startswith(f"{name}_") for name in names)


def _names(value: Any) -> set[str]:
    """Return all strings in settings, and the columns with the values and lists of the scores that are computed."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return _names([*value, *value.values()])
    if isinstance(value, list | tuple):
        return {name for item in value for name in _names(item)}
    if isinstance(value, Score):
        lists = {f"{value.column_prefix}{name}" for name, dtype in value.columns().items() if pa.types.is_list(dtype)}
        return {value.value_column, *lists, *(value.names if isinstance(value, Mix) else ())}
    if not isinstance(value, Selector | RowFilter):
        return set()
    names = _names([getattr(value, field.name) for field in fields(value)]) | _names(list(value.scores()))
    return names | ({value.value_column} if isinstance(value, RankedSelector) else set())
