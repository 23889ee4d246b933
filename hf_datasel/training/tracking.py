"""Tables of selected rows, and alerts about rounds that hardly differ, for trackers that have them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.scoring.numbers import is_identifier

if TYPE_CHECKING:
    from hf_datasel.rounds.context import RoundContext
    from hf_datasel.selection import Selection

__all__ = ["alert_of_same_rows", "log_selected_rows", "selected_rows_table"]

_TRACKERS = ("trackio", "wandb")
"""Trackers with tables and alerts."""
_SAME_ROWS = 0.95
"""Jaccard similarity with the rows of the previous round from which on an alert is sent."""
_MAX_LENGTH = 2000
"""Characters of a prompt or response in a table."""


def log_selected_rows(report_to: Sequence[str], context: RoundContext, selection: Selection, count: int) -> None:
    """Send the best and the lowest ranked selected rows of a round to trackers that take tables.

    Args:
        report_to: Names of the trackers of the run, as in `TrainingArguments`.
        context: The context of the round.
        selection: Its selection.
        count: Number of rows at each end; 0 sends none.
    """
    trackers = _active(report_to) if count else []
    if trackers:
        rows = selected_rows_table(context, selection, count)
        for tracker in trackers:
            tracker.log({"selected_rows": tracker.Table(dataframe=rows)})


def alert_of_same_rows(report_to: Sequence[str], index: int, overlap: float | None) -> None:
    """Send an alert to trackers that have them, if a round selects nearly the rows of the one before.

    Args:
        report_to: Names of the trackers of the run.
        index: Index of the round.
        overlap: Jaccard similarity with the rows of the previous round; None where they are not compared.
    """
    if overlap is None or overlap < _SAME_ROWS:
        return
    for tracker in _active(report_to):
        tracker.alert(
            title=f"Round {index} selects the rows of round {index - 1}",
            text=f"The Jaccard similarity of the rows of the two rounds is {overlap:.2f}. Selecting again costs "
            'forward passes and changes little: consider reselection_strategy="no", or fewer rounds.',
        )


def selected_rows_table(context: RoundContext, selection: Selection, count: int) -> Any:
    """Return a data frame of the best and the lowest ranked selected rows: rank (0 is the best), number, text, scores.

    Args:
        context: The context of the round.
        selection: Its selection.
        count: Number of rows at each end.
    """
    from datasets import Dataset

    ranks = np.arange(len(selection))
    if len(selection) > 2 * count:
        ranks = np.concatenate([ranks[:count], ranks[-count:]])
    rows = selection.indices[ranks]
    table: dict[str, Any] = {"round": [context.index] * len(rows), "rank": ranks, "row": rows}
    if context.record.pool.format != "tokenized":
        for part in ("prompt", "response"):
            table[part] = [text[:_MAX_LENGTH] for text in context.texts(part, rows)]
    for name in selection.score_columns:
        dtype = selection.table.schema.field(name).type
        if (pa.types.is_floating(dtype) or pa.types.is_integer(dtype)) and not is_identifier(name):
            table[name] = selection.scores(name)[rows]
    return Dataset.from_dict(table).to_pandas()


def _active(report_to: Sequence[str]) -> list[Any]:
    """Return the modules of the trackers with tables that this run reports to."""
    modules = [importlib.import_module(name) for name in _TRACKERS if name in report_to and name in sys.modules]
    return [module for module in modules if module.__name__ != "wandb" or module.run is not None]
