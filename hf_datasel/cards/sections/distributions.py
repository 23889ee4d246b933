"""Histograms of each score over the scored rows and over the selected rows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.analysis.summaries import Distribution, distribution, threshold_of
from hf_datasel.cards.score_values import is_skewed, is_whole_pool, numeric_scores, scored_and_selected
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.cards.spread_wording import describe_spreads
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> list[Distribution]:
    """Compute the distributions of the last round: of all scores, or of the first one if there are several rounds."""
    columns = numeric_scores(source.last)
    return [_distribution(source.last, column) for column in columns[: 1 if len(source.selections) > 1 else None]]


def _distribution(selection: Selection, column: str) -> Distribution:
    scored, selected = scored_and_selected(selection, column)
    groups = {"pool" if is_whole_pool(len(scored), selection) else "scored": scored, "selected": selected}
    return distribution(column, groups, log=is_skewed(scored), threshold=threshold_of([selection.provenance], column))


def _text(facts: Facts, own: list[Distribution]) -> str:
    return "" if own else "No scores were computed for this selection."


def _figures(facts: Facts, own: list[Distribution]) -> list[FigureInfo]:
    return [
        FigureInfo(
            name=f"scores {scores['column']}",
            title=f"{shortened(scores['column'], 24)} of scored and selected rows",
            alt=(
                f"Histograms of {shortened(scores['column'])}, each as shares of its own rows. "
                f"{describe_spreads(scores)}."
            ),
            draw=partial(plots.draw_scores, scores),
        )
        for scores in own
    ]


SECTION = Section("distributions", "Selected rows", _text, _figures, _compute, list[Distribution])
