"""Record of a round: what its selection depends on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.formats import Pool

__all__ = ["WEIGHT_COLUMN", "RoundRecord"]

WEIGHT_COLUMN = "selection_weight"
"""Column of the weights of selected rows, in selections and in published rows."""


@dataclass
class RoundRecord:
    """What a round leaves behind for the selection's provenance, the trainer's log and `explain`.

    `RoundContext` fills it in; a selector adds to `notes` and `logs` what only the selector knows.

    Args:
        pool: Rows that the round selects from, read as instruction rows.
        seed: Random seed of the run.
        caller: Name of the selector or filter that is running, for messages and progress bars.
        scored: Column name -> (row numbers, values) of every number that the selection is based on, computed in this
            round or read from a column. Vectors are not recorded.
        score_specs: Specs of the scores that were computed.
        columns_used: Columns of the dataset that the selection relied on.
        columns_verified: Columns among `columns_used` that are known to come from a score, whose spec is among
            `score_specs`.
        columns_reused: Columns of `scored` that an earlier round computed.
        exclusions: Number of eligible rows that were excluded, by reason.
        notes: Further JSON values that the selection depends on and no setting names, such as the build of a library.
        logs: Further numbers for the trainer's log of this round.
        weights: Weight of each row, float32 of shape (rows,), 1 where none was set; None if no row has one.
        target_copies: Rows that repeat a target row, by their numbers in the whole pool.
        is_trial: Whether the round only finds out how many rows fit into a budget of tokens: rows that get weights are
            selected again, and their weights are those of that selection.
    """

    pool: Pool
    seed: int = 0
    caller: str = "The selector"
    scored: dict[str, tuple[np.ndarray, pa.Array]] = field(default_factory=dict)
    score_specs: list[dict[str, Any]] = field(default_factory=list)
    columns_used: list[str] = field(default_factory=list)
    columns_verified: list[str] = field(default_factory=list)
    columns_reused: set[str] = field(default_factory=set)
    exclusions: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    weights: np.ndarray | None = None
    target_copies: set[int] = field(default_factory=set)
    is_trial: bool = False
    _exclusion_codes: np.ndarray = field(init=False, repr=False)
    """Why each row is excluded, int32 of shape (rows,): position of the reason in `exclusions`, from 1; 0 for none."""

    def __post_init__(self) -> None:
        self._exclusion_codes = np.zeros(len(self.pool), dtype=np.int32)

    def add_spec(self, spec: dict[str, Any]) -> None:
        """Record the spec of a score that was computed, once."""
        if spec not in self.score_specs:
            self.score_specs.append(spec)

    def add_column(self, name: str, verified: bool = False) -> None:
        """Record, once, that the selection relies on a column of the dataset.

        Args:
            name: Name of the column.
            verified: Whether the spec of the score that computed it is recorded too.
        """
        if name not in self.columns_used:
            self.columns_used.append(name)
        if verified and name not in self.columns_verified:
            self.columns_verified.append(name)

    def add_values(self, name: str, rows: np.ndarray, values: pa.Array) -> None:
        """Record values of some rows, besides those of other rows that are recorded under the same name.

        Args:
            name: Name of the column.
            rows: Row numbers, int64.
            values: One value for each of `rows`.
        """
        if name in self.scored:
            earlier_rows, earlier_values = self.scored[name]
            others = ~np.isin(earlier_rows, rows)
            if others.any():
                rows = np.concatenate([earlier_rows[others], rows])
                values = pa.concat_arrays([earlier_values.filter(pa.array(others)), values])
        self.scored[name] = rows, values

    def set_weights(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Record the weights of some rows, besides those of other rows that are recorded already.

        Args:
            rows: Row numbers, int64.
            weights: Weight of each of them, from 0 to 1.
        """
        if self.weights is None:
            self.weights = np.ones(len(self.pool), dtype=np.float32)
        self.weights[rows] = weights

    def weights_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the weights of rows, float32 of shape (rows,); None if no row has one, or there are no rows.

        Args:
            rows: Row numbers, int64.
        """
        return None if self.weights is None or not len(rows) else self.weights[rows]

    def include(self, other: RoundRecord) -> None:
        """Add the scores and columns that another round over the same pool relied on."""
        for spec in other.score_specs:
            self.add_spec(spec)
        for name in other.columns_used:
            self.add_column(name, verified=name in other.columns_verified)

    def exclude(self, reason: str, rows: np.ndarray) -> None:
        """Count rows as excluded, each only for the first reason.

        Args:
            reason: Reason, such as `"without ifd"`.
            rows: Row numbers, each once.
        """
        new = rows[self._exclusion_codes[rows] == 0]
        if len(new):
            self.exclusions[reason] += len(new)
            self._exclusion_codes[new] = 1 + list(self.exclusions).index(reason)

    def excluded_rows(self) -> dict[str, np.ndarray]:
        """Return the row numbers (int64, ascending) that are excluded for each reason."""
        return {
            reason: np.flatnonzero(self._exclusion_codes == code) for code, reason in enumerate(self.exclusions, 1)
        }

    def for_group(self, pool: Pool) -> RoundRecord:
        """Return the record of a group of rows: specs, columns, notes and copies are shared with it.

        Args:
            pool: Rows of the group.
        """
        return RoundRecord(
            pool,
            self.seed,
            score_specs=self.score_specs,
            columns_used=self.columns_used,
            columns_verified=self.columns_verified,
            notes=self.notes,
            target_copies=self.target_copies,
            is_trial=self.is_trial,
        )

    def for_filtered(self, pool: Pool) -> RoundRecord:
        """Return the record of the rows that filters keep: as `for_group`, and logs and reused columns are shared too.

        Args:
            pool: Rows that are kept.
        """
        return replace(self.for_group(pool), columns_reused=self.columns_reused, logs=self.logs)
