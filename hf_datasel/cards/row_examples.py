"""Examples of rows for pages: what was selected first and last, what would have followed, and what was excluded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import regex

from hf_datasel.analysis.plots.theme import format_number
from hf_datasel.cards.sections.exclusions import short_reason
from hf_datasel.formats import Pool
from hf_datasel.formats.row_texts import row_texts
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection import Selection
from hf_datasel.selection.outcomes import Outcomes, descending_ranks, exclusion_bound, row_outcomes

__all__ = [
    "RowExample",
    "RowExamples",
    "border_sentence",
    "examples_of",
    "examples_table",
    "rows_of_one",
    "selected_only",
    "shown_scores",
]

_FIRST, _LAST, _FOLLOWING, _REASONS = 3, 2, 2, 3
_SCORES = 2
_STORED, _SHOWN = 400, 160
"""Characters of a text in the facts, and in a cell of a table."""
_MAX_FILTERED = 200_000
"""Rows up to which filters run again to tell which rows they excluded, as for near-duplicates on cards."""
_MARKS = regex.compile(r"(\p{M}{4})\p{M}+")
"""Run of combining marks, which would be drawn over the rows below."""


class RowExample(TypedDict):
    """A row of a page.

    Attributes:
        row: Row number.
        rank: Rank among the selected rows, 0 for the best; None for a row that was not selected.
        reason: Why the row was excluded; empty if it was not.
        values: Its scores; None where it has none.
        ranks: Number of rows with a higher score, plus one; None without a score.
        prompt: Its prompt, cut.
        response: Its response, cut.
    """

    row: int
    rank: int | None
    reason: str
    values: list[float | None]
    ranks: list[int | None]
    prompt: str
    response: str


class RowExamples(TypedDict):
    """Rows of a page.

    Attributes:
        scores: Names of the scores.
        ranked_by: Score whose order is that of the selection; empty if there is none.
        selected: Number of selected rows.
        rows: The rows: those selected first and last, those that would have followed, and excluded ones.
    """

    scores: list[str]
    ranked_by: str
    selected: int
    rows: list[RowExample]


def examples_of(selection: Selection, pool: Pool, *, only_selected: bool) -> RowExamples | None:
    """Return examples of the rows of a selection; None if they have no text, or none was selected.

    Args:
        selection: The selection.
        pool: Rows that it was made from.
        only_selected: Whether other rows than the selected ones are left out, as on pages that are published.
    """
    indices = selection.indices
    if not pool.has_text or not len(indices):
        return None
    rows = [*indices[:_FIRST], *indices[_FIRST:][-_LAST:]]
    outcomes = row_outcomes(selection, pool, run_filters=not only_selected and len(pool) <= _MAX_FILTERED)
    if not only_selected:
        rows += [*outcomes.following[:_FOLLOWING], *_excluded(outcomes)]
    scores = shown_scores(selection, outcomes.ranked_by)
    return {
        "scores": scores,
        "ranked_by": outcomes.ranked_by or "",
        "selected": len(indices),
        "rows": _examples(selection, pool, [int(row) for row in rows], scores, outcomes),
    }


def shown_scores(selection: Selection, first: str | None = None) -> list[str]:
    """Return the scores of a selection that a table has room for.

    Args:
        selection: The selection.
        first: Score that comes first.
    """
    names = [name for name in selection.score_columns if not is_identifier(name)]
    return sorted(names, key=lambda name: name != first)[:_SCORES]


def rows_of_one(selections: Mapping[str, Selection], pool: Pool) -> Markdown:
    """Format rows that only one of several selections has, those that it ranks highest; empty without any or text.

    Args:
        selections: Selections by name.
        pool: Rows that they were made from.
    """
    if not pool.has_text or len(selections) < 2:
        return Markdown("")
    parts = ["Rows that one selection alone has, those that it ranks highest. Texts are cut."]
    for name, selection in selections.items():
        others = np.concatenate([other.indices for label, other in selections.items() if label != name])
        alone = selection.indices[~np.isin(selection.indices, others)]
        if len(alone):
            scores = shown_scores(selection)
            examples = _examples(selection, pool, alone[:_FIRST].tolist(), scores, None)
            parts.append(f"**Only {text(name)}** has {len(alone):,} of its {len(selection.indices):,} rows:")
            parts.append(examples_table(examples, scores, len(selection.indices)))
    return Markdown("\n\n".join(parts) if len(parts) > 1 else "")


def selected_only(examples: RowExamples | None) -> RowExamples | None:
    """Return examples without the rows that were not selected, as on pages that are published."""
    if examples is None:
        return None
    return {**examples, "rows": [row for row in examples["rows"] if row["rank"] is not None]}


def examples_table(rows: Sequence[RowExample], scores: Sequence[str], selected: int) -> Markdown:
    """Format rows as a table; their text is escaped and cut.

    Args:
        rows: The rows.
        scores: Names of their scores.
        selected: Number of selected rows.
    """
    return table(["", "prompt", "response"], [_cells(row, scores, selected) for row in rows])


def _excluded(outcomes: Outcomes) -> list[int]:
    """Return the first row of each of the most frequent reasons."""
    counts = Counter(outcomes.codes[outcomes.codes >= 0].tolist())
    return [int(np.flatnonzero(outcomes.codes == code)[0]) for code, _ in counts.most_common(_REASONS)]


def _examples(
    selection: Selection, pool: Pool, rows: Sequence[int], scores: Sequence[str], outcomes: Outcomes | None
) -> list[RowExample]:
    rank_of = {int(row): rank for rank, row in enumerate(selection.indices)}
    columns = [selection.scores(name) for name in scores]
    orders = [
        descending_ranks(values, exclusion_bound(selection, name))
        for name, values in zip(scores, columns, strict=True)
    ]
    examples = list[RowExample]()
    for row, (prompt, response) in zip(rows, row_texts(pool, np.array(rows, dtype=np.int64)), strict=True):
        position = -1 if outcomes is None else int(outcomes.codes[row])
        examples.append(
            {
                "row": row,
                "rank": rank_of.get(row),
                "reason": "" if outcomes is None or position < 0 else outcomes.reasons[position],
                "values": [float(values[row]) if np.isfinite(values[row]) else None for values in columns],
                "ranks": [int(ranks[row]) or None for ranks in orders],
                "prompt": prompt[:_STORED],
                "response": response[:_STORED],
            }
        )
    return examples


def _cells(row: RowExample, scores: Sequence[str], selected: int) -> list[Markdown]:
    outcome = f"rank {row['rank'] + 1:,} of {selected:,}" if row["rank"] is not None else "not selected"
    lines = [short_reason(row["reason"]) if row["reason"] else outcome, f"row {row['row']:,}"]
    for name, value, rank in zip(scores, row["values"], row["ranks"], strict=True):
        if value is not None:
            lines.append(f"{name} {format_number(value)}{'' if rank is None else f' (rank {rank:,})'}")
    facts = Markdown("<br>".join(text(line) for line in lines))
    return [facts, *(text(_MARKS.sub(r"\1", row[part]), limit=_SHOWN) for part in ("prompt", "response"))]


def border_sentence(examples: RowExamples) -> str:
    """Return what the rows of a table are."""
    parts = ["The selected rows with the first and the last ranks"]
    others = [row for row in examples["rows"] if row["rank"] is None]
    if any(not row["reason"] for row in others):
        parts.append(f"those that {code(examples['ranked_by'])} would have selected next")
    if any(row["reason"] for row in others):
        parts.append("an excluded row for each of the most frequent reasons")
    *first, last = parts
    return f"{', '.join(first)}{' and ' if first else ''}{last}. Texts are cut."
