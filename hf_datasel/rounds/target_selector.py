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
from hf_datasel.rounds.selector import Selector, distinct_scores
from hf_datasel.rounds.views import without_groups
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.target_rows import TargetRows, TargetSettings
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
    def target(self) -> TargetRows:
        """Return the target rows."""

    @abstractmethod
    def compare(self, context: RoundContext, target: TargetRows) -> tuple[np.ndarray, Lists]:
        """Compare the rows with the target rows.

        Args:
            context: Context of the round.
            target: The target rows.

        Returns:
            Row numbers that can be selected, int64, and a function that yields the similarities of some of them.
        """

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which they are named."""
        target = self.target()
        rows, lists = self.compare(context, target)
        rows = check_copies(context, target, rows, self.copies)
        budget = min(context.budget, len(rows))
        selected: np.ndarray = rows[
            Processes.current().run_on_main_process(lambda: round_robin(lists(rows), len(rows), budget))
        ]
        return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the target row that the row repeats, if it repeats one."""
        target = self.target()
        match = target.copies(context.record.pool, np.array([row]))[0] if _have_text(context, target) else -1
        if match < 0:
            return []
        outcome = "so it is never selected" if self.copies == "exclude" else "and copies='keep' selects such rows"
        return [f"Its prompt repeats row {match} of the target rows, {outcome}."]


@dataclass(frozen=True)
class SimilaritySelector(TargetSelector):
    """Selector by the similarities that a score computes."""

    @property
    @abstractmethod
    def similarity(self) -> Similarity:
        """The score."""

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that the selector computes."""
        return distinct_scores([*self.later_scores(), self._by_target])

    @property
    def _by_target(self) -> Similarity:
        return replace(self.similarity, by_target=True)

    def compare(self, context: RoundContext, target: TargetRows) -> tuple[np.ndarray, Lists]:
        """Return the rows with a similarity, and a function that yields those with each target row or subtask."""
        score = self._by_target
        columns = context.score(score)
        name, similarities = score.value_column, columns[f"{score.column_prefix}similarity_by_target"]
        rows = context.candidates(columns[name].astype(np.float64), np.arange(len(columns[name])), name=name)

        def lists(some: np.ndarray) -> Iterator[np.ndarray]:
            step = max(_BLOCK_NUMBERS // max(len(some), 1), 1)
            for start in range(0, similarities.shape[1], step):
                block = similarities[:, start : start + step][some]
                yield from np.ascontiguousarray(block.T)

        return rows, lists

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return the target row that is most similar to the row, and whether it repeats one."""
        score = self.similarity
        columns = context.score(score)
        match = columns[f"{score.column_prefix}similarity_match"][row]
        if not match:
            return []
        cosine = float(columns[score.value_column][row])
        sentence = f"Of the target rows, {match} is most similar to it, with a cosine of {cosine:.4g}."
        return [sentence, *super().explain(context, selected, row)]


def check_copies(context: RoundContext, target: TargetRows, rows: np.ndarray, copies: Copies) -> np.ndarray:
    """Count the rows that repeat a target row, name them in a warning, and return the rows that can be selected.

    The number of target rows, their digest and the number of copies among all eligible rows (None without text) are
    recorded in `context.record.notes["target"]`. The warning is logged once for each copy, by the main process.

    Args:
        context: Context of the round.
        target: The target rows.
        rows: Row numbers, int64.
        copies: `"exclude"` returns the other rows, `"keep"` all rows.
    """
    record, whole = context.record, without_groups(context)
    note = {"rows": len(target.pool), "sha256": target.digest, "copies": None, "kept": copies == "keep"}
    if not _have_text(context, target):
        if record.notes.get("target") != note:
            _warn(context, "rows that repeat target rows are not found, because there is no text to compare.")
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
