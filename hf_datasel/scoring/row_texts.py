"""Columns computed from the text of each row alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from hf_datasel.errors import FormatError
from hf_datasel.formats import Part, Row
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.tokens import TokenRows

__all__ = ["measure_texts"]


def measure_texts(score: Score, rows: TokenRows, part: Part, measure: Callable[[str, Row], Sequence[Any]]) -> Columns:
    """Compute the columns of a score from the text of each row.

    Args:
        score: The score; the last of its columns is that of the reasons.
        rows: The rows. Those with only a text column are read with `part="both"`.
        part: Part of the rows that is read.
        measure: Returns the values of the other columns from the part's text, which is not blank, and the row.

    Returns:
        The columns; null, or "" in columns of text, with the reason, for rows that cannot be used or whose part is
        blank.

    Raises:
        FormatError: The rows have only a text column, and `part` is not `"both"`.
    """
    if rows.pool.format == "text":
        if part != "both":
            advice = " Pass part='both'." if "part" in score.settings() else ""
            raise FormatError(f"Rows with only a text column have no {part} for {type(score).__name__}.{advice}")
        part = "prompt"  # the text of such a row, without an empty line for the response
    columns = score.columns()
    nothing = ["" if pa.types.is_string(dtype) else None for dtype in [*columns.values()][:-1]]
    values: list[Sequence[Any]] = []
    for row in rows.pool.rows(rows.indices):
        text = "" if row.reason else row.text(part)
        if text.strip():
            values.append([*measure(text, row), ""])
        else:
            values.append([*nothing, row.reason or f"empty_{part}"])
    by_column = zip(*values, strict=True) if values else [()] * len(columns)
    return {name: pa.array(column, dtype) for (name, dtype), column in zip(columns.items(), by_column, strict=True)}
