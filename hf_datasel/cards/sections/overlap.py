"""Overlap of the rounds and of baselines of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.grids import join_names
from hf_datasel.analysis.plots.theme import format_jaccard, shortened
from hf_datasel.analysis.summaries import Overlaps, Shortlist, overlaps
from hf_datasel.cards.round_wording import is_growing, warm_up_rounds
from hf_datasel.cards.score_values import is_whole_pool, numeric_scores
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]

_MAX_LISTED = 12  # pairs that the alternative text lists one by one


def _compute(source: CardSource) -> Overlaps | None:
    """Compute the overlap of the rounds and the baselines; if rounds add rows, only the last round counts."""
    if len(source.selections) == 1 or is_growing(source.rounds):
        rows_by_name = {"selected": source.last.indices}
    else:
        warm_ups = warm_up_rounds(source.rounds)
        rows_by_name = {
            "warm-up" if part in warm_ups else f"round {part['round']}": selection.indices
            for selection, part in zip(source.selections, source.rounds, strict=True)
        }
    shortlist = _shortlist(source.last, rows_by_name)
    rows_by_name |= source.baselines
    return overlaps(rows_by_name, source.parent["rows"], shortlist) if len(rows_by_name) > 1 else None


def _shortlist(last: Selection, rows_by_name: Mapping[str, np.ndarray]) -> tuple[list[str], int] | None:
    """Return the rounds whose rows were all scored for the last round, and how many rows that were; usually None."""
    columns = numeric_scores(last)
    scored = np.all([np.isfinite(last.scores(column)) for column in columns], axis=0)
    if not columns or is_whole_pool(int(scored.sum()), last):
        return None
    names = [name for name, rows in rows_by_name.items() if scored[rows].all()]
    return (names, int(scored.sum())) if len(names) > 1 else None


def _text(facts: Facts, own: Overlaps | None) -> str:
    if own is None or len(own["names"]) < 2 or not facts["rounds"][-1].get("weights"):
        return ""
    return "The overlap compares rows, not their weights: training on the same rows without weights is another run."


def _figures(facts: Facts, own: Overlaps | None) -> list[FigureInfo]:
    if own is None or len(own["names"]) < 2:
        return []
    return [FigureInfo("overlap", "Overlap of the selections", _alt(own), partial(plots.draw_overlaps, own))]


def _alt(summary: Overlaps) -> str:
    names, matrix = [shortened(name) for name in summary["names"]], summary["matrix"]
    pairs = [
        (matrix[row][column], f"{names[row]} and {names[column]} {matrix[row][column]:.2f}")
        for row in range(len(names))
        for column in range(row)
    ]
    if len(pairs) <= _MAX_LISTED:
        values = "; ".join(description for _, description in pairs)
    else:
        values = f"Lowest: {min(pairs)[1]}; highest: {max(pairs)[1]}"
    return (
        f"Matrix of the Jaccard similarity of {len(names)} selections: rows in both over rows in either. Two random "
        f"selections from the pool have {format_jaccard(summary['chance'])}{_shortlist_chance(summary['shortlist'])}. "
        f"{values}."
    )


def _shortlist_chance(shortlist: Shortlist | None) -> str:
    if shortlist is None:
        return ""
    rounds = shortened(join_names(shortlist["names"]), 60)
    chance = format_jaccard(shortlist["chance"])
    return f", and from the {shortlist['rows']:,} rows that {rounds} were selected from {chance}"


SECTION = Section("overlap", "Selected rows", _text, _figures, _compute, Overlaps | None)
