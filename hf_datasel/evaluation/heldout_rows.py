"""Held-out rows: their groups, and the rows that are not evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import pc
from hf_datasel.errors import ColumnError, EvaluationError, did_you_mean, reason_counts
from hf_datasel.formats import Pool

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Excluded", "HeldoutRows", "read_rows", "rows_in_pool"]

Excluded = Mapping[str, Sequence[int] | np.ndarray]
"""Row numbers that are not evaluated, by reason."""

IN_POOL = "in_training_pool"
_NAMED_ROWS = 3
"""Number of row numbers that an error names."""


def rows_in_pool(dataset: Dataset | Pool, training_pool: Dataset | Pool) -> np.ndarray:
    """Return the rows of a dataset that are in a training pool too, whatever their row formats.

    Rows are equal if all their turns are, and what a chat template receives besides; see `Pool.row_ids`. Malformed
    rows are not compared.

    Args:
        dataset: Held-out rows, or their `Pool`, which may rename columns.
        training_pool: Rows that models train on, or their `Pool`.

    Returns:
        Row numbers of `dataset`, ascending, int64.

    Raises:
        FormatError: The rows are in no supported format.

    >>> from datasets import Dataset
    >>> heldout = Dataset.from_dict({"prompt": ["Is it slow?", "Is it hot?"], "completion": ["No.", "Yes."]})
    >>> rows_in_pool(heldout, Dataset.from_dict({"instruction": ["Is it hot?"], "output": ["Yes."]}))
    array([1])
    """
    heldout, trained = (rows if isinstance(rows, Pool) else Pool(rows) for rows in (dataset, training_pool))
    ids = {row_id.tobytes() for row_id in trained.row_ids}
    is_in_pool = np.array([row_id.tobytes() in ids for row_id in heldout.row_ids], dtype=bool)
    return np.flatnonzero(is_in_pool & (heldout.reasons == ""))


@dataclass(frozen=True)
class HeldoutRows:
    """Held-out rows, their groups, and why some of them are not evaluated.

    Args:
        pool: The rows.
        groups: Group of each row, str of shape (rows,).
        reasons: Reason why a row is not evaluated, object of shape (rows,); empty for the others.
        messages: What the first row with a reason shows about it, by reason; see `TokenRows`.
    """

    pool: Pool
    groups: np.ndarray
    reasons: np.ndarray
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> np.ndarray:
        """Row numbers without a reason, int64."""
        return np.flatnonzero(self.reasons == "")

    def check_usable(self) -> None:
        """Raise an error if no row can be evaluated.

        Raises:
            EvaluationError: Names the reasons with their counts.
        """
        if not len(self.usable):
            names, counts = np.unique(self.reasons.astype(np.str_), return_counts=True)
            by_reason = dict(zip(names.tolist(), counts.tolist(), strict=True))
            unusable = sorted(self.pool.details.items(), reverse=True)  # so that the first row of a reason remains
            details = {str(self.pool.reasons[row]): detail for row, detail in unusable if detail}
            raise EvaluationError(
                f"None of the {len(self.pool):,} held-out rows can be evaluated: "
                f"{reason_counts(by_reason, {**details, **self.messages})}."
            )


def read_rows(
    dataset: Dataset,
    columns: Mapping[str, str] | None,
    group_by: str | None,
    training_pool: Dataset | Pool | None,
    excluded: Excluded | None,
) -> HeldoutRows:
    """Read held-out rows.

    Args:
        dataset: Rows in a supported format.
        columns: Names of the columns of a row format, as in `hf_datasel.score`.
        group_by: Name of the column with the group of each row.
        training_pool: Rows that models train on: none of them may be held out, unless it is excluded.
        excluded: Row numbers that are not evaluated, by reason.

    Raises:
        EvaluationError: There are no rows, some are in the training pool, or `excluded` names rows that do not exist.
        ColumnError: The column of the groups does not exist, or is a list or a mapping.
        FormatError: The rows are in no supported format.
    """
    pool = Pool(dataset, columns)
    if not len(pool):
        raise EvaluationError("The held-out dataset is empty.")
    groups = _groups(pool, group_by)
    reasons = pool.reasons.astype(object)
    for reason, numbers in (excluded or {}).items():
        if not isinstance(reason, str) or not reason:
            raise EvaluationError(f"excluded has the reason {reason!r}: it has to be a word that is not empty.")
        named = np.asarray(numbers)
        if named.size and (named.dtype.kind not in "iu" or named.min() < 0 or named.max() >= len(pool)):
            raise EvaluationError(
                f"excluded[{reason!r}] has to hold row numbers of the held-out rows, ints from 0 to {len(pool) - 1:,}."
            )
        named = named.astype(np.int64)
        reasons[named[reasons[named] == ""]] = reason
    if training_pool is not None:
        shared = rows_in_pool(pool, training_pool)
        shared = shared[reasons[shared] == ""]
        if len(shared):
            first = ", ".join(map(str, shared[:_NAMED_ROWS])) + (", ..." if len(shared) > _NAMED_ROWS else "")
            raise EvaluationError(
                f"{len(shared):,} of {len(pool):,} held-out rows are in the training pool (rows {first}), so that "
                f"their values say nothing about new rows. Pass excluded={{{IN_POOL!r}: rows_in_pool(dataset, "
                "training_pool)} to exclude and count them."
            )
    rows = HeldoutRows(pool, groups, reasons)
    rows.check_usable()
    return rows


def _groups(pool: Pool, group_by: str | None) -> np.ndarray:
    if group_by is None:
        return np.full(len(pool), "", dtype=np.str_)
    names = pool.dataset.column_names
    if group_by not in names:
        raise ColumnError(
            f"group_by={group_by!r}: the held-out rows have no such column, but {names}."
            f"{did_you_mean(group_by, names)}"
        )
    column = pool.dataset.select_columns([group_by]).with_format("arrow")[:].column(group_by)
    if pa.types.is_nested(column.type):
        raise ColumnError(f"group_by={group_by!r}: the column holds lists or mappings, and has to hold names.")
    return np.array(pc.fill_null(column.cast(pa.string()), "").to_pylist(), dtype=np.str_)
