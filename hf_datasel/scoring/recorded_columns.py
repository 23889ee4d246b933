"""Scores that a dataset has in its columns, as the provenance of the columns tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.column_provenance import other_settings, provenance_in
from hf_datasel.scoring.engine import Engine, no_model

__all__ = ["RecordedColumns"]


class RecordedColumns:
    """Columns of a dataset that have the values of scores, to read where there is no model that computes them.

    Args:
        engine: Engine over the dataset, without a model.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._specs: dict[str, dict[str, Any] | None] = {}

    def holds(self, score: Score, column: str) -> bool:
        """Return whether a column is recorded to be the output of a score that names no model.

        Args:
            score: The score.
            column: Column that it writes.
        """
        spec = self._spec(column) if _lacks_model(score) else None
        return spec is not None and not other_settings(score, spec)

    def compute(self, score: Score, rows: np.ndarray | None = None) -> Columns:
        """Compute the columns of a score, as `Engine.compute` does.

        Raises:
            ScoreError: As `Engine.compute` does. If a model is missing, the message says why the dataset's column of
                the same name is not read.
        """
        if _lacks_model(score) and (reason := self._why_not_read(score)):
            raise no_model(score, reason)
        return self._engine.compute(score, rows)

    def _why_not_read(self, score: Score) -> str:
        """Return why columns are not the output of a score, as a clause; empty if the dataset has none of its name."""
        existing = self._engine.pool.column_names
        if score.value_column not in existing:
            return ""
        dtypes = {f"{score.column_prefix}{name}": dtype for name, dtype in score.columns().items()}
        names = [name for name, dtype in dtypes.items() if dtype != pa.string()]
        names.sort(key=lambda name: not pa.types.is_nested(dtypes[name]))  # lists tell more settings than the value
        for name in names:
            if name not in existing:
                continue
            spec = self._spec(name)
            if spec is None:
                return f"how column {name!r} was computed is not recorded"
            if others := other_settings(score, spec):
                return f"column {name!r} was computed {'; '.join(others)}"
        missing = [name for name in names if name not in existing]
        return f"it has column {score.value_column!r}, but not {', '.join(map(repr, missing))}" if missing else ""

    def _spec(self, column: str) -> dict[str, Any] | None:
        if column not in self._engine.pool.column_names:
            return None
        if column not in self._specs:
            self._specs[column] = provenance_in(self._engine.pool.dataset, column)
        return self._specs[column]


def _lacks_model(score: Score) -> bool:
    return score.needs_tokenizer and getattr(score, "model", "") is None
