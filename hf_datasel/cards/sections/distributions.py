"""Histograms of each score over the scored rows and over the selected rows, or numbers of rows for few values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.spreads import few_values, integer_bins
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.analysis.summaries import Distribution, Spread, distribution, threshold_of
from hf_datasel.cards.round_wording import joined
from hf_datasel.cards.score_values import is_skewed, is_whole_pool, numeric_scores, scored_and_selected
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.cards.spread_wording import describe_spreads
from hf_datasel.hub.markdown import code
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
    if not own:
        return "No scores were computed for this selection."
    return " ".join(_describe_few(scores, values) for scores in own if (values := few_values(scores)))


def _describe_few(scores: Distribution, values: Mapping[float, int]) -> str:
    """Return how many rows of each group have each of few values; values are those of `few_values`."""
    spreads = scores["groups"]
    is_exact = bool(integer_bins(scores)) or all(group["quantiles"][0] == group["quantiles"][-1] for group in spreads)
    groups = "; ".join(_count_values(group, values) for group in spreads)
    return f"{code(scores['column'])} is {'' if is_exact else 'close to '}{groups}."


def _count_values(group: Spread, values: Mapping[float, int]) -> str:
    counts = joined([f"{value:g} for {group['counts'][position]:,}" for value, position in values.items()])
    rows = "rows of the pool" if group["name"] == "pool" else f"{group['name']} rows"
    return f"{counts} of the {group['rows']:,} {rows}"


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
        if not few_values(scores)
    ]


SECTION = Section("distributions", "Selected rows", _text, _figures, _compute, list[Distribution])
