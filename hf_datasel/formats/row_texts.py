"""Text of rows for people to read, also of rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hf_datasel.formats.pool import Pool

__all__ = ["row_texts"]


def row_texts(pool: Pool, rows: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield prompt and response of rows, for people to read.

    Of a conversation with more than two turns, the prompt is all turns before the last response, each with its role.
    Of a row that cannot be used or is tokenized, it is the columns as JSON, and the response is empty.

    Args:
        pool: The pool.
        rows: Row numbers, int64.
    """
    stored = pool.dataset.select_columns(pool.columns)
    if not pool.has_text:
        yield from ((_as_json(row), "") for row in stored.select(rows))
        return
    for number, row in zip(rows, pool.rows(rows), strict=True):
        if row.reason:
            yield _as_json(stored[int(number)]), ""
        elif pool.has_responses and len(row.turns) > 2:
            last = row.response_turns[-1]
            yield "\n".join(f"{turn.role}: {turn.content}" for turn in row.turns[:last]), row.turns[last].content
        elif pool.has_responses:
            yield row.prompt, row.response
        else:
            yield row.text("both").strip("\n"), ""


def _as_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)
