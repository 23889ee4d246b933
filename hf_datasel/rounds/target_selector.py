"""Base classes of selectors that compare rows with the rows of a target task."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from hf_datasel.errors import ColumnError, FormatError, check_option
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, column_name, distinct_scores
from hf_datasel.rounds.views import without_groups
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.target_rows import TargetRows, TargetSettings
from hf_datasel.scoring.vector_files import row_blocks
from hf_datasel.strategies.round_robin import round_robin

if TYPE_CHECKING:
    from hf_datasel.scores import Similarity
    from hf_datasel.scoring.base import Score

__all__ = ["Copies", "SimilaritySelector", "TargetSelector", "check_copies", "count_copies"]

logger = logging.getLogger(__name__)

Copies: TypeAlias = Literal["exclude", "keep"]
Lists: TypeAlias = Callable[[np.ndarray], Iterator[np.ndarray]]
"""Function of row numbers that yields the similarities of these rows with each target row or subtask, NaN for none."""

_REASON = "copies of target rows"
_UNKNOWN = (
    "a column does not tell which rows these are. To exclude them, pass Similarity(validation=...) with the settings "
    "of the column in place of its name"
)
_BLOCK_NUMBERS = 1 << 23
_NAMED_ROWS = 5


@dataclass(frozen=True)
class TargetSelector(Selector):
    """Selector of the rows that are most similar to the rows of a target task, in turn.

    Every target row, or with several subtasks every subtask, names the row that is most similar to it and that it has
    not named yet, until there are enough. A row that is named again is not selected again, and the turn passes. The
    similarity with a subtask is the highest one with any of its rows.

    Args:
        copies: What happens with rows that repeat a target row (see `TargetRows.copies`), which would put a test that
            uses these target rows into the training data: `"exclude"` or `"keep"`. They are counted and named in a
            warning either way.
    """

    copies: Copies = field(default="exclude", kw_only=True)

    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_option(f"{type(self).__name__}(copies={self.copies!r})", self.copies, get_args(Copies))

    @abstractmethod
    def target(self) -> TargetRows | None:
        """Return the target rows; None if they are not known."""

    @abstractmethod
    def compare(self, context: RoundContext) -> tuple[np.ndarray, Lists]:
        """Compare the rows with the target rows.

        Args:
            context: Context of the round.

        Returns:
            Row numbers that can be selected, int64, and a function that yields the similarities of some of them.
        """

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which they are named."""
        target = self.target()
        rows, lists = self.compare(context)
        rows = check_copies(context, target, rows, self.copies)
        budget = min(context.budget, len(rows))
        selected: np.ndarray = rows[
            Processes.current().run_on_main_process(lambda: round_robin(lists(rows), len(rows), budget))
        ]
        return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the target row that the row repeats, if it repeats one."""
        target = self.target()
        if target is None or not _have_text(context, target):
            return []
        match = target.copies(context.record.pool, np.array([row]))[0]
        if match < 0:
            return []
        outcome = "so it is never selected" if self.copies == "exclude" else "and copies='keep' selects such rows"
        return [f"Its prompt repeats row {match} of the target rows, {outcome}."]


@dataclass(frozen=True)
class SimilaritySelector(TargetSelector):
    """Selector by the similarities that a score computes, or that columns of the dataset have."""

    @property
    @abstractmethod
    def similarity(self) -> str | Similarity:
        """The score, or the column with it."""

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that the selector computes."""
        source = self._by_target
        return distinct_scores([*self.later_scores(), *([] if isinstance(source, str) else [source])])

    @property
    def _by_target(self) -> str | Similarity:
        source = self.similarity
        return source if isinstance(source, str) else replace(source, by_target=True)

    def compare(self, context: RoundContext) -> tuple[np.ndarray, Lists]:
        """Return the rows with a similarity, and a function that yields those with each target row or subtask.

        Raises:
            ColumnError: The column of the similarities with each target row is missing, or is not that of the column
                with the highest ones.
        """
        source, name = self._by_target, column_name(self.similarity)
        by_target = f"{name}_by_target"
        if isinstance(source, str) or context.reads_column(source, by_target):
            highest, similarities = context.column(name), context.vectors(by_target)
            _check_highest(context, name, highest, similarities)
        else:
            columns = context.score(source)
            highest, similarities = columns[name].astype(np.float64), columns[by_target]
        rows = context.candidates(highest, np.arange(len(highest)), name=name)

        def lists(some: np.ndarray) -> Iterator[np.ndarray]:
            step = max(_BLOCK_NUMBERS // max(len(some), 1), 1)
            for start in range(0, similarities.shape[1], step):
                block = similarities[:, start : start + step][some]
                yield from np.ascontiguousarray(block.T)

        return rows, lists

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return the target row that is most similar to the row, and whether it repeats one."""
        match, cosine = self._match(context, row)
        if not match:
            return []
        sentence = f"Of the target rows, {match} is most similar to it, with a cosine of {cosine:.4g}."
        return [sentence, *super().explain(context, selected, row)]

    def _match(self, context: RoundContext, row: int) -> tuple[str | None, float]:
        """Return which target row is most similar to a row, None or "" without any, and the cosine."""
        score, name = self.similarity, column_name(self.similarity)
        match = f"{name}_match"
        if isinstance(score, str) or context.reads_column(replace(score, by_target=True), f"{name}_by_target"):
            return context.read_columns([match])[row][match], float(context.column(name)[row])
        columns = context.score(score)
        return columns[match][row], float(columns[name][row])


def _check_highest(context: RoundContext, name: str, highest: np.ndarray, similarities: np.ndarray) -> None:
    """Raise if a column is not that of the highest of the similarities in the column beside it."""
    for block in row_blocks(len(highest), similarities.shape[1] * similarities.itemsize):
        values, maxima = highest[block].astype(np.float32), similarities[block].max(axis=1, initial=-np.inf)
        differs = np.flatnonzero(~np.isnan(values) & (maxima != values))
        if len(differs):
            row, value, maximum = block.start + differs[0], values[differs[0]], maxima[differs[0]]
            raise ColumnError(
                f"{context.record.caller} reads columns {name!r} and '{name}_by_target', and they are not of one run "
                f"of Similarity: in row {context.row_number(row):,} they have {value:.4g} and, as the highest, "
                f"{maximum:.4g}. Score the dataset again."
            )


def check_copies(context: RoundContext, target: TargetRows | None, rows: np.ndarray, copies: Copies) -> np.ndarray:
    """Count the rows that repeat a target row, name them in a warning, and return the rows that can be selected.

    The number of target rows, their digest and the number of copies among all eligible rows (None if they cannot be
    found) are recorded in `context.record.notes["target"]`. The warning is logged once for each copy, by the main
    process.

    Args:
        context: Context of the round.
        target: The target rows; None if they are not known, so that copies cannot be found.
        rows: Row numbers, int64.
        copies: `"exclude"` returns the other rows, `"keep"` all rows.
    """
    record, whole = context.record, without_groups(context)
    known = {"rows": None, "sha256": None} if target is None else {"rows": len(target.pool), "sha256": target.digest}
    note = {**known, "copies": None, "kept": copies == "keep"}
    if target is None or not _have_text(context, target):
        if record.notes.get("target") != note:
            reason = "there is no text to compare" if target is not None else _UNKNOWN
            _warn(context, f"rows that repeat target rows are not found, because {reason}.")
        record.notes["target"] = note
        return rows
    found = np.flatnonzero(whole.eligible & (whole.target_copies(target) >= 0))
    numbers = {whole.row_number(row) for row in found.tolist()}
    new = sorted(numbers - record.target_copies)
    record.target_copies |= numbers
    record.notes["target"] = note | {"copies": len(record.target_copies)}
    if new:
        _warn(context, _describe(new, copies))
    if copies == "keep":
        return rows
    is_copy: np.ndarray = context.target_copies(target)[rows] >= 0
    context.exclude(_REASON, rows[is_copy])
    others: np.ndarray = rows[~is_copy]
    return others


def count_copies(context: RoundContext, settings: TargetSettings) -> None:
    """Count the eligible rows that repeat a target row, as `check_copies` does, for a selector that keeps them.

    Target rows that cannot be read are no error here, because the selector does not need them: a warning is logged.

    Args:
        context: Context of the round.
        settings: Settings that name the target rows.
    """
    try:
        check_copies(context, settings.target(), np.flatnonzero(context.eligible), "keep")
    except (FormatError, ColumnError) as error:
        _warn(context, f"rows that repeat target rows are not counted. {error}")


def _describe(copies: list[int], outcome: Copies) -> str:
    numbers = ", ".join(map(str, copies[:_NAMED_ROWS])) + (", ..." if len(copies) > _NAMED_ROWS else "")
    who, they = (
        ("the prompt of 1 row repeats a target row", "it")
        if len(copies) == 1
        else (f"the prompts of {len(copies):,} rows repeat target rows", "they")
    )
    advice = (
        f"With copies='exclude' {they} cannot be selected, because a test on the target would be trained on; set it "
        "to 'keep' otherwise."
        if outcome == "exclude"
        else f"Since {they} can be selected, do not test on the target."
    )
    return f"{who} ({numbers}). {advice}"


def _warn(context: RoundContext, message: str) -> None:
    if Processes.current().is_main_process:
        logger.warning("%s: %s", context.record.caller, message)


def _have_text(context: RoundContext, target: TargetRows) -> bool:
    return context.record.pool.has_text and target.pool.has_text
