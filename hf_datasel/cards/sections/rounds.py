"""Table of the rounds, what each of them was trained on, and how a score changed over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_datasel.analysis import plots
from hf_datasel.analysis.overlap import jaccard_of_rows
from hf_datasel.analysis.plots.theme import format_number, shortened
from hf_datasel.analysis.summaries import Distribution, Spread, distribution_by_round, threshold_of
from hf_datasel.cards.round_wording import counted, describe_rounds, is_growing, round_label
from hf_datasel.cards.score_values import is_skewed, numeric_scores, rounded, scored_and_selected
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.hub.markdown import table
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts, RoundFacts

__all__ = ["SECTION", "RoundsFacts"]

_MAX_LISTED = 6  # rounds that the alternative text lists one by one


class RoundsFacts(TypedDict):
    """How a score and the selected rows changed over the rounds.

    Attributes:
        distribution: The first score over the rounds, in groups `"round 0: scored"`, `"round 0: selected"`,
            `"round 1: scored"` ...; None unless several rounds have it.
        overlap: Jaccard similarity of each round but the first with the previous one; empty for rounds that add rows.
    """

    distribution: Distribution | None
    overlap: list[float]


def _compute(source: CardSource) -> RoundsFacts:
    overlap: list[float] = []
    if not is_growing(source.rounds):
        rows = [selection.indices for selection in source.selections]
        overlap = np.diagonal(jaccard_of_rows(rows), offset=1).tolist() if len(rows) > 1 else []
    columns = numeric_scores(source.last)
    return {
        "distribution": _distribution(source.selections, columns[0]) if columns else None,
        "overlap": [rounded(value) for value in overlap],
    }


def _distribution(selections: Sequence[Selection], column: str) -> Distribution | None:
    rounds = [
        (selection.provenance["round"], *scored_and_selected(selection, column))
        for selection in selections
        if column in numeric_scores(selection)
    ]
    if len(rounds) < 2:
        return None
    is_log = is_skewed(np.concatenate([scored for _, scored, _ in rounds]))
    threshold = threshold_of([selection.provenance for selection in selections], column)
    return distribution_by_round(column, rounds, log=is_log, threshold=threshold)


def _text(facts: Facts, own: RoundsFacts) -> str:
    rounds, sentences = facts["rounds"], describe_rounds(facts["rounds"])
    if len(rounds) < 2:
        return sentences
    scores, growing = list(rounds[-1]["means"]), is_growing(rounds)
    head = ["round", "scored", "selected", "excluded", *(f"mean {name}" for name in scores)]
    rows = []
    for index, part in enumerate(rounds):
        means = [f"{part['means'][name][1]:.4g}" if name in part["means"] else "" for name in scores]
        compared = _new_rows(part) if growing else _overlap(own, index)
        rows.append(
            (round_label(part), f"{part['rows_scored']:,}", f"{part['rows']:,}", _excluded(part), *means, compared)
        )
    rendered = table([*head, "new rows" if growing else "Jaccard with previous round"], rows)
    return f"{rendered}\n\n{sentences}" if sentences else rendered


def _new_rows(part: RoundFacts) -> str:
    return "" if part["step"] is None else f"{part['rows'] - part['step']['selected_before']:,}"


def _overlap(own: RoundsFacts, index: int) -> str:
    return f"{own['overlap'][index - 1]:.3f}" if 0 < index <= len(own["overlap"]) else ""


def _excluded(part: RoundFacts) -> str:
    return f"{sum(part['exclusions'].values()) + sum(part['not_eligible'].values()):,}"


def _figures(facts: Facts, own: RoundsFacts) -> list[FigureInfo]:
    summary = own["distribution"]
    if summary is None:
        return []
    groups = "all scored rows and of selected rows" if _is_constant(summary) else "scored and selected rows"
    title = f"{shortened(summary['column'], 24)} of {groups} by round"
    return [FigureInfo(f"rounds {summary['column']}", title, _alt(summary), partial(plots.draw_rounds, summary))]


def _alt(summary: Distribution) -> str:
    groups = summary["groups"]
    pairs = list(zip(groups[::2], groups[1::2], strict=True))
    listed = pairs if len(pairs) <= _MAX_LISTED else [pairs[0], pairs[-1]]
    which = "" if len(pairs) <= _MAX_LISTED else ", of which the first and the last are described"
    constant = ", whose scores are the same in all rounds," if _is_constant(summary) else ""
    return (
        f"Histograms of {shortened(summary['column'])} in {len(pairs)} rounds{which}: scored rows{constant} on the "
        f"left, selected rows on the right. {'; '.join(_describe_round(*pair) for pair in listed)}."
    )


def _is_constant(summary: Distribution) -> bool:
    """Return whether the rows have the same scores in every round, because they were scored once."""
    first, *others = summary["groups"][::2]
    return bool(others) and all({**group, "name": ""} == {**first, "name": ""} for group in others)


def _describe_round(scored: Spread, selected: Spread) -> str:
    return (
        f"{shortened(scored['name'].rpartition(':')[0])}: median {format_number(scored['quantiles'][2])} of "
        f"{counted(scored['rows'], 'scored row')}, {format_number(selected['quantiles'][2])} of "
        f"{counted(selected['rows'], 'selected row')}"
    )


SECTION = Section("rounds", "Selected rows", _text, _figures, _compute, RoundsFacts)
